//! Messages out: from outbox rows to JetStream, signed.
//!
//! Each round: clusters in session with due rows → lease the lane → mark rows `sent` and commit → sign and publish
//! outside the transaction → note stream and sequence. A row that nobody acknowledges is due again later; the Operator's
//! fence makes that harmless. A notification only makes a round sooner; the poll is the truth.
//!
//! Before it: `store/outbox.rs`. After it: `operator/src/inbound`.

mod envelope;

use async_nats::jetstream;
use jiff::{SignedDuration, Timestamp};
use kubenova_bus::publish;
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::{clock, failpoint, random, shutdown::Shutdown, telemetry};
use kubenova_schema::{
    signature::{COMMAND_ID_HEADER, HEADER, SCHEMA_HEADER, SigningKey},
    streams, subjects,
};
use kubenova_store::{
    cluster_queue::{self, Due, DueCommand, QueueState},
    error::StoreError,
    pool::Store,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;

/// How long a lane is held: three rounds of a Manager that is slow.
const LANE_SECONDS: i64 = 10;
/// Pause before a command that could not be published is due again.
const NOT_PUBLISHED_SECONDS: i64 = 1;

/// Times of the relay.
#[derive(Debug, Clone, Copy)]
pub struct RelaySettings {
    /// Longest pause between rounds.
    pub poll: Duration,
    /// A sent row that nobody acknowledged is sent again after this.
    pub send_again_after: Duration,
    /// A cluster not heard of for this long is not in session.
    pub stale_after: Duration,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(500),
            send_again_after: Duration::from_secs(30),
            stale_after: Duration::from_secs(45),
        }
    }
}

/// What the relay needs.
#[derive(Debug)]
pub struct Relay {
    /// Postgres.
    pub store: Store,
    /// The broker.
    pub jetstream: jetstream::Context,
    /// Signs commands; nobody else holds it.
    pub key: Arc<SigningKey>,
    /// Names this process in lanes.
    pub owner: String,
    /// Rung when there may be something to send.
    pub wake: Arc<Notify>,
    /// Times.
    pub settings: RelaySettings,
}

/// Sends until a stop is asked for.
pub async fn run(relay: Relay, shutdown: Shutdown) {
    while !shutdown.is_requested() {
        if let Err(error) = round(&relay).await {
            tracing::warn!(error = %telemetry::chain(&error), "a round of the relay failed; trying again");
        }
        tokio::select! {
            () = shutdown.requested() => return,
            () = relay.wake.notified() => {}
            () = tokio::time::sleep(relay.settings.poll) => {}
        }
    }
}

async fn round(relay: &Relay) -> Result<(), StoreError> {
    let due = due(&relay.settings, clock::now());
    let clusters = cluster_queue::clusters_with_due(&mut *relay.store.acquire().await?, &due).await?;
    for cluster in clusters {
        let Some(lane) = claim(relay, &cluster).await? else { continue };
        failpoint::passing("relay.marked-sent");
        send(relay, &cluster, &lane).await?;
    }
    Ok(())
}

fn due(settings: &RelaySettings, now: Timestamp) -> Due {
    Due {
        now,
        heartbeat_since: earlier(now, settings.stale_after),
        send_again_at: later(now, settings.send_again_after),
        window: i64::from(streams::COMMAND_WINDOW),
    }
}

async fn claim(relay: &Relay, cluster: &ClusterId) -> Result<Option<QueueState>, StoreError> {
    let now = clock::now();
    let until = now.checked_add(SignedDuration::from_secs(LANE_SECONDS)).unwrap_or(now);
    let mut transaction = relay.store.begin("claim due commands").await?;
    if !cluster_queue::lease(&mut transaction, cluster, &relay.owner, now, until).await? {
        return Ok(None);
    }
    let lane = cluster_queue::claim(&mut transaction, cluster, &due(&relay.settings, now)).await?;
    transaction.commit().await?;
    Ok(lane)
}

async fn send(relay: &Relay, cluster: &ClusterId, lane: &QueueState) -> Result<(), StoreError> {
    for command in &lane.due {
        let body = envelope::body(cluster, lane, command, clock::now());
        if body.len() > streams::MESSAGE_BYTES_MAX {
            let why = format!("the command has {} bytes, the broker takes {}", body.len(), streams::MESSAGE_BYTES_MAX);
            tracing::error!(cluster.id = %cluster, command.id = %command.id, why, "a command can never be sent; it has failed");
            cluster_queue::fail_unsendable(&mut *relay.store.acquire().await?, command.id, &why, clock::now()).await?;
            continue;
        }
        match publish_one(relay, cluster, command, body).await {
            Ok(stored) => {
                failpoint::passing("relay.published");
                cluster_queue::record_published(
                    &mut *relay.store.acquire().await?,
                    command.id,
                    &stored.stream,
                    stored.sequence,
                )
                .await?;
                tracing::info!(cluster.id = %cluster, command.id = %command.id, revision = command.revision, kind = command.kind, "command sent");
            }
            Err(error) => {
                tracing::warn!(cluster.id = %cluster, command.id = %command.id, error = %telemetry::chain(&error), "could not send a command; trying again");
                let again = later(clock::now(), Duration::from_secs(NOT_PUBLISHED_SECONDS.unsigned_abs()));
                cluster_queue::retry_at(&mut *relay.store.acquire().await?, command.id, again).await?;
            }
        }
    }
    Ok(())
}

async fn publish_one(
    relay: &Relay,
    cluster: &ClusterId,
    command: &DueCommand,
    body: Vec<u8>,
) -> Result<publish::Stored, kubenova_bus::BusError> {
    let signature = relay.key.sign(kubenova_schema::signature::PayloadType::Command, &body);
    let headers = publish::headers(
        &random::uuid_v4().to_string(),
        &[
            (HEADER, signature.as_str()),
            (COMMAND_ID_HEADER, command.id.to_string().as_str()),
            (SCHEMA_HEADER, "kubenova.v1.Command"),
        ],
    );
    publish::publish(&relay.jetstream, &subjects::command(cluster.as_str(), &command.kind), headers, body).await
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| now.checked_add(by).ok()).unwrap_or(now)
}

fn earlier(now: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| now.checked_sub(by).ok()).unwrap_or(now)
}
