//! Sessions: the answer to a hello, and the heartbeat.
//!
//! Before it answers, the Manager creates the streams and the cluster's durable if they are missing and purges the
//! cluster's subject: a session begins without messages on the way, and every open row is due again. A cluster that names
//! a revision which Postgres does not know gets no session: it has seen a later state of the database than there is.
//!
//! Before it: `operator/src/session`. After it: the relay and the receipts.

pub mod heartbeat;
mod hello;

use crate::{metrics::HelloLabels, receipts::ReceiptQueue};
use async_nats::Message;
use futures::StreamExt as _;
use hello::{MalformedHello, ReceivedHello};
use jiff::Timestamp;
use kubenova_bus::{BusError, Connection, durable, streams as broker};
use kubenova_core::session::{self, Held, Hello, HelloRefusal};
use kubenova_runtime::{clock, retry::Retry, shutdown::Shutdown, telemetry};
use kubenova_schema::{
    enrollment::PublicKey,
    message, streams, subjects,
    v1::{CommandKey, HelloAnswer},
};
use kubenova_store::{
    cluster_queue, connection,
    error::StoreError,
    pool::Store,
    sessions::{self, ClusterRecord},
};
use prometheus_client::metrics::{counter::Counter, family::Family};
use std::sync::Arc;
use tokio::sync::{Notify, Semaphore};
use tracing::Instrument as _;

/// Hellos answered at once. Each takes a database connection and some calls of the broker; more wait their turn, and the
/// cluster asks again when its request times out.
const HELLOS_MAX: usize = 64;

/// What the session side needs.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// Postgres.
    pub store: Store,
    /// The broker.
    pub connection: Connection,
    /// Keys of commands that clusters must accept.
    pub keys: Vec<PublicKey>,
    /// Clusters that wait for their receipts.
    pub receipts: ReceiptQueue,
    /// Signaled when rows became due.
    pub wake: Arc<Notify>,
    /// Counts hellos by answer.
    pub hellos: Family<HelloLabels, Counter>,
}

