//! Keys of this installation: public halves in the clear, private halves sealed. Nothing here can open one.
//!
//! Before it: `kubenova-manager init`. After it: `trust::keyring` opens them.

use crate::error::{StoreError, failed, one_row};
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
pub async fn all(connection: &mut PgConnection) -> Result<Vec<KeyRow>, StoreError> {
    sqlx::query_as!(KeyRow, "select name, public, kek_id, sealed from keys order by name")
        .fetch_all(connection)
        .await
        .map_err(failed("read keys"))
}

/// Adds keys; a key that exists stays as it is.
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
        .map_err(failed("add a key"))?;
    }
    Ok(())
}

/// Deletes keys, and adds others or puts them in the place of those of the same names.
pub async fn replace(
    connection: &mut PgConnection,
    remove: &[String],
    put: &[KeyRow],
    now: Timestamp,
) -> Result<(), StoreError> {
    let names: Vec<String> = remove.iter().chain(put.iter().map(|key| &key.name)).cloned().collect();
    sqlx::query!("delete from keys where name = any($1)", &names)
        .execute(&mut *connection)
        .await
        .map_err(failed("delete former keys"))?;
    insert(connection, put, now).await
}

/// When this key was made.
pub async fn created_at(connection: &mut PgConnection, name: &str) -> Result<Option<Timestamp>, StoreError> {
    let at = sqlx::query_scalar!("select created_at from keys where name = $1", name)
        .fetch_optional(connection)
        .await
        .map_err(failed("find when a key was made"))?;
    Ok(at.map(jiff_sqlx::Timestamp::to_jiff))
}

/// Names and public halves.
pub async fn public(connection: &mut PgConnection) -> Result<Vec<(String, String)>, StoreError> {
    let rows = sqlx::query!("select name, public from keys").fetch_all(connection).await;
    let rows = rows.map_err(failed("read the public halves of keys"))?;
    Ok(rows.into_iter().map(|row| (row.name, row.public)).collect())
}

/// Seals a key that exists with another key-encryption key.
pub async fn replace_sealed(
    connection: &mut PgConnection,
    name: &str,
    kek_id: &str,
    sealed: &[u8],
) -> Result<(), StoreError> {
    let done = sqlx::query!("update keys set kek_id = $2, sealed = $3 where name = $1", name, kek_id, sealed)
        .execute(connection)
        .await
        .map_err(failed("seal a key again"))?;
    one_row(done.rows_affected(), "keys", &name)
}

/// Locks the table until the transaction ends: of two runs of `init` the second finds the keys of the first.
pub async fn lock(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!("lock table keys in exclusive mode").execute(connection).await.map_err(failed("lock the keys"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, at};

    #[tokio::test]
    async fn a_key_that_exists_stays_as_it_is_until_it_is_replaced() {
        let fixture = Fixture::new().await;
        let key = |name: &str, kek: &str| KeyRow {
            name: name.into(),
            public: "p".into(),
            kek_id: kek.into(),
            sealed: vec![1, 2, 3],
        };
        let mut tx = fixture.begin().await;
        lock(&mut tx).await.unwrap();
        insert(&mut tx, &[key("ca", "first")], at(0)).await.unwrap();
        insert(&mut tx, &[key("ca", "second"), key("nkey", "second")], at(1)).await.unwrap();
        assert_eq!(all(&mut tx).await.unwrap(), [key("ca", "first"), key("nkey", "second")]);

        replace(&mut tx, &["nkey".to_owned()], &[key("ca", "third"), key("new", "third")], at(2)).await.unwrap();
        assert_eq!(all(&mut tx).await.unwrap(), [key("ca", "third"), key("new", "third")]);
        assert_eq!(created_at(&mut tx, "ca").await.unwrap(), Some(at(2)));
        assert_eq!(created_at(&mut tx, "nkey").await.unwrap(), None);
    }
}
