//! A transaction that knows what it is for, so that a failed begin or commit says so.
//!
//! It stays inside the store: outside one is run by [`crate::pool::Store::transaction`], which ends it whatever happens.

use crate::{connection::Connection, error::StoreError};
use sqlx::{PgPool, Postgres, pool::PoolConnection};
use std::ops::{Deref, DerefMut};

/// An open transaction, usable wherever a connection is. One that is dropped closes its connection, so that the server rolls
/// it back: a statement may have been under way, and the server gone without a word.
#[derive(Debug)]
pub(crate) struct Tx {
    connection: PoolConnection<Postgres>,
    attempt: &'static str,
    ended: bool,
}

impl Tx {
    pub(crate) async fn begin(pool: &PgPool, attempt: &'static str) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Transaction { step: "begin", attempt, source };
        let connection = pool.acquire().await.map_err(failed)?;
        let mut tx = Self { connection, attempt, ended: false };
        sqlx::raw_sql("begin").execute(&mut *tx.connection).await.map_err(failed)?;
        Ok(tx)
    }

    /// Makes everything written in it visible and durable.
    pub(crate) async fn commit(mut self) -> Result<(), StoreError> {
        let attempt = self.attempt;
        let committed = sqlx::raw_sql("commit").execute(&mut *self.connection).await;
        committed.map_err(|source| StoreError::Transaction { step: "commit", attempt, source })?;
        self.ended = true;
        Ok(())
    }

    /// Undoes everything written in it, and returns when its locks are free.
    pub(crate) async fn roll_back(mut self) {
        // Without its connection the server rolls the transaction back by itself; there is nothing to report that the
        // cause of the rollback does not say.
        self.ended = sqlx::raw_sql("rollback").execute(&mut *self.connection).await.is_ok();
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for Tx {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        connection::Connection,
        error::StoreError,
        fixture::{Fixture, tenant},
        tenants,
    };
    use kubenova_core::tenant::TenantRef;

    /// Takes a lock and fails when another transaction has it.
    async fn lock(connection: &mut Connection) -> Result<(), StoreError> {
        let held: bool = sqlx::query_scalar("select pg_try_advisory_xact_lock(7)").fetch_one(connection).await.unwrap();
        if held { Ok(()) } else { Err(StoreError::IdempotencyKeyInUse) }
    }

    #[tokio::test]
    async fn work_that_succeeds_stays_and_work_that_fails_does_not() {
        let fixture = Fixture::new().await;
        let insert = |number: u128, result: Result<(), StoreError>| {
            fixture.store.transaction("test", async move |connection| {
                tenants::insert(connection, &tenant(number)).await?;
                result
            })
        };
        let refused = insert(1, Err(StoreError::IdempotencyKeyInUse)).await;
        assert!(matches!(refused, Err(StoreError::IdempotencyKeyInUse)), "the error of the work: {refused:?}");
        insert(2, Ok(())).await.unwrap();
        let mut connection = fixture.store.acquire().await.unwrap();
        assert_eq!(tenants::find(&mut connection, &TenantRef::Id(tenant(1).id)).await.unwrap(), None);
        assert!(tenants::find(&mut connection, &TenantRef::Id(tenant(2).id)).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn the_locks_of_work_that_failed_are_free_when_its_error_is_returned() {
        let fixture = Fixture::new().await;
        for round in 0..200 {
            let failed: Result<(), StoreError> = fixture
                .store
                .transaction("test", async |connection| {
                    lock(connection).await?;
                    Err(StoreError::Missing { table: "none", id: String::new() })
                })
                .await;
            assert!(matches!(failed, Err(StoreError::Missing { .. })), "round {round}: {failed:?}");
        }
    }

    #[tokio::test]
    async fn a_failed_commit_says_what_it_was_for_and_may_be_tried_again() {
        let fixture = Fixture::new().await;
        let mut other = fixture.store.acquire().await.unwrap();
        let ended = fixture.store.transaction("open a session", async |connection| {
            let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(connection).await.unwrap();
            sqlx::query("select pg_terminate_backend($1)").bind(pid).execute(&mut *other).await.unwrap();
            Ok::<_, StoreError>(())
        });
        let error = ended.await.unwrap_err();
        assert_eq!(error.to_string(), "could not commit the transaction to open a session");
        assert!(matches!(error, StoreError::Transaction { .. }) && error.is_transient(), "{error:?}");
    }
}
