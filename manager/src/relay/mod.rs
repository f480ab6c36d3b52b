//! Messages out: from outbox rows to JetStream, signed.
//!
//! Each round: clusters in session with due rows → lease the cluster's queue → mark rows `sent` and commit → sign and
//! publish outside the transaction → note stream and sequence. A row that is not acknowledged is due again later; the
//! Operator's fence makes a repeated send harmless. A notification only makes a round sooner; the poll finds everything.
//!
//! Before it: `store/outbox.rs`. After it: `operator/src/inbound`.

mod envelope;

use crate::metrics::{RelayMetrics, SendLabels};
use async_nats::{HeaderMap, jetstream};
use jiff::{SignedDuration, Timestamp};
use kubenova_bus::publish;
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::{
    clock, failpoint,
    periodic::{Next, Periodic},
    random,
    shutdown::Shutdown,
    telemetry::{self, trace_context},
};
use kubenova_schema::{
    signature::{COMMAND_ID_HEADER, HEADER, PayloadType, SCHEMA_HEADER, SigningKey},
    streams, subjects, trace,
};
use kubenova_store::{
    cluster_queue::{self, ClaimOptions, DueCommand, QueueState},
    error::StoreError,
    pool::Store,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tracing::{Instrument as _, Span};

/// How long a cluster's queue is leased. A round takes milliseconds; another Manager takes over a dead one's queues after
/// this, and a command that both send is harmless.
const LEASE: SignedDuration = SignedDuration::from_secs(10);
/// Pause before a command that could not be published is due again.
const UNPUBLISHED_PAUSE: Duration = Duration::from_secs(1);

/// Times of the relay.
#[derive(Debug, Clone, Copy)]
pub struct RelaySettings {
    /// Longest pause between rounds.
    pub poll: Duration,
    /// A sent row that is not acknowledged is sent again after this.
    pub send_again_after: Duration,
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
    /// Signs commands; no other part holds it but receipts.
    pub key: Arc<SigningKey>,
    /// Names this process in leases.
    pub owner: String,
    /// Signaled when there may be something to send.
    pub wake: Arc<Notify>,
    /// Times.
    pub settings: RelaySettings,
    /// What is counted.
    pub metrics: RelayMetrics,
}

/// Sends until a stop is requested.
pub async fn run(relay: Relay, shutdown: Shutdown) {
    Periodic::new("relay commands", relay.settings.poll)
        .on_signal(Arc::clone(&relay.wake))
        .run(&shutdown, || round(&relay))
        .await;
}

async fn round(relay: &Relay) -> Result<Next, StoreError> {
    let started = Instant::now();
    let due = due(&relay.settings, clock::now());
    let clusters = cluster_queue::clusters_with_due(&mut *relay.store.acquire().await?, &due).await?;
    if clusters.is_empty() {
        return Ok(Next::Wait);
    }
    for cluster in clusters {
        let span = tracing::info_span!("relay_round", cluster.id = %cluster);
        relay_cluster(relay, &cluster).instrument(span).await?;
    }
    relay.metrics.round_seconds.observe(started.elapsed().as_secs_f64());
    Ok(Next::Wait)
}

async fn relay_cluster(relay: &Relay, cluster: &ClusterId) -> Result<(), StoreError> {
    let Some(queue) = claim(relay, cluster).await? else { return Ok(()) };
    failpoint::passing("relay.marked-sent");
    for command in &queue.due {
        let trace_id = command.traceparent.map(|parent| parent.trace_id());
        let span = tracing::info_span!("send", otel.kind = "producer", trace.id = trace_id, command.id = %command.id);
        if let Some(parent) = command.traceparent {
            trace_context::follow(&span, &parent.to_string());
        }
        send(relay, cluster, &queue, command).instrument(span).await?;
    }
    Ok(())
}

fn due(settings: &RelaySettings, now: Timestamp) -> ClaimOptions {
    ClaimOptions {
        now,
        heartbeat_since: earlier(now, settings.stale_after),
        send_again_at: later(now, settings.send_again_after),
        window: i64::from(streams::COMMAND_WINDOW),
    }
}

/// Leases the cluster's queue and marks what is due as sent. None when another Manager has the queue.
async fn claim(relay: &Relay, cluster: &ClusterId) -> Result<Option<QueueState>, StoreError> {
    let now = clock::now();
    let until = now.checked_add(LEASE).unwrap_or(now);
    let claim = relay.store.transaction("claim due commands", async |transaction| {
        if !cluster_queue::lease(transaction, cluster, &relay.owner, now, until).await? {
            return Ok(None);
        }
        cluster_queue::claim(transaction, cluster, &due(&relay.settings, now)).await
    });
    claim.await
}

async fn send(relay: &Relay, cluster: &ClusterId, queue: &QueueState, command: &DueCommand) -> Result<(), StoreError> {
    let sent = |result| relay.metrics.sends.get_or_create(&SendLabels { result }).inc();
    let body = envelope::body(cluster, queue, command, clock::now());
    if body.len() > streams::MESSAGE_BYTES_MAX {
        let message =
            format!("the command has {} bytes, the broker accepts {}", body.len(), streams::MESSAGE_BYTES_MAX);
        tracing::error!(reason = message, "a command is too large to be sent; it has failed");
        sent("too_large");
        return cluster_queue::fail_unsendable(&mut *relay.store.acquire().await?, command.id, &message, clock::now())
            .await;
    }
    match publish(relay, cluster, command, body).await {
        Ok(stored) => {
            failpoint::passing("relay.published");
            sent("stored");
            tracing::info!(revision = command.revision, kind = command.kind, "command sent");
            cluster_queue::record_published(
                &mut *relay.store.acquire().await?,
                command.id,
                &stored.stream,
                stored.sequence,
            )
            .await
        }
        Err(error) => {
            sent("unconfirmed");
            tracing::warn!(error = %telemetry::chain(&error), "could not send a command; trying again");
            let again = later(clock::now(), UNPUBLISHED_PAUSE);
            cluster_queue::retry_at(&mut *relay.store.acquire().await?, command.id, again).await
        }
    }
}

async fn publish(
    relay: &Relay,
    cluster: &ClusterId,
    command: &DueCommand,
    body: Vec<u8>,
) -> Result<publish::Stored, kubenova_bus::BusError> {
    let signature = relay.key.sign(PayloadType::Command, &body);
    let id = command.id.to_string();
    let traceparent = trace_context::of(&Span::current()).or(command.traceparent.map(|parent| parent.to_string()));
    let headers = headers(&signature, &id, traceparent.as_deref());
    publish::publish(&relay.jetstream, &subjects::command(cluster.as_str(), &command.kind), headers, body).await
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

fn earlier(now: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| now.checked_sub(by).ok()).unwrap_or(now)
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
