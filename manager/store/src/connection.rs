//! What all functions of the store work on.

/// A connection of the pool, or that of an open transaction.
pub type Connection = sqlx::PgConnection;
