//! The raw stage of joining: a key and a certificate for it, one commit of PostgreSQL, and a TLS handshake with the broker.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kubenova_bus::dial::Dialer;
use kubenova_bus::relay::broker as greeting;
use kubenova_bus::tls::Files;
use kubenova_bus::transport::BrokerUrl;
use kubenova_runtime::{clock, random};
use kubenova_scenarios::broker;
use kubenova_scenarios::platform::{HUB_HOST, HUB_PORT, Platform};
use kubenova_trust::authority::Validity;
use kubenova_trust::keyring::Keyring;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::Mutex;

use crate::statistics::Sample;

/// At once in a burst: as many as the Manager decides about at once.
const WORKERS: usize = 8;
const LIFETIME: Duration = Duration::from_secs(3600);

/// What the stage needs.
pub(crate) struct RawJoins {
    keyring: Keyring,
    broker: BrokerUrl,
    ca: PathBuf,
    folder: PathBuf,
    databases: Vec<Mutex<PgConnection>>,
}

impl RawJoins {
    /// In a database of its own on the platform's servers.
    pub(crate) async fn open(platform: &Platform) -> Result<Self> {
        let url = platform.postgres.database("bench")?;
        let mut databases = Vec::with_capacity(WORKERS);
        for _ in 0..WORKERS {
            databases.push(Mutex::new(PgConnection::connect(&url).await?));
        }
        let sql = "create table joined (id uuid primary key, certificate text not null)";
        sqlx::query(sql).execute(&mut *databases[0].lock().await).await?;
        let broker = format!("tls://{HUB_HOST}:{HUB_PORT}");
        Ok(Self {
            keyring: broker::keyring(platform)?,
            broker: BrokerUrl::parse(&broker).with_context(|| format!("{broker} is no URL of a broker"))?,
            ca: platform.ca_file.clone(),
            folder: platform.sandbox.memory("raw-joins")?,
            databases,
        })
    }

    /// So many, one after another.
    pub(crate) async fn serially(&self, count: usize) -> Result<Sample> {
        let mut sample = Sample::default();
        for _ in 0..count {
            let began = Instant::now();
            self.join(0).await?;
            sample.push(began.elapsed());
        }
        Ok(sample)
    }

    /// So many, begun at one moment, from which every time counts.
    pub(crate) async fn burst(&self, count: usize) -> Result<Sample> {
        let began = Instant::now();
        let joins = stream::iter(0..count).map(|number| async move {
            self.join(number % WORKERS).await?;
            Ok::<_, anyhow::Error>(began.elapsed())
        });
        let took: Vec<Duration> = joins.buffer_unordered(WORKERS).try_collect().await?;
        let mut sample = Sample::default();
        took.into_iter().for_each(|took| sample.push(took));
        Ok(sample)
    }

    async fn join(&self, database: usize) -> Result<()> {
        let id = random::uuid_v7();
        let validity = Validity { now: clock::now(), lifetime: LIFETIME };
        let identity = self.keyring.authority.client(&id.to_string(), validity)?;
        let insert = sqlx::query("insert into joined values ($1, $2)").bind(id).bind(&identity.chain_pem);
        insert.execute(&mut *self.databases[database].lock().await).await?;
        let file = |name: &str, text: &str| -> Result<PathBuf> {
            let path = self.folder.join(format!("{id}.{name}"));
            fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
            Ok(path)
        };
        let files = Files {
            ca: self.ca.clone(),
            certificate: file("pem", &identity.chain_pem)?,
            key: file("key", &identity.key_pem)?,
        };
        let greeted = greeting::connect(&self.broker, &Dialer::default(), &files).await;
        greeted.map(drop).map_err(|error| anyhow!("the raw stage's TLS handshake failed: {error}"))
    }
}
