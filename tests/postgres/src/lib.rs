//! A database of its own for every test, with all migrations applied.
//!
//! The first test of a process starts a PostgreSQL ([`server`]) and migrates a template; every test then gets a copy of
//! the template, which takes milliseconds. Guarantees: tests share no rows; no port is taken; the server and its folder
//! are gone when the test process is, even if it was killed. Works as root and as an ordinary user.
//!
//! This is a crate beside `tests/env` because that one brings the Kubernetes client and the sandbox, and the tests of the
//! store should compile without them.

mod server;

use server::{Job, Server};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::oneshot;

/// The server of this process, or why it could not be started: every test that wants a database reports the same cause.
static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();
static DATABASES: AtomicU64 = AtomicU64::new(0);

/// A database that is dropped with this value.
#[derive(Debug)]
pub struct Database {
    name: String,
    url: String,
    server: &'static Server,
}

impl Database {
    /// Makes a database with all migrations applied.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or could not be started; the message says what to do.
    pub async fn new() -> Self {
        // The first caller waits here for the server; a test has no other work to do meanwhile.
        let server = match SERVER.get_or_init(|| Server::start().map_err(|error| format!("{error:#}"))) {
            Ok(server) => server,
            Err(error) => panic!("no PostgreSQL for tests: {error}"),
        };
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let (reply, created) = oneshot::channel();
        server.send(Job::Create { name: name.clone(), reply });
        match created.await {
            Ok(Ok(())) => Self { url: server.url(&name), name, server },
            Ok(Err(error)) => panic!("could not create database {name:?}: {error:#}"),
            Err(_) => panic!("could not create database {name:?}: the thread that creates them ended"),
        }
    }

    /// Its URL, for `Store::open`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs a statement for a state that the product reads but nothing writes yet.
    ///
    /// # Panics
    /// When PostgreSQL refuses it.
    pub async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&mut self.connect().await).await.expect("the statement of a test");
    }

    /// The texts that a query finds, of one column.
    ///
    /// # Panics
    /// When PostgreSQL refuses it.
    pub async fn texts(&self, sql: &'static str) -> Vec<String> {
        sqlx::query_scalar(sql).fetch_all(&mut self.connect().await).await.expect("the query of a test")
    }

    /// Every row of every table as text, in a fixed order: the same before and after what must change nothing.
    ///
    /// # Panics
    /// When the database cannot be read.
    pub async fn rows(&self) -> Vec<String> {
        let mut connection = self.connect().await;
        let tables: Vec<String> =
            sqlx::query_scalar("select tablename::text from pg_tables where schemaname = 'public'")
                .fetch_all(&mut connection)
                .await
                .expect("the tables");
        let mut rows = Vec::new();
        for table in tables {
            let sql = AssertSqlSafe(format!("select '{table} ' || t::text from {table} t"));
            rows.extend(sqlx::query_scalar::<_, String>(sql).fetch_all(&mut connection).await.expect("its rows"));
        }
        rows.sort();
        rows
    }

    /// Resolves once a transaction of this database waits for a lock that another one holds.
    ///
    /// # Panics
    /// When the database cannot be asked.
    pub async fn blocked(&self) {
        let mut connection = self.connect().await;
        let sql = "select count(*) > 0 from pg_stat_activity
                   where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0";
        while !sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut connection).await.expect("the activity") {}
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("the server of this process accepts connections")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.server.send(Job::Drop { name: std::mem::take(&mut self.name) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_tests_share_no_rows_and_the_migrations_are_applied() {
        let (one, other) = (Database::new().await, Database::new().await);
        let migrated = other.rows().await;
        one.execute("insert into keys (name, public, kek_id, sealed, created_at) values ('a', '', '', '', 'epoch')")
            .await;
        assert_eq!(other.rows().await, migrated);
        assert_ne!(one.rows().await, migrated);
    }

    #[tokio::test]
    async fn a_dropped_database_is_gone_even_if_a_connection_is_open() {
        let (kept, dropped) = (Database::new().await, Database::new().await);
        let name = dropped.name.clone();
        let mut open = PgConnection::connect(dropped.url()).await.unwrap();
        drop(dropped);
        // Jobs are done in order: when the next database is there, the one before was dropped.
        let _next = Database::new().await;
        let mut connection = PgConnection::connect(kept.url()).await.unwrap();
        let found: Option<String> = sqlx::query_scalar("select datname from pg_database where datname = $1")
            .bind(name)
            .fetch_optional(&mut connection)
            .await
            .unwrap();
        assert_eq!(found, None);
        sqlx::query("select 1").execute(&mut open).await.expect_err("its connection was ended");
    }
}
