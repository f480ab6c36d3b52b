//! What can go wrong with the store, and the one place where a database constraint becomes a refusal.

use kubenova_core::refusal::{Reason, Refusal};

/// A failed use of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres did not answer, or said no.
    #[error("could not {attempt}")]
    Query {
        /// What was being attempted.
        attempt: &'static str,
        /// Why not.
        #[source]
        source: sqlx::Error,
    },
    /// The migrations could not be applied.
    #[error("could not apply migrations: is this release older than the database?")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A row holds what no writer writes.
    #[error(
        "row {id} of table {table} has an impossible {column}: the database was edited by hand or restored in part"
    )]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row's key.
        id: String,
    },
    /// A document that would not fit where it must be carried.
    #[error("document takes {bytes} bytes on its way to the cluster, the most is {most}")]
    TooLarge {
        /// As it would be carried.
        bytes: usize,
        /// The most.
        most: usize,
    },
    /// Another request with the same Idempotency-Key committed first.
    #[error("idempotency key was used by a request that committed meanwhile")]
    IdempotencyKeyInUse,
}

/// For `map_err`: names the failed attempt.
pub fn failed(attempt: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| StoreError::Query { attempt, source }
}

/// A row that holds what no writer writes.
pub fn inconsistent(table: &'static str, column: &'static str, id: &impl ToString) -> StoreError {
    StoreError::Inconsistent { table, column, id: id.to_string() }
}

impl StoreError {
    /// The refusal when the cause is something the caller did: a broken named constraint.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::IdempotencyKeyInUse => Some(Refusal::new(
                Reason::IdempotencyKeyInUse,
                "a request with this Idempotency-Key was accepted meanwhile",
            )),
            Self::TooLarge { .. } => Some(Refusal::new(
                Reason::BodyTooLarge,
                format!(
                    "{self}; quotes and backslashes count several times, because the document travels as text in text"
                ),
            )),
            Self::Query { source: sqlx::Error::Database(cause), .. } => on_constraint(cause.constraint()?),
            _ => None,
        }
    }

    /// True when these very values can never be stored: a NUL in a text, a number out of range, a broken constraint.
    #[must_use]
    pub fn is_unstorable(&self) -> bool {
        let Self::Query { source: sqlx::Error::Database(cause), .. } = self else { return false };
        // Cardinality, data exception, integrity constraint, program limit (PostgreSQL, appendix A).
        cause.code().is_some_and(|code| ["21", "22", "23", "54"].iter().any(|class| code.starts_with(class)))
    }

    /// True when trying again may help: no connection, a deadlock, a serialization failure, a server that is starting.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Query { source, .. } => match source {
                sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => true,
                sqlx::Error::Database(cause) => cause
                    .code()
                    .is_some_and(|code| code.starts_with("40") || code.starts_with("57P") || code.starts_with("53")),
                _ => false,
            },
            _ => false,
        }
    }
}

fn on_constraint(name: &str) -> Option<Refusal> {
    let (reason, field, detail) = match name {
        "clusters_name_key" => (Reason::NameTaken, "/name", "a cluster with this name exists"),
        "tenants_name_key" => (Reason::NameTaken, "/name", "a tenant with this name exists"),
        "applications_name_key" => (Reason::NameTaken, "/name", "an application with this name exists in this tenant"),
        "placements_pkey" => (Reason::PlacementExists, "/cluster", "the tenant is on this cluster already"),
        _ => return None,
    };
    Some(Refusal::at(reason, field, detail))
}
