//! Sessions: the answer to a hello, and the heartbeat.
//!
//! Before it answers, the Manager creates the streams and the cluster's durable if they are missing, and purges the cluster's
//! subject when something on it is not acknowledged: a session begins without messages on the way, and every open row is due
//! again. A cluster that names a revision which Postgres does not know gets no session: it has seen a later state of the database
//! than there is. A refused hello leaves the session as it is: only heartbeats keep a session, and only those of its own number
//! count.
//!
//! Before it: `operator/src/session`. After it: the relay and the receipts.

mod asking;
pub mod heartbeat;
mod hello;
pub mod listing;
mod open;
mod parts;
mod queue;
pub mod records;
mod renewal;
mod wanted;

use crate::{
    metrics::{HelloLabels, SessionMetrics},
    receipts::{Extent, ReceiptQueue},
    relay::Signals,
};
use async_nats::{HeaderMap, Message};
use futures::{FutureExt as _, StreamExt as _};
use hello::MalformedHello;
use jiff::{SignedDuration, Timestamp};
use kubenova_bus::Connection;
use kubenova_runtime::{clock, retry::Retry, shutdown::Shutdown, telemetry};
use kubenova_schema::{
    message,
    signature::{HEADER, PayloadType, SCHEMA_HEADER},
    streams, subjects,
    v1::{Hello, HelloAnswer},
};
use kubenova_store::pool::Store;
use kubenova_trust::current::CurrentKeyring;
use open::{Opened, Outcome, Refused, SessionError};
use queue::{ByCluster, Turn};
use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;
use tracing::Instrument as _;

/// Hellos answered at once: each takes a connection of Postgres for two short transactions, and some calls of the broker.
/// More wait their turn, and the cluster asks again when its request times out.
const HELLOS_MAX: usize = 8;
/// Time within which a hello is answered: a little less than the Operator waits.
const ANSWER_WITHIN: Duration = Duration::from_secs(9);
/// Longest time for the work of an answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Managers that share the hellos of all clusters: each is answered by one of them.
const HELLO_GROUP: &str = "manager-hello";

/// What the session side needs.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// Postgres.
    pub store: Store,
    /// The broker.
    pub connection: Connection,
    /// Signs the answers.
    pub keyring: CurrentKeyring,
    /// Time without a heartbeat after which a session does not keep another Operator of its cluster away.
    pub silent_after: SignedDuration,
    /// Clusters that wait for their receipts.
    pub receipts: ReceiptQueue,
    /// Signaled when rows of a cluster became due.
    pub signals: Arc<Signals>,
    /// What is counted.
    pub metrics: SessionMetrics,
}

/// Reason of an answer that may become another one when the cluster asks again.
const NOT_READY: &str = "ManagerNotReady";

/// Answers hellos until a stop is requested.
pub async fn run(sessions: Sessions, shutdown: Shutdown) {
    let sessions = Arc::new(sessions);
    let slots = Arc::new(Semaphore::new(HELLOS_MAX));
    let queue = ByCluster::default();
    let handle = |message: Message| {
        let cluster = subjects::cluster_of(&message.subject).unwrap_or_default().to_owned();
        let arrived = Arrived { message, at: clock::now(), instant: Instant::now() };
        if let Some(turn) = queue.add(&cluster, arrived) {
            let span = tracing::info_span!("hello", cluster.id = cluster);
            let answers = serve(Arc::clone(&sessions), Arc::clone(&slots), turn, shutdown.clone());
            // One slow cluster must not keep the others waiting.
            shutdown.spawn_work("answer a hello", answers.instrument(span));
        }
        std::future::ready(())
    };
    let from = Subscribed { subject: subjects::every::HELLO, group: Some(HELLO_GROUP) };
    subscribe(&sessions.connection, from, &shutdown, handle).await;
}

/// A hello as it arrived.
struct Arrived {
    message: Message,
    at: Timestamp,
    instant: Instant,
}

impl Arrived {
    /// Whether the cluster still waits for the answer. A later answer would open a session that no heartbeat belongs to.
    fn is_waited_for(&self) -> bool {
        self.instant.elapsed() < ANSWER_WITHIN
    }
}

/// Answers the hellos of one cluster until none waits.
async fn serve(sessions: Arc<Sessions>, slots: Arc<Semaphore>, mut turn: Turn<Arrived>, shutdown: Shutdown) {
    while !shutdown.is_requested() {
        // The place first, then the hello: in a queue of thousands of clusters the newest is the one that is waited for.
        let Ok(_slot) = slots.acquire().await else { return };
        let Some(hello) = turn.next() else { return };
        if !hello.is_waited_for() {
            tracing::debug!("passed over a hello that its cluster no longer waits for");
            continue;
        }
        // Boxed only now: thousands of clusters wait for a place at once, and the task of each would have room for an answer in it.
        let answer = AssertUnwindSafe(Box::pin(answer(&sessions, hello))).catch_unwind();
        // A hello that makes the Manager panic, or wait without end, must not stop it for all other clusters.
        match tokio::time::timeout(ANSWER_MAX, answer).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!("the Manager panicked over a hello; the cluster asks again"),
            Err(_) => tracing::warn!("could not answer a hello in time: Postgres or the broker does not answer"),
        }
    }
}

