//! The raw stage of accepting a command: a transaction that inserts two rows of the same size, on the same server.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kubenova_env::postgres::Postgres;
use kubenova_runtime::random;
use sqlx::{Connection as _, PgConnection};

use crate::statistics::Sample;

const DATABASE: &str = "bench";

/// A database with two tables.
#[derive(Debug)]
pub(crate) struct RawTransactions {
    url: String,
    document: String,
}

/// Transactions of several connections at once.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) each: Sample,
    pub(crate) took: Duration,
}

impl Committed {
    /// Transactions a second.
    pub(crate) fn rate(&self) -> f64 {
        self.each.len() as f64 / self.took.as_secs_f64()
    }
}

impl RawTransactions {
    /// Makes the database; `document` is what each row holds.
    pub(crate) async fn open(postgres: &Postgres, document: String) -> Result<Self> {
        let url = postgres.database(DATABASE)?;
        let mut database = PgConnection::connect(&url).await?;
        for table in [
            "create table desired (id uuid primary key, document text not null)",
            "create table outbox (id uuid primary key, state text not null, document text not null)",
        ] {
            sqlx::query(table).execute(&mut database).await?;
        }
        Ok(Self { url, document })
    }

    /// `count` transactions on `at_once` connections.
    pub(crate) async fn run(&self, count: usize, at_once: usize) -> Result<Committed> {
        let mut connections = Vec::new();
        for _ in 0..at_once {
            connections.push(PgConnection::connect(&self.url).await?);
        }
        let began = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for (index, connection) in connections.into_iter().enumerate() {
            let share = count / at_once + usize::from(index < count % at_once);
            tasks.spawn(commit(connection, share, self.document.clone()));
        }
        let mut each = Sample::default();
        while let Some(done) = tasks.join_next().await {
            each.extend(&done??);
        }
        Ok(Committed { each, took: began.elapsed() })
    }
}

async fn commit(mut connection: PgConnection, count: usize, document: String) -> Result<Sample> {
    let mut each = Sample::default();
    for _ in 0..count {
        let began = Instant::now();
        let id = random::uuid_v7();
        let mut transaction = connection.begin().await?;
        for sql in ["insert into desired values ($1, $2)", "insert into outbox values ($1, 'queued', $2)"] {
            sqlx::query(sql).bind(id).bind(&document).execute(&mut *transaction).await?;
        }
        transaction.commit().await.context("could not commit")?;
        each.push(began.elapsed());
    }
    Ok(each)
}
