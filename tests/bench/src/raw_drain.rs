//! The raw stage of an outbox that drains: rows are claimed by cluster and retired, a statement and a transaction each, with nothing
//! published between. A relay can be no faster than this, nor than raw publishes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kubenova_env::postgres::Postgres;
use sqlx::{Connection as _, PgConnection};

const DATABASE: &str = "bench_drain";

/// A database with an outbox.
#[derive(Debug)]
pub(crate) struct RawDrain {
    url: String,
    document: String,
}

/// An outbox that was drained.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drained {
    rows: usize,
    took: Duration,
}

impl Drained {
    /// Rows a second.
    pub(crate) fn rate(self) -> f64 {
        self.rows as f64 / self.took.as_secs_f64()
    }
}

impl RawDrain {
    /// Makes the database; `document` is what each row holds.
    pub(crate) async fn open(postgres: &Postgres, document: String) -> Result<Self> {
        let url = postgres.database(DATABASE)?;
        let mut database = PgConnection::connect(&url).await?;
        for statement in [
            "create table outbox (id uuid primary key, cluster bigint not null, state text not null, document text not null, \
             stream_seq bigint)",
            "create index queued on outbox (cluster) where state = 'queued'",
        ] {
            sqlx::query(statement).execute(&mut database).await?;
        }
        Ok(Self { url, document })
    }

    /// Drains `rows` rows of so many clusters, on `at_once` connections, each of which serves every `at_once`th cluster.
    pub(crate) async fn run(&self, rows: usize, clusters: usize, at_once: usize) -> Result<Drained> {
        self.fill(rows, clusters).await?;
        let mut connections = Vec::new();
        for _ in 0..at_once {
            connections.push(PgConnection::connect(&self.url).await?);
        }
        let began = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for (first, mut connection) in connections.into_iter().enumerate() {
            tasks.spawn(async move {
                let mut drained = 0;
                for cluster in (first..clusters).step_by(at_once) {
                    drained += drain(&mut connection, i64::try_from(cluster)?).await?;
                }
                Ok::<_, anyhow::Error>(drained)
            });
        }
        let mut drained = 0;
        while let Some(done) = tasks.join_next().await {
            drained += done??;
        }
        ensure!(drained == rows, "{drained} of {rows} rows were drained");
        Ok(Drained { rows, took: began.elapsed() })
    }

    async fn fill(&self, rows: usize, clusters: usize) -> Result<()> {
        let mut database = PgConnection::connect(&self.url).await?;
        sqlx::query("truncate outbox").execute(&mut database).await?;
        sqlx::query(
            "insert into outbox select gen_random_uuid(), n % $1, 'queued', $2, null from generate_series(1, $3) n",
        )
        .bind(i64::try_from(clusters)?)
        .bind(&self.document)
        .bind(i64::try_from(rows)?)
        .execute(&mut database)
        .await
        .context("could not fill the outbox")?;
        sqlx::query("analyze outbox").execute(&mut database).await?;
        Ok(())
    }
}

/// Claims what a cluster has queued, which is committed, and retires it.
async fn drain(connection: &mut PgConnection, cluster: i64) -> Result<usize> {
    let claim = "update outbox set state = 'sent' where cluster = $1 and state = 'queued' returning id, document";
    let claimed: Vec<(uuid::Uuid, String)> = sqlx::query_as(claim).bind(cluster).fetch_all(&mut *connection).await?;
    let ids: Vec<uuid::Uuid> = claimed.iter().map(|(id, _)| *id).collect();
    let retire = "update outbox set stream_seq = 1 where id = any($1)";
    sqlx::query(retire).bind(&ids).execute(&mut *connection).await.context("could not retire rows")?;
    Ok(claimed.len())
}
