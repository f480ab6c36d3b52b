//! The pool of connections, and the migrations that a Manager applies before it does anything else.
//!
//! Reads and single statements take a connection ([`Store::acquire`]); statements that belong together are run in a
//! transaction ([`Store::transaction`], or [`Store::write`] for a request of the REST API).

use crate::{
    connection::Connection,
    error::{StoreError, failed},
    idempotency::ResponseRecord,
    migrations,
    outbox_listener::OutboxListener,
    transaction::Tx,
    write_tx::{WriteContext, WriteTx},
};
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{str::FromStr as _, time::Duration};

/// Longest wait for an answer to a readiness check: the one who checks wants a decision within its own timeout.
const PING_MAX: Duration = Duration::from_secs(1);

/// Default limit of connections of one Manager; Postgres' own default is 100 for all clients together.
pub const CONNECTIONS_MAX: u32 = 16;
/// Longest wait for the answer of a connection that comes back to the pool: one in the middle of a statement whose answer never
/// comes would never be free again.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a connection; after it the request fails with "the database does not answer".
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limits that Postgres keeps for every connection of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest wait for a row or table that another transaction holds. Transactions take milliseconds.
    pub lock: Duration,
    /// Longest time for a statement; a request of the REST API has as long.
    pub statement: Duration,
    /// Longest pause within a transaction: a Manager that stops in the middle of one holds its rows no longer.
    pub idle_in_transaction: Duration,
    /// Longest time for a whole transaction, kept by the Manager itself: a server that is gone without a word keeps none.
    pub transaction: Duration,
}

impl Limits {
    async fn set(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let limits = [
            ("lock_timeout", self.lock),
            ("statement_timeout", self.statement),
            ("idle_in_transaction_session_timeout", self.idle_in_transaction),
        ];
        let sets: Vec<String> =
            limits.iter().map(|(name, limit)| format!("set {name} = {}", limit.as_millis())).collect();
        sqlx::raw_sql(AssertSqlSafe(sets.join("; "))).execute(connection).await.map(drop)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lock: Duration::from_secs(5),
            statement: Duration::from_secs(30),
            idle_in_transaction: Duration::from_secs(10),
            transaction: Duration::from_secs(45),
        }
    }
}

/// Postgres, as the Manager uses it.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    limits: Limits,
    /// How to connect without limits: a migration takes as long as it takes.
    unlimited: PgConnectOptions,
}

impl Store {
    /// Connects lazily: the first use opens the first connection.
    pub fn open(url: &str, connections_max: u32) -> Result<Self, StoreError> {
        Self::open_with(url, connections_max, Limits::default())
    }

