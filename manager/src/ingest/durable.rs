//! One of the Manager's own durables: created when it is missing, consumed, and every message answered.
//!
//! Guarantees: a message is acknowledged only after the handler's commit; one that can never be handled is stored as a
//! dead letter before it is terminated; what Postgres could not store is delivered again. Before it: JetStream. After it:
//! the handlers beside this file.

use crate::metrics::{ConsumerLabels, IngestLabels, IngestMetrics};
use async_nats::jetstream;
use bytes::Bytes;
use futures::FutureExt as _;
use kubenova_bus::{
    BusError,
    consume::{self, Delivery, Verdict},
    durable::{self, OwnDurable},
    streams,
};
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::{clock, random, shutdown::Shutdown, telemetry};
use kubenova_schema::{signature::sha256_hex, subjects};
use kubenova_store::{
    connection::Connection,
    dead_letters::{self, NewDeadLetter},
    error::StoreError,
    pool::Store,
};
use std::{future::Future, panic::AssertUnwindSafe, time::Duration};
use tracing::Instrument as _;

/// Longest time to handle a message: less than the broker waits for its acknowledgement. A Postgres that is gone without a word
/// must not be waited for.
const HANDLE_MAX: Duration = Duration::from_secs(25);
/// Pause before a message that Postgres could not store is delivered again.
const RETRY: Duration = Duration::from_secs(1);
/// The verdict on such a message.
pub(super) const AGAIN: Verdict = Verdict::Later(RETRY);

/// What every consumer of ingest needs.
#[derive(Debug, Clone)]
pub struct Ingest {
    /// Postgres.
    pub store: Store,
    /// The broker.
    pub jetstream: jetstream::Context,
    /// What is counted.
    pub metrics: IngestMetrics,
}

/// Why a message was not stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum IngestError {
    /// It never can be, with the reason.
    #[error("{0}")]
    Invalid(String),
    /// Postgres refused it or did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It took too long.
    #[error("could not handle it within {} s", HANDLE_MAX.as_secs())]
    Late,
}

impl IngestError {
    /// True when the cause lies outside the message, so that others would fare no better.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Invalid(_) => false,
            Self::Store(error) => error.is_transient(),
            Self::Late => true,
        }
    }
}

/// Consumes until a stop is requested, one message after the other. What is handled keeps its acknowledger and is answered by the
/// handler.
pub(super) async fn run<H, F>(own: &OwnDurable, ingest: &Ingest, shutdown: &Shutdown, handle: H)
where
    H: Fn(Delivery) -> F + Send + Sync,
    F: Future<Output = Result<(), IngestError>> + Send,
{
    let Ingest { store, jetstream, metrics } = ingest;
    let consumer = own.name;
    let handle = |delivery: Delivery| {
        let (subject, payload) = (delivery.subject.clone(), delivery.payload.clone());
        let (stored_ms, pending) = (delivery.stored_ms, delivery.pending);
        let cluster = subjects::cluster_of(&subject).unwrap_or_default().to_owned();
        let span = tracing::info_span!("ingest", consumer, cluster.id = cluster, stream.sequence = delivery.sequence);
        let handled = guarded(handle(delivery));
        async move {
            let verdict = match handled.await {
                Ok(()) => Verdict::Held,
                Err(error) => verdict(store, &subject, &payload, error).await,
            };
            count(metrics, consumer, &verdict, stored_ms, pending);
            verdict
        }
        .instrument(span)
    };
    consume(own, jetstream, shutdown, handle).await;
}

/// Creates the durable when it is missing, and consumes until a stop is requested.
pub(super) async fn consume<H, F>(own: &OwnDurable, jetstream: &jetstream::Context, shutdown: &Shutdown, handle: H)
where
    H: Fn(Delivery) -> F + Send + Sync,
    F: Future<Output = Verdict> + Send,
{
    let create = || async {
        if let Err(error) = create(own, jetstream).await {
            let consumer = own.name;
            tracing::debug!(consumer, error = %telemetry::chain(&error), "could not create a durable; trying again");
        }
    };
    create().await;
    consume::run(jetstream, own.stream.name, own.name, shutdown, handle, create).await;
}

/// Handles messages within their time. A panic over a message must neither stop those behind it nor let it come again for ever.
pub(super) async fn guarded<T>(handle: impl Future<Output = Result<T, IngestError>> + Send) -> Result<T, IngestError> {
    let handled = tokio::time::timeout(HANDLE_MAX, AssertUnwindSafe(handle).catch_unwind()).await;
    let panicked = |_| {
        let reason = "the Manager panicked while it handled the message; see its log";
        Err(IngestError::Invalid(reason.to_owned()))
    };
    handled.map_or(Err(IngestError::Late), |handled| handled.unwrap_or_else(panicked))
}

