//! Messages out: from outbox rows to JetStream, signed.
//!
//! For each cluster in session with due rows, all of them at once: mark rows `sent` and commit → sign and publish outside the
//! transaction → record stream and sequence. A row that is not acknowledged is due again later, and so is one about which the
//! cluster has reported nothing new for long; the Operator's fence makes a repeated send harmless. A notification, or an outcome
//! that makes room, names its cluster and has the relay look at that one at once; the poll looks at all and finds everything.
//!
//! Before it: `store/outbox.rs`. After it: `operator/src/inbound`.

mod backlog;
mod doubt;
mod envelope;
mod not_sent;
mod poll;
mod signals;
mod turns;

use crate::metrics::{RelayMetrics, SendLabels};
use async_nats::{HeaderMap, jetstream};
pub use backlog::Backlog;
pub use doubt::Doubt;
use jiff::{SignedDuration, Timestamp};
use kubenova_bus::{BusError, publish};
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::{
    clock, failpoint,
    periodic::{Next, Periodic},
    random,
    shutdown::Shutdown,
    telemetry::{self, trace_context},
};
use kubenova_schema::{
    signature::{COMMAND_ID_HEADER, HEADER, PayloadType, SCHEMA_HEADER},
    streams, subjects, trace,
};
use kubenova_store::{
    cluster_queue::{self, ClaimOptions, DueCommand, Published, QueueState},
    error::StoreError,
    pool::Store,
};
use kubenova_trust::current::CurrentKeyring;
use poll::Poll;
pub use signals::Signals;
use signals::Wanted;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tracing::{Instrument as _, Span};
use turns::Turns;

/// Clusters that are served at once. A place costs memory, up to 32 commands; one whose messages the broker does not
/// acknowledge holds its place for ten seconds.
const CLUSTERS_MAX: usize = 32;
/// Longest time for a round: a Postgres that is gone without a word must not be waited for.
const ROUND_MAX: Duration = Duration::from_secs(30);
/// Longest time to serve a cluster: to claim, to wait for the broker's acknowledgements and to record them.
const SERVE_MAX: Duration = Duration::from_secs(60);
/// Pause before a command that could not be published is due again.
const UNPUBLISHED_PAUSE: Duration = Duration::from_secs(1);

/// Times of the relay.
#[derive(Debug, Clone, Copy)]
pub struct RelaySettings {
    /// Longest pause between looks at all clusters.
    pub poll: Duration,
    /// A sent row that is not acknowledged is sent again after this.
    pub send_again_after: Duration,
    /// An acknowledged row that did not end is sent again after this: the cluster reports on it again.
    pub report_again_after: Duration,
    /// A cluster without a heartbeat for this long is not in session.
    pub stale_after: Duration,
}

/// What the relay needs.
#[derive(Debug)]
pub struct Relay {
    /// Postgres.
    pub store: Store,
    /// The broker.
    pub jetstream: jetstream::Context,
    /// Whether it answers.
    pub doubt: Doubt,
    /// Signs commands; no other part holds it but receipts.
    pub keyring: CurrentKeyring,
    /// Which clusters may have something to send.
    pub signals: Arc<Signals>,
    /// Which clusters wait for room.
    pub backlog: Arc<Backlog>,
    /// Times.
    pub settings: RelaySettings,
    /// What is counted.
    pub metrics: RelayMetrics,
}

/// Sends until a stop is requested.
pub async fn run(relay: Relay, shutdown: Shutdown) {
    let relay = Arc::new(relay);
    let (turns, poll) = (Turns::new(CLUSTERS_MAX), Poll::new(relay.settings.poll));
    let send = Periodic::new("relay commands", relay.settings.poll)
        .on_signal(relay.signals.wake())
        .limit(ROUND_MAX)
        .run(&shutdown, || round(&relay, &turns, &poll, &shutdown));
    let settle = Periodic::new("settle commands that are not sent", relay.settings.poll)
        .limit(ROUND_MAX)
        .run(&shutdown, || not_sent::settle(&relay.store));
    tokio::join!(send, settle);
}