    /// The same with other limits.
    pub fn open_with(url: &str, connections_max: u32, limits: Limits) -> Result<Self, StoreError> {
        // sqlx reads the URL of any database as one of Postgres.
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            let cause = "it must begin with postgres:// or postgresql://";
            return Err(failed("read the database URL")(sqlx::Error::Configuration(cause.into())));
        }
        let unlimited = PgConnectOptions::from_str(url)
            .map_err(failed("read the database URL"))?
            .application_name("kubenova-manager");
        let pool = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // Not as startup options, which some poolers refuse.
            .after_connect(move |connection, _| Box::pin(async move { limits.set(connection).await }))
            .after_release(|connection, _| {
                Box::pin(async {
                    let answered = tokio::time::timeout(RELEASE_TIMEOUT, connection.ping()).await;
                    answered
                        .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
                        .map(|()| true)
                })
            })
            .connect_lazy_with(unlimited.clone());
        Ok(Self { pool, limits, unlimited })
    }

    /// Most connections at once.
    #[must_use]
    pub fn connections_max(&self) -> usize {
        usize::try_from(self.pool.options().get_max_connections()).unwrap_or(usize::MAX)
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
        let connected = tokio::time::timeout(ACQUIRE_TIMEOUT, PgConnection::connect_with(&self.unlimited)).await;
        let connected = connected.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())));
        let mut connection = connected.map_err(failed("connect to apply migrations"))?;
        let applied = migrations::MIGRATIONS.run(&mut connection).await.map_err(StoreError::Migrate);
        let _closed = connection.close().await;
        applied
    }

    /// Fails with [`StoreError::MigrationsDiffer`] unless the database has exactly the migrations of this release.
    pub async fn check_migrations(&self) -> Result<(), StoreError> {
        migrations::check(&mut *self.acquire().await?).await
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
        self.in_time(attempt, async {
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
        })
        .await
    }

    /// Gives a transaction up that takes too long. Its connection is closed, and so the server rolls it back.
    async fn in_time<T, E: From<StoreError>>(
        &self,
        attempt: &'static str,
        transaction: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let limit = self.limits.transaction;
        tokio::time::timeout(limit, transaction)
            .await
            .unwrap_or_else(|_| Err(StoreError::TooLong { attempt, limit }.into()))
    }

    /// Runs `work` in the transaction of a request that changes something, and stores its response under the request's
    /// idempotency key; a dry run is rolled back. Fails with [`StoreError::IdempotencyKeyInUse`] when a request with the
    /// same key is being handled or was answered.
    pub async fn write<T, E: From<StoreError>>(
        &self,
        context: WriteContext,
        work: impl AsyncFnOnce(&mut WriteTx) -> Result<(T, ResponseRecord), E>,
    ) -> Result<T, E> {
        self.in_time("apply a request", async {
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
        })
        .await
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
    use crate::{fixture::Fixture, line::Line};

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

    #[tokio::test]
    async fn a_row_that_another_transaction_holds_and_a_statement_without_end_are_not_waited_for() {
        let fixture = Fixture::new().await;
        fixture.clusters(1).await;
        let (lock, statement) = (Duration::from_millis(50), Duration::from_millis(200));
        let limits = Limits { lock, statement, ..Limits::default() };
        let store = Store::open_with(fixture.url(), 1, limits).unwrap();
        let mut holder = fixture.begin().await;
        sqlx::raw_sql("update clusters set name = 'held'").execute(&mut *holder).await.unwrap();
        let execute = async |sql: &'static str| {
            let mut connection = store.acquire().await.unwrap();
            sqlx::raw_sql(sql).execute(&mut *connection).await.map_err(failed("test")).unwrap_err()
        };
        let held = execute("update clusters set name = 'wanted'").await;
        assert!(held.is_contended() && held.is_transient(), "{held:?}");
        assert_eq!(held.refusal().unwrap().reason, kubenova_core::refusal::Reason::Contended);
        holder.roll_back().await;
        let endless = execute("select pg_sleep(600)").await;
        assert!(endless.is_transient() && endless.refusal().is_none(), "{endless:?}");
    }

    #[tokio::test]
    async fn a_server_that_is_gone_without_a_word_is_given_up_and_new_connections_are_made() {
        let fixture = Fixture::new().await;
        let line = Line::to(&fixture).await;
        let limits = Limits { transaction: Duration::from_millis(300), ..Limits::default() };
        let store = Store::open_with(&line.url, 1, limits).unwrap();
        let ask = async |connection: &mut Connection| {
            sqlx::query_scalar::<_, i32>("select 1").fetch_one(connection).await.map_err(failed("test"))
        };
        assert_eq!(store.transaction("test", ask).await.unwrap(), 1);
        let lost = store.transaction("ask a server that is gone", async |connection: &mut Connection| {
            line.lose();
            ask(connection).await
        });
        let error = lost.await.unwrap_err();
        assert!(matches!(error, StoreError::TooLong { .. }) && error.is_transient(), "{error:?}");
        assert_eq!(store.transaction("test", ask).await.unwrap(), 1, "the only place of the pool is free again");
        let undecided = store.transaction("lose the answer to a commit", async |connection: &mut Connection| {
            let answer = ask(connection).await;
            line.lose();
            answer
        });
        let error = undecided.await.unwrap_err();
        assert!(error.is_undecided() && error.is_transient(), "{error:?}");
    }
}