async fn create(own: &OwnDurable, jetstream: &jetstream::Context) -> Result<(), BusError> {
    streams::ensure(jetstream, &own.stream).await?;
    durable::ensure_own(jetstream, own).await
}

/// Counts a message that was answered. One that is held is counted when it is.
pub(super) fn count(metrics: &IngestMetrics, consumer: &'static str, verdict: &Verdict, stored_ms: i64, pending: u64) {
    let labels = ConsumerLabels { consumer };
    metrics.pending.get_or_create(&labels).set(i64::try_from(pending).unwrap_or(i64::MAX));
    let verdict = match verdict {
        Verdict::Done => "done",
        Verdict::Later(_) => "later",
        Verdict::Terminate(_) => "dead_letter",
        Verdict::Held => return,
    };
    metrics.messages.get_or_create(&IngestLabels { consumer, verdict }).inc();
    let lag = u64::try_from(clock::now_ms().saturating_sub(stored_ms)).unwrap_or_default();
    metrics.lag_seconds.get_or_create(&labels).observe(Duration::from_millis(lag).as_secs_f64());
}

/// The answer for a message that was not stored. Its dead letter is stored first, so terminating it loses nothing.
pub(super) async fn verdict(store: &Store, subject: &str, payload: &Bytes, error: IngestError) -> Verdict {
    let reason = match error {
        IngestError::Invalid(reason) => Ok(reason),
        IngestError::Store(error) if error.is_unstorable() => {
            Ok(format!("Postgres cannot store what it says: {}", telemetry::chain(&error)))
        }
        error => Err(error),
    };
    let error = match reason {
        Ok(reason) => match store_dead_letter(store, subject, payload, &reason).await {
            Ok(()) => return Verdict::Terminate(reason),
            Err(error) => error.into(),
        },
        Err(error) => error,
    };
    tracing::warn!(subject, error = %telemetry::chain(&error), "could not store a message; it will be delivered again");
    AGAIN
}

async fn store_dead_letter(store: &Store, subject: &str, payload: &Bytes, reason: &str) -> Result<(), StoreError> {
    let insert = store.transaction("add a dead letter", async |transaction| {
        insert_dead_letter(transaction, subject, payload, reason).await
    });
    insert.await
}

/// Stores a dead letter in a transaction that does more.
pub(super) async fn insert_dead_letter(
    connection: &mut Connection,
    subject: &str,
    payload: &Bytes,
    reason: &str,
) -> Result<(), StoreError> {
    let cluster = sender(subject).map(|cluster| cluster.to_string()).unwrap_or_default();
    // The reason may quote what a hostile cluster sent, and Postgres stores no NUL in a text.
    let reason = reason.replace('\0', "\u{fffd}");
    let payload_sha256 = sha256_hex(payload);
    let letter = NewDeadLetter {
        id: random::uuid_v7(),
        cluster: &cluster,
        payload_sha256: &payload_sha256,
        subject,
        reason: &reason,
        payload,
    };
    dead_letters::insert(connection, &letter, clock::now()).await
}

/// The cluster that a subject names: the broker lets only that cluster publish there.
pub(super) fn sender(subject: &str) -> Result<ClusterId, IngestError> {
    let cluster = subjects::cluster_of(subject).and_then(ClusterId::parse);
    cluster.ok_or_else(|| IngestError::Invalid(format!("subject \"{subject}\" does not name a cluster")))
}

/// The sender, if the message itself names the same cluster.
pub(super) fn sender_named(subject: &str, named: &str) -> Result<ClusterId, IngestError> {
    let cluster = sender(subject)?;
    if named == cluster.as_str() {
        Ok(cluster)
    } else {
        Err(IngestError::Invalid(format!("cluster {cluster} reported for cluster \"{named}\"")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "c0123456789abcdefghjkmnpqrs";

    #[test]
    fn a_message_counts_for_the_cluster_of_its_subject_only() {
        let subject = subjects::outcome(CLUSTER);
        assert_eq!(sender_named(&subject, CLUSTER).unwrap().as_str(), CLUSTER);
        let other = sender_named(&subject, "c1123456789abcdefghjkmnpqrs");
        assert!(matches!(other, Err(IngestError::Invalid(reason)) if reason.contains("reported for cluster")));
        assert!(matches!(sender("kn.v1"), Err(IngestError::Invalid(_))));
    }
}
