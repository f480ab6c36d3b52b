//! The raw chain: what one client does with the same servers when it needs no product.
//!
//! Two forms. *Bare*: Postgres commit → JetStream publish → consume → server-side apply → publish → consume → commit.
//! *Equal*: with as many durable writes as KubeNova makes for one request (the claim of the outbox row, the inbox record and
//! its status), which is what the design compares with.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream::{
    consumer::{PullConsumer, pull},
    stream,
};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use kubenova_bus::{Connection, publish};
use kubenova_env::postgres::Postgres;
use kubenova_runtime::random;
use kubenova_scenarios::site::Site;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::applications::{Seen, acting_as, application, resource};
use crate::statistics::Sample;

const NAMESPACE: &str = "acme-apps";
const STREAM: &str = "BENCH";
const COMMANDS: &str = "bench.command";
const OUTCOMES: &str = "bench.outcome";

/// As many as the product's requests take turns with: one that changes many times a second leaves KubeVela no time to run it.
const APPLICATIONS: u64 = 20;

fn name(index: u64) -> String {
    format!("raw-{index}")
}

/// A client of all servers at once.
pub(crate) struct RawChain {
    database: PgConnection,
    connection: Connection,
    commands: PullConsumer,
    outcomes: PullConsumer,
    applications: Api<DynamicObject>,
    records: Api<ConfigMap>,
    done: u64,
}

/// Until the object was seen, and until the outcome was committed.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) seen: Sample,
    pub(crate) whole: Sample,
}

impl Measured {
    pub(crate) fn add(&mut self, other: &Self) {
        self.seen.extend(&other.seen);
        self.whole.extend(&other.whole);
    }
}

impl RawChain {
    /// Writes Applications as the tenant's deployer does, as no other user may.
    pub(crate) async fn open(postgres: &Postgres, connection: Connection, site: &Site) -> Result<Self> {
        let mut database = PgConnection::connect(&postgres.database("bench")?).await?;
        sqlx::query("create table desired (id uuid primary key, body jsonb not null)").execute(&mut database).await?;
        sqlx::query("create table outbox (id uuid primary key, state text not null, body jsonb not null)")
            .execute(&mut database)
            .await?;
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![COMMANDS.to_owned(), OUTCOMES.to_owned()],
            ..stream::Config::default()
        };
        let stream = connection.jetstream.create_stream(config).await?;
        let durable = |subject: &str| pull::Config {
            durable_name: Some(subject.replace('.', "-")),
            filter_subject: subject.to_owned(),
            ..pull::Config::default()
        };
        let commands = stream.create_consumer(durable(COMMANDS)).await?;
        let outcomes = stream.create_consumer(durable(OUTCOMES)).await?;
        let deployer = acting_as(site, "acme-owner", "kubenova-deployer").await?;
        let applications = Api::namespaced_with(deployer, NAMESPACE, &resource());
        let records = Api::namespaced(site.cluster.kube_client(), "default");
        Ok(Self { database, connection, commands, outcomes, applications, records, done: 0 })
    }

    /// The tenant's Applications, as its deployer.
    pub(crate) fn applications(&self) -> &Api<DynamicObject> {
        &self.applications
    }

    /// Makes the Applications that the chain goes round.
    pub(crate) async fn prepare(&mut self) -> Result<()> {
        for index in 0..APPLICATIONS {
            let name = name(index);
            let body = application(&name, 0);
            self.applications
                .patch(&name, &how(), &Patch::Apply(&body))
                .await
                .context("could not prepare the raw chain")?;
        }
        Ok(())
    }

    /// The chain `count` times, one after another, round the Applications.
    pub(crate) async fn run(&mut self, seen: &Seen, count: u64, equal: bool) -> Result<Measured> {
        let mut measured = Measured::default();
        for _ in 0..count {
            self.done += 1;
            let (name, number) = (name(self.done % APPLICATIONS), self.done);
            let name = name.as_str();
            let began = Instant::now();
            let id = random::uuid_v7();
            let body = application(name, number);
            self.commit_wish(id, &body).await?;
            if equal {
                self.commit_state(id, "sent").await?;
            }
            self.carry(COMMANDS, &body).await?;
            if equal {
                self.record(name, &json!({ "data": { "document": body.to_string() } })).await?;
            }
            self.applications.patch(name, &how(), &Patch::Apply(&body)).await?;
            let at = seen.wait(name, number).await?;
            measured.seen.push(at.saturating_duration_since(began));
            if equal {
                self.record(name, &json!({ "data": { "document": body.to_string(), "state": "applied" } })).await?;
            }
            self.carry(OUTCOMES, &json!({ "id": id, "state": "applied" })).await?;
            self.commit_state(id, "applied").await?;
            measured.whole.push(began.elapsed());
        }
        Ok(measured)
    }

    async fn commit_wish(&mut self, id: uuid::Uuid, body: &Value) -> Result<()> {
        let mut transaction = self.database.begin().await?;
        for sql in ["insert into desired values ($1, $2)", "insert into outbox values ($1, 'queued', $2)"] {
            sqlx::query(sql).bind(id).bind(body).execute(&mut *transaction).await?;
        }
        transaction.commit().await.context("could not commit the desired state")
    }

    async fn commit_state(&mut self, id: uuid::Uuid, state: &str) -> Result<()> {
        sqlx::query("update outbox set state = $2 where id = $1")
            .bind(id)
            .bind(state)
            .execute(&mut self.database)
            .await?;
        Ok(())
    }

    /// Publishes and consumes.
    async fn carry(&self, subject: &str, body: &Value) -> Result<()> {
        let headers = publish::headers(&random::uuid_v4().to_string(), &[]);
        publish::publish(&self.connection.jetstream, subject, headers, body.to_string()).await?;
        let consumer = if subject == COMMANDS { &self.commands } else { &self.outcomes };
        let mut batch = consumer.fetch().max_messages(1).expires(Duration::from_secs(10)).messages().await?;
        let message = batch.next().await.context("nothing was delivered")?.map_err(anyhow::Error::msg)?;
        message.ack().await.map_err(anyhow::Error::msg)
    }

    async fn record(&self, name: &str, data: &Value) -> Result<()> {
        let mut object =
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("record-{name}") } });
        object["data"] = data["data"].clone();
        self.records.patch(&format!("record-{name}"), &how(), &Patch::Apply(&object)).await?;
        Ok(())
    }
}

fn how() -> PatchParams {
    PatchParams::apply("bench").force()
}
