//! The pool of connections, and the migrations that a Manager applies before it does anything else.

use crate::{
    error::{StoreError, failed},
    idempotency,
    write_tx::{WriteContext, WriteTx},
};
use sqlx::{
    PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{str::FromStr as _, time::Duration};

/// Longest wait for a sign of life.
const PING_MAX: Duration = Duration::from_secs(1);

/// Most connections of one Manager when nobody says otherwise: Postgres' own default limit is 100 for all.
pub const CONNECTIONS_MAX: u32 = 16;
/// Longest wait for a connection; then the caller is told that the database does not answer.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// The migrations of this release, in order.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations");

/// What all functions of the store work on: a connection, or the one of an open transaction.
pub type Connection = sqlx::PgConnection;

/// Postgres, as the Manager uses it.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
}

impl Store {
    /// Connects lazily: the first use opens the first connection.
    ///
    /// # Errors
    /// When the URL is not one of Postgres.
    pub fn open(url: &str, connections_max: u32) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url)
            .map_err(failed("read the database URL"))?
            .application_name("kubenova-manager");
        let pool = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options);
        Ok(Self { pool })
    }

    /// Uses a pool that exists.
    #[must_use]
    pub const fn from_pool(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Applies the migrations that are missing; several Managers at once wait for each other.
    ///
    /// # Errors
    /// When Postgres does not answer or knows migrations that this release does not.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        MIGRATIONS.run(&self.pool).await.map_err(StoreError::Migrate)
    }

    /// The pool, for `LISTEN` and for transactions of periodic work.
    #[must_use]
    pub const fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A connection to read with.
    ///
    /// # Errors
    /// When there is none within five seconds.
    pub async fn read(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        self.pool.acquire().await.map_err(failed("get a connection"))
    }

    /// A plain transaction, for work that no person asked for.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn transaction(&self) -> Result<sqlx::Transaction<'static, Postgres>, StoreError> {
        self.pool.begin().await.map_err(failed("begin a transaction"))
    }

    /// The transaction of an accepted request.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn write(&self, context: WriteContext) -> Result<WriteTx, StoreError> {
        let mut transaction = self.transaction().await?;
        if let Some(claim) = &context.claim {
            idempotency::begin(&mut transaction, &context.caller.subject, claim, context.now).await?;
        }
        Ok(WriteTx::new(transaction, context))
    }

    /// Asks Postgres for a sign of life.
    ///
    /// # Errors
    /// When there is none within a second: whoever asks decides on the answer, not on its absence.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let asked = sqlx::query!("select 1 as one").fetch_one(&self.pool);
        tokio::time::timeout(PING_MAX, asked)
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut))
            .map_err(failed("ask the database for a sign of life"))?;
        Ok(())
    }
}
