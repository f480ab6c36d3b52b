//! The raw chain: what one client does with the same servers when it needs no product.
//!
//! Two forms. *Bare*: Postgres commit → JetStream publish → consume → server-side apply → publish → consume → commit.
//! *Equal*: with as many durable writes as KubeNova makes for one request (the claim of the outbox row, the inbox record and
//! its status), which is what the design compares with. One after another, or in several workers at once, each with consumers and
//! Applications of its own. What the Manager would do at the broker is done by one connection, and what the Operator would by
//! another, made by the transport of the run ([`crate::operator_connection`]).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{
    consumer::{PullConsumer, pull},
    stream,
};
use futures::StreamExt as _;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use kubenova_bus::{Connection, publish};
use kubenova_env::postgres::Postgres;
use kubenova_env::process::Process;
use kubenova_runtime::random;
use kubenova_scenarios::site::Site;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::applications::{Seen, acting_as, application, resource};
use crate::statistics::Sample;

const NAMESPACE: &str = "acme-apps";
const STREAM: &str = "BENCH";
/// Every subject of the stream.
const SUBJECTS: &str = "bench.>";

/// As many as the product's requests take turns with: one that changes many times a second leaves KubeVela no time to run it.
const APPLICATIONS: u64 = 20;

fn name(index: u64) -> String {
    format!("raw-{index}")
}

/// Chains that may be run at once.
pub(crate) struct RawChain {
    workers: Vec<Worker>,
    done: u64,
    _leaf_node: Option<Process>,
}

/// The two sides of the broker.
pub(crate) struct Ends {
    pub(crate) manager: Connection,
    pub(crate) operator: Connection,
    /// What the Operator's connection goes by, where it goes by one.
    pub(crate) leaf_node: Option<Process>,
}

/// A client of all servers at once.
struct Worker {
    database: PgConnection,
    commands: Queue,
    outcomes: Queue,
    applications: Api<DynamicObject>,
    records: Api<ConfigMap>,
}

/// Messages from one side to the other.
struct Queue {
    subject: String,
    from: Connection,
    consumer: PullConsumer,
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
    /// Writes Applications as the tenant's deployer does, as no other user may, at most so many at once.
    pub(crate) async fn open(postgres: &Postgres, ends: Ends, site: &Site, at_once: usize) -> Result<Self> {
        let url = postgres.database("bench")?;
        let mut database = PgConnection::connect(&url).await?;
        sqlx::query("create table desired (id uuid primary key, body jsonb not null)").execute(&mut database).await?;
        sqlx::query("create table outbox (id uuid primary key, state text not null, body jsonb not null)")
            .execute(&mut database)
            .await?;
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![SUBJECTS.to_owned()],
            ..stream::Config::default()
        };
        let Ends { manager, operator, leaf_node } = ends;
        manager.jetstream.create_stream(config).await?;
        let deployer = acting_as(site, "acme-owner", "kubenova-deployer").await?;
        let mut workers = Vec::with_capacity(at_once);
        for number in 0..at_once {
            workers.push(Worker {
                database: PgConnection::connect(&url).await?,
                commands: Queue::create(&manager, &operator, &format!("bench.command.{number}")).await?,
                outcomes: Queue::create(&operator, &manager, &format!("bench.outcome.{number}")).await?,
                applications: Api::namespaced_with(deployer.clone(), NAMESPACE, &resource()),
                records: Api::namespaced(site.cluster.kube_client(), "default"),
            });
        }
        ensure!(!workers.is_empty(), "a raw chain needs at least one worker");
        Ok(Self { workers, done: 0, _leaf_node: leaf_node })
    }

    /// The tenant's Applications, as its deployer.
    pub(crate) fn applications(&self) -> &Api<DynamicObject> {
        &self.workers[0].applications
    }

    /// Makes the Applications that the chain goes round.
    pub(crate) async fn prepare(&self) -> Result<()> {
        for index in 0..APPLICATIONS {
            let name = name(index);
            let body = application(&name, 0);
            self.applications()
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
            let began = Instant::now();
            let at = self.workers[0].chain(seen, &name(self.done % APPLICATIONS), self.done, equal).await?;
            measured.seen.push(at.saturating_duration_since(began));
            measured.whole.push(began.elapsed());
        }
        Ok(measured)
    }

    /// The chain `count` times, begun at one moment and done in all workers at once; every time counts from that moment.
    pub(crate) async fn burst(&mut self, seen: &Seen, count: u64) -> Result<Measured> {
        let (began, first) = (Instant::now(), self.done + 1);
        self.done += count;
        let workers = self.workers.len() as u64;
        let runs = self.workers.iter_mut().zip(0_u64..).map(|(worker, worker_number)| async move {
            let mut measured = Measured::default();
            let own: Vec<u64> = (0..APPLICATIONS).filter(|index| index % workers == worker_number).collect();
            for (number, index) in
                (first..first + count).filter(|number| number % workers == worker_number).zip(own.iter().cycle())
            {
                let at = worker.chain(seen, &name(*index), number, true).await?;
                measured.seen.push(at.saturating_duration_since(began));
                measured.whole.push(began.elapsed());
            }
            Ok::<_, anyhow::Error>(measured)
        });
        let mut measured = Measured::default();
        for worker in try_join_all(runs).await? {
            measured.add(&worker);
        }
        Ok(measured)
    }
}

impl Worker {
    /// One chain; when the object was seen.
    async fn chain(&mut self, seen: &Seen, name: &str, number: u64, equal: bool) -> Result<Instant> {
        let id = random::uuid_v7();
        let body = application(name, number);
        self.commit_wish(id, &body).await?;
        if equal {
            self.commit_state(id, "sent").await?;
        }
        self.commands.carry(&body).await?;
        if equal {
            self.record(name, &json!({ "data": { "document": body.to_string() } })).await?;
        }
        self.applications.patch(name, &how(), &Patch::Apply(&body)).await?;
        let at = seen.wait(name, number).await?;
        if equal {
            self.record(name, &json!({ "data": { "document": body.to_string(), "state": "applied" } })).await?;
        }
        self.outcomes.carry(&json!({ "id": id, "state": "applied" })).await?;
        self.commit_state(id, "applied").await?;
        Ok(at)
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

    async fn record(&self, name: &str, data: &Value) -> Result<()> {
        let mut object =
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("record-{name}") } });
        object["data"] = data["data"].clone();
        self.records.patch(&format!("record-{name}"), &how(), &Patch::Apply(&object)).await?;
        Ok(())
    }
}

impl Queue {
    async fn create(from: &Connection, to: &Connection, subject: &str) -> Result<Self> {
        let config = pull::Config {
            durable_name: Some(subject.replace('.', "-")),
            filter_subject: subject.to_owned(),
            ..pull::Config::default()
        };
        let consumer = to.jetstream.create_consumer_on_stream(config, STREAM).await?;
        Ok(Self { subject: subject.to_owned(), from: from.clone(), consumer })
    }

    /// Publishes and consumes.
    async fn carry(&self, body: &Value) -> Result<()> {
        let headers = publish::headers(&random::uuid_v4().to_string(), &[]);
        publish::publish(&self.from.jetstream, &self.subject, headers, body.to_string()).await?;
        let mut batch = self.consumer.fetch().max_messages(1).expires(Duration::from_secs(10)).messages().await?;
        let message = batch.next().await.context("nothing was delivered")?.map_err(anyhow::Error::msg)?;
        message.ack().await.map_err(anyhow::Error::msg)
    }
}

fn how() -> PatchParams {
    PatchParams::apply("bench").force()
}
