//! The pool of connections, and the migrations that a Manager applies before it does anything else.
//!
//! Reads and single statements take a connection ([`Store::acquire`]); statements that belong together are run in a
//! transaction ([`Store::transaction`], or [`Store::write`] for a request of the REST API).

use crate::{
    connection::Connection,
    error::{StoreError, failed},
    idempotency::ResponseRecord,
    outbox_listener::OutboxListener,
    transaction::Tx,
    write_tx::{WriteContext, WriteTx},
};
use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{str::FromStr as _, time::Duration};

/// Longest wait for an answer to a readiness check: the one who checks wants a decision within its own timeout.
const PING_MAX: Duration = Duration::from_secs(1);

/// Default limit of connections of one Manager; Postgres' own default is 100 for all clients together.
pub const CONNECTIONS_MAX: u32 = 16;
/// Longest wait for a connection; after it the request fails with "the database does not answer".
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// The migrations of this release, in order.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations");

/// Postgres, as the Manager uses it.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
}

impl Store {
    /// Connects lazily: the first use opens the first connection.
    ///
    pub fn open(url: &str, connections_max: u32) -> Result<Self, StoreError> {
        // sqlx reads the URL of any database as one of Postgres.
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            let cause = "it must begin with postgres:// or postgresql://";
            return Err(failed("read the database URL")(sqlx::Error::Configuration(cause.into())));
        }
        let options = PgConnectOptions::from_str(url)
            .map_err(failed("read the database URL"))?
            .application_name("kubenova-manager");
        let pool = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options);
        Ok(Self { pool })
    }

    /// Makes one connection outside the pool, to report why none can be made ([`StoreError::Connect`]): the pool itself only
    /// says that it waited too long.
    pub async fn connect(&self) -> Result<(), StoreError> {
        let options = self.pool.connect_options();
        let connected = tokio::time::timeout(ACQUIRE_TIMEOUT, PgConnection::connect_with(&options)).await;
        let connected = connected.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())));
        let connection = connected.map_err(|source| StoreError::Connect {
            address: format!("{}:{}", options.get_host(), options.get_port()),
            database: options.get_database().unwrap_or(options.get_username()).to_owned(),
            source,
        })?;
        // Closed as a courtesy: the server logs a connection that is dropped.
        let _closed = connection.close().await;
        Ok(())
    }

    /// Applies the migrations that are missing; several Managers at once wait for each other. Fails when the database
    /// was migrated by a newer release.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        MIGRATIONS.run(&self.pool).await.map_err(StoreError::Migrate)
    }

    /// A connection, for reads and for single statements.
    pub async fn acquire(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        self.pool.acquire().await.map_err(failed("get a connection"))
    }

    /// Runs `work` in a transaction; `attempt` says in error messages what it is for ("open a session").
    ///
    /// When it succeeds, what it wrote is committed. When it fails, nothing of it stays and its locks are free before the
    /// error is returned: whoever corrects a refused request and sends it again at once must not meet its own locks.
    pub async fn transaction<T, E: From<StoreError>>(
        &self,
        attempt: &'static str,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut tx = self.begin(attempt).await?;
        match work(&mut tx).await {
            Ok(done) => {
                tx.commit().await?;
                Ok(done)
            }
            Err(error) => {
                tx.roll_back().await;
                Err(error)
            }
        }
    }

    /// Runs `work` in the transaction of a request that changes something, and stores its response under the request's
    /// idempotency key; a dry run is rolled back. Fails with [`StoreError::IdempotencyKeyInUse`] when a request with the
    /// same key is being handled or was answered.
    pub async fn write<T, E: From<StoreError>>(
        &self,
        context: WriteContext,
        work: impl AsyncFnOnce(&mut WriteTx) -> Result<(T, ResponseRecord), E>,
    ) -> Result<T, E> {
        let mut tx = WriteTx::new(self.begin("apply a request").await?, context);
        match carry_out(&mut tx, work).await {
            Ok(done) => {
                tx.end().await?;
                Ok(done)
            }
            Err(error) => {
                tx.roll_back().await;
                Err(error)
            }
        }
    }

    pub(crate) async fn begin(&self, attempt: &'static str) -> Result<Tx, StoreError> {
        Tx::begin(&self.pool, attempt).await
    }

    /// A connection that learns of new commands.
    pub async fn listen(&self) -> Result<OutboxListener, StoreError> {
        OutboxListener::connect(&self.pool).await
    }

    /// Fails when Postgres does not answer within [`PING_MAX`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        let answer = sqlx::query!("select 1 as one").fetch_one(&self.pool);
        tokio::time::timeout(PING_MAX, answer)
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut))
            .map_err(failed("ping the database"))?;
        Ok(())
    }
}

async fn carry_out<T, E: From<StoreError>>(
    tx: &mut WriteTx,
    work: impl AsyncFnOnce(&mut WriteTx) -> Result<(T, ResponseRecord), E>,
) -> Result<T, E> {
    tx.lock_key().await?;
    let (done, response) = work(tx).await?;
    tx.store_response(&response).await?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    #[tokio::test]
    async fn migrations_that_are_applied_are_not_applied_again() {
        let fixture = Fixture::new().await;
        fixture.store.migrate().await.unwrap();
        fixture.store.ping().await.unwrap();
        fixture.execute("insert into _sqlx_migrations values (9999, 'newer', now(), true, '', 0)").await;
        let error = fixture.store.migrate().await.unwrap_err();
        assert!(matches!(error, StoreError::Migrate(_)), "{error:?}");
    }

    #[tokio::test]
    async fn a_database_that_does_not_answer_is_a_transient_error() {
        let folder = std::env::temp_dir().join("kubenova-no-postgres");
        let store = Store::open(&format!("postgres://u@localhost/x?host={}", folder.display()), 1).unwrap();
        let unreachable = store.connect().await.unwrap_err();
        assert!(matches!(&unreachable, StoreError::Connect { database, .. } if database == "x"), "{unreachable:?}");
        let error = store.ping().await.unwrap_err();
        assert!(error.is_transient() && error.refusal().is_none(), "{error:?}");
        assert!(Store::open("mysql://localhost", 1).is_err());
    }
}
