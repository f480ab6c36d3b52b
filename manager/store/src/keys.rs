//! Keys of this installation: public halves in the clear, private halves sealed. Nothing here can open one.
//!
//! Before it: `kubenova-manager init`. After it: `trust::keyring` opens them.

use crate::error::{StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Its name.
    pub name: String,
    /// What may be shown of it.
    pub public: String,
    /// Id of the key-encryption key that seals it.
    pub kek_id: String,
    /// The sealed private half.
    pub sealed: Vec<u8>,
}

/// Every key.
///
/// # Errors
/// When Postgres does not answer.
pub async fn all(connection: &mut PgConnection) -> Result<Vec<KeyRow>, StoreError> {
    sqlx::query_as!(KeyRow, "select name, public, kek_id, sealed from keys order by name")
        .fetch_all(connection)
        .await
        .map_err(failed("read keys"))
}

/// Keeps fresh keys; one that is there already stays as it is.
///
/// # Errors
/// When Postgres does not answer.
pub async fn insert(connection: &mut PgConnection, keys: &[KeyRow], now: Timestamp) -> Result<(), StoreError> {
    for key in keys {
        sqlx::query!(
            "insert into keys (name, public, kek_id, sealed, created_at) values ($1, $2, $3, $4, $5) on conflict do nothing",
            key.name,
            key.public,
            key.kek_id,
            key.sealed,
            now.to_sqlx(),
        )
        .execute(&mut *connection)
        .await
        .map_err(failed("keep a key"))?;
    }
    Ok(())
}

/// Keeps two starts of `init` from making different keys: held until the transaction ends.
///
/// # Errors
/// When Postgres does not answer.
pub async fn lock(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!("lock table keys in exclusive mode").execute(connection).await.map_err(failed("lock the keys"))?;
    Ok(())
}