/// A subject, and the Managers that share its messages; without a group each of them gets every message.
#[derive(Debug, Clone, Copy)]
struct Subscribed {
    subject: &'static str,
    group: Option<&'static str>,
}

/// Hands every message of a core subject to `handle`; subscribes again when the subscription ends.
async fn subscribe<H, F>(connection: &Connection, from: Subscribed, shutdown: &Shutdown, handle: H)
where
    H: Fn(Message) -> F,
    F: Future<Output = ()>,
{
    let receive = || async {
        let client = &connection.client;
        let mut subscription = match from.group {
            Some(group) => client.queue_subscribe(from.subject, group.to_owned()).await?,
            None => client.subscribe(from.subject).await?,
        };
        while let Some(message) = subscription.next().await {
            handle(message).await;
        }
        Ok::<_, async_nats::SubscribeError>(())
    };
    Retry::new("subscribe to messages of clusters").keep_running(shutdown, receive).await;
}

async fn answer(sessions: &Sessions, arrived: Arrived) {
    let message = &arrived.message;
    let Some(reply) = message.reply.clone() else { return };
    let decoded = hello::decode(&message.payload);
    let asked = decoded.as_ref().map(Asked::of).unwrap_or_default();
    let read = decoded.and_then(|hello| hello::read(&message.subject, hello, arrived.at));
    let (label, mut answer) = match read {
        Ok(hello) => match open::open(sessions, &hello, || arrived.is_waited_for()).await {
            Ok(Outcome::Opened(opened)) => ("accepted", accepted(sessions, &hello, opened)),
            Ok(Outcome::Refused(refused)) => ("refused", refused_by(refused)),
            Ok(Outcome::TooLate) => return,
            Err(error) => ("not_ready", not_ready(&error)),
        },
        Err(malformed) => ("refused", refusal(MalformedHello::REASON, malformed.to_string())),
    };
    if label == "refused" {
        tracing::warn!(reason = answer.reason, message = answer.message, "refused a hello");
    }
    (answer.cluster_id, answer.boot_id, answer.nonce) = (asked.cluster_id, asked.boot_id, asked.nonce);
    answer.received_time = clock::rfc3339_ms(arrived.at);
    answer.manager_time = clock::rfc3339_ms(clock::now());
    sessions.metrics.hellos.get_or_create(&HelloLabels { answer: label }).inc();
    let body = message::to_json(&answer);
    let mut headers = HeaderMap::new();
    headers.insert(HEADER, sessions.keyring.get().command.sign(PayloadType::HelloAnswer, &body));
    headers.insert(SCHEMA_HEADER, "kubenova.v1.HelloAnswer");
    if let Err(error) = sessions.connection.client.publish_with_headers(reply, headers, body.into()).await {
        tracing::warn!(%error, "could not answer a hello; the cluster asks again");
    }
}

/// What an answer repeats of its hello, so that the cluster knows that it is the answer to this one.
#[derive(Debug, Clone, Default)]
struct Asked {
    cluster_id: String,
    boot_id: String,
    nonce: String,
}

impl Asked {
    fn of(hello: &Hello) -> Self {
        Self { cluster_id: hello.cluster_id.clone(), boot_id: hello.boot_id.clone(), nonce: hello.nonce.clone() }
    }
}

fn accepted(sessions: &Sessions, hello: &hello::ReceivedHello, opened: Opened) -> HelloAnswer {
    let Opened { session, epoch, floor, due, listing_wanted } = opened;
    let cluster = &hello.request.cluster_id;
    tracing::info!(session, epoch, floor, due, listing_wanted, "session opened");
    sessions.signals.cluster(cluster);
    sessions.receipts.add(cluster.clone(), Extent::Whole);
    let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
    HelloAnswer {
        accepted: true,
        epoch: unsigned(epoch),
        session: unsigned(session),
        floor: unsigned(floor),
        stream: streams::COMMANDS.name.to_owned(),
        durable: cluster.to_string(),
        listing_wanted,
        ..HelloAnswer::default()
    }
}

/// Without an answer the cluster would take the Manager for absent.
fn not_ready(error: &SessionError) -> HelloAnswer {
    let error = telemetry::chain(error);
    tracing::warn!(error, "could not open a session; the cluster asks again");
    refusal(NOT_READY, format!("the Manager is there but could not open a session, it will be asked again: {error}"))
}

fn refused_by(refused: Refused) -> HelloAnswer {
    let Refused { refusal: why, listing_wanted } = refused;
    HelloAnswer { listing_wanted, ..refusal(why.reason(), why.to_string()) }
}

fn refusal(reason: &str, message: String) -> HelloAnswer {
    HelloAnswer { accepted: false, reason: reason.to_owned(), message, ..HelloAnswer::default() }
}