/// Starts serving the clusters that were signaled, or all that have something due once that is to be looked at. A cluster that takes
/// its time delays itself only.
async fn round(relay: &Arc<Relay>, turns: &Turns, poll: &Poll, shutdown: &Shutdown) -> Result<Next, StoreError> {
    if !relay.doubt.is_removed(&relay.jetstream).await {
        // What was signaled stays until the broker answers.
        return Ok(Next::Wait);
    }
    let begun = Instant::now();
    let clusters: Vec<ClusterId> = match relay.signals.take() {
        // A claim finds out by itself whether the cluster is in session and has something due.
        Wanted::Clusters(clusters) if !poll.due_in(begun).is_zero() => clusters.into_iter().collect(),
        // Also those that were signaled: what made them so was committed before.
        Wanted::Clusters(_) | Wanted::All => {
            let mut connection = relay.store.acquire().await?;
            let within = relay.settings.stale_after;
            let due = cluster_queue::clusters_with_due(&mut connection, clock::now(), within).await?;
            poll.looked(begun);
            due
        }
    };
    for cluster in clusters {
        let Some(turn) = turns.take(&cluster).await else { continue };
        let relay = Arc::clone(relay);
        let span = tracing::info_span!("relay_round", cluster.id = %cluster);
        let serve = async move {
            match tokio::time::timeout(SERVE_MAX, relay_cluster(&relay, &cluster)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(error = %telemetry::chain(&error), "could not relay commands; trying again");
                }
                Err(_) => tracing::warn!(
                    limit_seconds = SERVE_MAX.as_secs(),
                    "could not relay commands in time: Postgres or the broker does not answer; trying again"
                ),
            }
            if turn.end() {
                relay.signals.cluster(&cluster);
            }
        };
        shutdown.spawn_work("relay commands", serve.instrument(span));
    }
    Ok(Next::After(poll.due_in(Instant::now())))
}

/// Sends what is due for a cluster, in the order of revisions, and then waits for the acknowledgements.
async fn relay_cluster(relay: &Relay, cluster: &ClusterId) -> Result<(), StoreError> {
    let started = Instant::now();
    let Some(queue) = claim(relay, cluster).await? else { return Ok(()) };
    if queue.due.is_empty() {
        return Ok(());
    }
    failpoint::passing("relay.marked-sent");
    let mut on_their_way = Vec::with_capacity(queue.due.len());
    for command in &queue.due {
        let trace_id = command.traceparent.map(|parent| parent.trace_id());
        let span = tracing::info_span!("send", otel.kind = "producer", trace.id = trace_id, command.id = %command.id);
        if let Some(parent) = command.traceparent {
            trace_context::follow(&span, &parent.to_string());
        }
        let sent = send(relay, cluster, &queue, command).instrument(span.clone()).await?;
        on_their_way.push(async move { (command, confirm(relay, command, sent).instrument(span).await) });
    }
    let confirmed = futures::future::join_all(on_their_way).await;
    record(relay, confirmed).await?;
    relay.metrics.round_seconds.observe(started.elapsed().as_secs_f64());
    Ok(())
}

/// Marks what is due as sent, which is committed then.
async fn claim(relay: &Relay, cluster: &ClusterId) -> Result<Option<QueueState>, StoreError> {
    relay.backlog.begin(cluster);
    let queue = {
        let mut connection = relay.store.acquire().await?;
        cluster_queue::claim(&mut connection, cluster, &due(&relay.settings, clock::now())).await?
    };
    if !queue.as_ref().is_some_and(|queue| queue.is_full) {
        relay.backlog.has_room(cluster);
    }
    Ok(queue)
}

fn due(settings: &RelaySettings, now: Timestamp) -> ClaimOptions {
    ClaimOptions {
        now,
        send_again_at: later(now, settings.send_again_after),
        report_again_at: later(now, settings.report_again_after),
        window: i64::from(streams::COMMAND_WINDOW),
        heartbeat_within: settings.stale_after,
    }
}

/// What became of a command when it was sent.
enum Sent {
    OnItsWay(publish::Unconfirmed),
    /// It can never be sent, and has failed.
    Failed,
    Unsent(BusError),
}

