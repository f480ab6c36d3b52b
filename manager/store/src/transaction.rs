//! A transaction that knows what it is for, so that a failed begin or commit says so.

use crate::{connection::Connection, error::StoreError};
use sqlx::{PgPool, Postgres, Transaction};
use std::ops::{Deref, DerefMut};

/// An open transaction, usable wherever a connection is. Dropped without [`Tx::commit`] it is rolled back.
#[derive(Debug)]
pub struct Tx {
    transaction: Transaction<'static, Postgres>,
    attempt: &'static str,
}

impl Tx {
    pub(crate) async fn begin(pool: &PgPool, attempt: &'static str) -> Result<Self, StoreError> {
        let begun = pool.begin().await;
        let transaction = begun.map_err(|source| StoreError::Transaction { step: "begin", attempt, source })?;
        Ok(Self { transaction, attempt })
    }

    /// Makes everything written in it visible and durable.
    pub async fn commit(self) -> Result<(), StoreError> {
        let attempt = self.attempt;
        let committed = self.transaction.commit().await;
        committed.map_err(|source| StoreError::Transaction { step: "commit", attempt, source })
    }

    /// Undoes everything written in it and frees its locks before it returns; a dropped transaction holds its locks
    /// until the pool has taken its connection back, which a next request can overtake.
    pub async fn rollback(self) -> Result<(), StoreError> {
        let attempt = self.attempt;
        let undone = self.transaction.rollback().await;
        undone.map_err(|source| StoreError::Transaction { step: "roll back", attempt, source })
    }
}

impl Deref for Tx {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.transaction
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.transaction
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        error::StoreError,
        fixture::{Fixture, tenant},
        tenants,
    };
    use kubenova_core::tenant::TenantRef;

    #[tokio::test]
    async fn what_is_committed_stays_and_what_is_dropped_does_not() {
        let fixture = Fixture::new().await;
        let mut dropped = fixture.begin().await;
        tenants::insert(&mut dropped, &tenant(1)).await.unwrap();
        drop(dropped);
        let mut committed = fixture.begin().await;
        tenants::insert(&mut committed, &tenant(2)).await.unwrap();
        committed.commit().await.unwrap();
        let mut connection = fixture.store.acquire().await.unwrap();
        assert_eq!(tenants::find(&mut connection, &TenantRef::Id(tenant(1).id)).await.unwrap(), None);
        assert!(tenants::find(&mut connection, &TenantRef::Id(tenant(2).id)).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_failed_commit_says_what_it_was_for_and_may_be_tried_again() {
        let fixture = Fixture::new().await;
        let mut tx = fixture.store.begin("open a session").await.unwrap();
        let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *tx).await.unwrap();
        let mut connection = fixture.store.acquire().await.unwrap();
        sqlx::query("select pg_terminate_backend($1)").bind(pid).execute(&mut *connection).await.unwrap();
        let error = tx.commit().await.unwrap_err();
        assert_eq!(error.to_string(), "could not commit the transaction to open a session");
        assert!(matches!(error, StoreError::Transaction { .. }) && error.is_transient(), "{error:?}");
    }
}