/// Reason of an answer that may become another one when the cluster asks again.
const NOT_READY: &str = "ManagerNotReady";

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("could not read or write the session")]
    Store(#[from] StoreError),
    #[error("could not prepare the broker for the session")]
    Bus(#[from] BusError),
}

/// Answers hellos until a stop is requested.
pub async fn run(sessions: Sessions, shutdown: Shutdown) {
    let sessions = Arc::new(sessions);
    let slots = Arc::new(Semaphore::new(HELLOS_MAX));
    let handle = |message: Message| {
        let (sessions, slots) = (Arc::clone(&sessions), Arc::clone(&slots));
        async move {
            let Ok(slot) = slots.acquire_owned().await else { return };
            // One slow cluster must not keep the others waiting.
            tokio::spawn(async move {
                let cluster = subjects::cluster_of(&message.subject).unwrap_or_default().to_owned();
                answer(&sessions, message).instrument(tracing::info_span!("hello", cluster.id = cluster)).await;
                drop(slot);
            });
        }
    };
    subscribe(&sessions.connection, subjects::every::HELLO, &shutdown, handle).await;
}

/// Hands every message of a core subject to `handle`; subscribes again when the subscription ends.
async fn subscribe<H, F>(connection: &Connection, subject: &'static str, shutdown: &Shutdown, handle: H)
where
    H: Fn(Message) -> F,
    F: Future<Output = ()>,
{
    let receive = || async {
        let mut subscription = connection.client.subscribe(subject).await?;
        while let Some(message) = subscription.next().await {
            handle(message).await;
        }
        Ok::<_, async_nats::SubscribeError>(())
    };
    Retry::new("subscribe to messages of clusters").keep_running(shutdown, receive).await;
}

async fn answer(sessions: &Sessions, message: Message) {
    let Some(reply) = message.reply.clone() else { return };
    let now = clock::now();
    let answered = match hello::read(&message.subject, &message.payload, now) {
        Ok(hello) => open(sessions, &hello, now).await,
        Err(malformed) => Ok(Answer::Refused(refusal(MalformedHello::REASON, malformed.to_string(), now))),
    };
    let (label, answer) = match answered {
        Ok(Answer::Accepted(answer)) => ("accepted", answer),
        Ok(Answer::Refused(answer)) => {
            tracing::warn!(reason = answer.reason, message = answer.message, "refused a hello");
            ("refused", answer)
        }
        Err(error) => {
            let error = telemetry::chain(&error);
            tracing::warn!(error, "could not open a session; the cluster asks again");
            // Without an answer the cluster would take the Manager for absent.
            let message = format!("the Manager is there but could not open a session, it will be asked again: {error}");
            ("not_ready", refusal(NOT_READY, message, now))
        }
    };
    sessions.hellos.get_or_create(&HelloLabels { answer: label }).inc();
    if let Err(error) = sessions.connection.client.publish(reply, message::to_json(&answer).into()).await {
        tracing::warn!(%error, "could not answer a hello; the cluster asks again");
    }
}

enum Answer {
    Accepted(HelloAnswer),
    Refused(HelloAnswer),
}

async fn open(sessions: &Sessions, hello: &ReceivedHello, now: Timestamp) -> Result<Answer, SessionError> {
    let cluster = &hello.request.cluster_id;
    let judge = sessions
        .store
        .transaction("open a session", async |transaction| judge(transaction, sessions, hello, now).await);
    let Opened { session, epoch, due } = match judge.await? {
        Ok(opened) => opened,
        Err(refused) => return Ok(Answer::Refused(refusal(refused.reason(), refused.to_string(), now))),
    };
    tracing::info!(session, epoch, due, "session opened");
    sessions.wake.notify_one();
    sessions.receipts.add(cluster.clone());
    Ok(Answer::Accepted(HelloAnswer {
        accepted: true,
        epoch: u64::try_from(epoch).unwrap_or_default(),
        session: u64::try_from(session).unwrap_or_default(),
        manager_time: clock::rfc3339_ms(now),
        stream: streams::COMMANDS.name.to_owned(),
        durable: cluster.to_string(),
        command_keys: sessions.keys.iter().map(command_key).collect(),
        ..HelloAnswer::default()
    }))
}

struct Opened {
    session: i64,
    epoch: i64,
    /// Commands that are sent again.
    due: u64,
}

/// Opens a session, or records why not.
async fn judge(
    transaction: &mut connection::Connection,
    sessions: &Sessions,
    hello: &ReceivedHello,
    now: Timestamp,
) -> Result<Result<Opened, HelloRefusal>, SessionError> {
    let cluster = &hello.request.cluster_id;
    let record = sessions::lock_cluster(transaction, cluster).await?;
    let knows_revision =
        sessions::revision_matches(transaction, cluster, hello.request.highest_revision, hello.highest_command).await?;
    let epoch = match admit(hello, record.as_ref(), knows_revision) {
        Ok(epoch) => epoch,
        Err(refused) => {
            if record.is_some() {
                sessions::refuse(transaction, &hello.request, refused.reason(), now).await?;
            }
            return Ok(Err(refused));
        }
    };
    let name = record.map(|record| record.name).unwrap_or_default();
    let jetstream = &sessions.connection.jetstream;
    broker::ensure_all(jetstream).await?;
    durable::ensure_cluster(jetstream, cluster.as_str(), &name).await?;
    durable::purge_cluster(jetstream, cluster.as_str()).await?;
    let session = sessions::open(transaction, &hello.request, now).await?;
    let due = cluster_queue::resend_open(transaction, cluster).await?;
    Ok(Ok(Opened { session, epoch, due }))
}

fn admit(hello: &ReceivedHello, record: Option<&ClusterRecord>, knows_revision: bool) -> Result<i64, HelloRefusal> {
    let held = record.map(|record| Held {
        state: record.state,
        kubernetes_uid: record.kubernetes_uid.clone(),
        epoch: record.epoch,
        knows_revision,
    });
    session::admit(&Hello { cluster_uid: &hello.cluster_uid, epoch: hello.epoch }, held.as_ref())
}

fn refusal(reason: &str, message: String, now: Timestamp) -> HelloAnswer {
    HelloAnswer {
        accepted: false,
        reason: reason.to_owned(),
        message,
        manager_time: clock::rfc3339_ms(now),
        ..HelloAnswer::default()
    }
}

fn command_key(key: &PublicKey) -> CommandKey {
    CommandKey { key_id: key.key_id.clone(), public_key: key.public_key.clone() }
}