async fn send(
    relay: &Relay,
    cluster: &ClusterId,
    queue: &QueueState,
    command: &DueCommand,
) -> Result<Sent, StoreError> {
    let body = envelope::body(cluster, queue, command, clock::now());
    if body.len() > streams::MESSAGE_BYTES_MAX {
        let message =
            format!("the command has {} bytes, the broker accepts {}", body.len(), streams::MESSAGE_BYTES_MAX);
        tracing::error!(reason = message, "a command is too large to be sent; it has failed");
        count(relay, "too_large");
        let mut connection = relay.store.acquire().await?;
        cluster_queue::fail_unsendable(&mut connection, command.id, &message, clock::now()).await?;
        return Ok(Sent::Failed);
    }
    Ok(publish(relay, cluster, command, body).await.map_or_else(Sent::Unsent, Sent::OnItsWay))
}

/// Waits until the broker has stored a command. None for one that has failed for good.
async fn confirm(relay: &Relay, command: &DueCommand, sent: Sent) -> Option<Result<publish::Stored, BusError>> {
    let stored = match sent {
        Sent::OnItsWay(unconfirmed) => unconfirmed.stored().await,
        Sent::Unsent(error) => Err(error),
        Sent::Failed => return None,
    };
    match &stored {
        Ok(_) => {
            failpoint::passing("relay.published");
            count(relay, "stored");
            tracing::info!(revision = command.revision, kind = command.kind, "command sent");
        }
        Err(error) => {
            count(relay, "unconfirmed");
            relay.doubt.raise();
            tracing::warn!(error = %telemetry::chain(error), "could not send a command; trying again");
        }
    }
    Some(stored)
}

/// Records where the broker has stored commands, and makes the others due again.
async fn record(
    relay: &Relay,
    confirmed: Vec<(&DueCommand, Option<Result<publish::Stored, BusError>>)>,
) -> Result<(), StoreError> {
    let (mut published, mut unpublished) = (Vec::new(), Vec::new());
    for (command, result) in confirmed {
        match result {
            Some(Ok(publish::Stored { stream, sequence, .. })) => {
                published.push(Published { command: command.id, stream, sequence });
            }
            Some(Err(_)) => unpublished.push(command.id),
            None => {}
        }
    }
    let mut connection = relay.store.acquire().await?;
    if !published.is_empty() {
        cluster_queue::record_published(&mut connection, &published).await?;
    }
    if !unpublished.is_empty() {
        cluster_queue::retry_at(&mut connection, &unpublished, later(clock::now(), UNPUBLISHED_PAUSE)).await?;
    }
    Ok(())
}

fn count(relay: &Relay, result: &'static str) {
    relay.metrics.sends.get_or_create(&SendLabels { result }).inc();
}

async fn publish(
    relay: &Relay,
    cluster: &ClusterId,
    command: &DueCommand,
    body: Vec<u8>,
) -> Result<publish::Unconfirmed, BusError> {
    let signature = relay.keyring.get().command.sign(PayloadType::Command, &body);
    let id = command.id.to_string();
    let traceparent = trace_context::of(&Span::current()).or(command.traceparent.map(|parent| parent.to_string()));
    let headers = headers(&signature, &id, traceparent.as_deref());
    publish::send(&relay.jetstream, &subjects::command(cluster.as_str(), &command.kind), headers, body).await
}

fn headers(signature: &str, command_id: &str, traceparent: Option<&str>) -> HeaderMap {
    let ours = [(HEADER, signature), (COMMAND_ID_HEADER, command_id), (SCHEMA_HEADER, "kubenova.v1.Command")];
    let trace = traceparent.map(|traceparent| (trace::HEADER, traceparent));
    let all: Vec<_> = ours.into_iter().chain(trace).collect();
    publish::headers(&random::uuid_v4().to_string(), &all)
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| now.checked_add(by).ok()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_carries_the_trace_of_its_request_when_it_has_one() {
        let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for expected in [Some(traceparent), None] {
            let headers = headers("key:signature", "0198", expected);
            assert_eq!(headers.get(trace::HEADER).map(async_nats::HeaderValue::as_str), expected);
            assert_eq!(headers.get(COMMAND_ID_HEADER).map(async_nats::HeaderValue::as_str), Some("0198"));
        }
    }
}
