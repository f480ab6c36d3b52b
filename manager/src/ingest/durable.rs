//! One of the Manager's own durables: made when it is missing, drained, and every message answered for.
//!
//! Guarantees: acknowledged only after the handler's commit; what can never be handled becomes a row in `dead_letters` before
//! it is ended; what Postgres could not take comes again. Before it: JetStream. After it: the handlers beside this file.

use async_nats::jetstream;
use bytes::Bytes;
use futures::FutureExt as _;
use kubenova_bus::{
    BusError,
    consume::{self, Delivery, Verdict},
    durable, streams as made,
};
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::{clock, shutdown::Shutdown, telemetry};
use kubenova_schema::{signature::sha256_hex, streams::Stream, subjects};
use kubenova_store::{
    connection::Connection,
    dead_letters::{self, DeadLetter},
    error::StoreError,
    pool::Store,
};
use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

/// Pause after Postgres did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Which messages.
#[derive(Debug)]
pub(super) struct OwnDurable {
    pub(super) stream: Stream,
    pub(super) name: &'static str,
    pub(super) filter: &'static str,
    /// Time to commit a message before it comes again.
    pub(super) ack_wait: Duration,
}

/// Why a message was not taken in.
#[derive(Debug)]
pub(super) enum IngestError {
    /// It never can be; the reason is for people.
    InvalidUsage(String),
    /// Not now.
    Store(StoreError),
}

impl From<StoreError> for IngestError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// Committed.
    Committed,
    /// The handler answers for it later.
    Held,
}

/// Ingests until a stop is asked for.
pub(super) async fn run<H, F>(
    own: &OwnDurable,
    store: &Store,
    jetstream: &jetstream::Context,
    shutdown: &Shutdown,
    take: H,
) where
    H: Fn(Delivery) -> F + Send + Sync,
    F: Future<Output = Result<Taken, IngestError>> + Send,
{
    let handle = |delivery: Delivery| {
        let (subject, payload) = (delivery.subject.clone(), delivery.payload.clone());
        // A message on which we stumble must not stop those behind it, nor come again for ever.
        let taking = AssertUnwindSafe(take(delivery)).catch_unwind();
        async move {
            match taking.await {
                Ok(Ok(Taken::Committed)) => Verdict::Done,
                Ok(Ok(Taken::Held)) => Verdict::Held,
                Ok(Err(trouble)) => verdict(store, &subject, &payload, trouble).await,
                Err(_) => {
                    let trouble =
                        IngestError::InvalidUsage("the Manager stumbled on it; its log shows a panic".to_owned());
                    verdict(store, &subject, &payload, trouble).await
                }
            }
        }
    };
    let missing = || async {
        if let Err(error) = ensure(own, jetstream).await {
            tracing::debug!(durable = own.name, error = %telemetry::chain(&error), "could not make a durable; trying again");
        }
    };
    missing().await;
    consume::run(jetstream, own.stream.name, own.name, shutdown, handle, missing).await;
}

async fn ensure(own: &OwnDurable, jetstream: &jetstream::Context) -> Result<(), BusError> {
    made::ensure(jetstream, &own.stream).await?;
    durable::ensure_own(jetstream, own.stream.name, own.name, own.filter, own.ack_wait).await
}

/// The answer for a message that was not taken in. DeadLetter is kept first, so ending it loses nothing.
pub(super) async fn verdict(store: &Store, subject: &str, payload: &Bytes, trouble: IngestError) -> Verdict {
    let never = match trouble {
        IngestError::InvalidUsage(reason) => Ok(reason),
        IngestError::Store(error) if error.is_unstorable() => {
            Ok(format!("Postgres cannot store what it says: {}", telemetry::chain(&error)))
        }
        IngestError::Store(error) => Err(error),
    };
    let error = match never {
        Ok(reason) => match keep_alone(store, subject, payload, &reason).await {
            Ok(()) => return Verdict::Poison(reason),
            Err(error) => error,
        },
        Err(error) => error,
    };
    tracing::warn!(subject, error = %telemetry::chain(&error), "could not take a message in; it will come again");
    Verdict::Later(RETRY)
}

async fn keep_alone(store: &Store, subject: &str, payload: &Bytes, reason: &str) -> Result<(), StoreError> {
    let mut transaction = store.begin("add a dead letter").await?;
    keep(&mut transaction, subject, payload, reason).await?;
    transaction.commit().await
}

/// Keeps a message for people.
pub(super) async fn keep(
    connection: &mut Connection,
    subject: &str,
    payload: &Bytes,
    reason: &str,
) -> Result<(), StoreError> {
    let cluster = sender(subject).map(|cluster| cluster.to_string()).unwrap_or_default();
    // What a hostile cluster makes us repeat may hold what Postgres takes in no text.
    let reason = reason.replace('\0', "\u{fffd}");
    let payload_sha256 = sha256_hex(payload);
    let kept = DeadLetter { cluster: &cluster, payload_sha256: &payload_sha256, subject, reason: &reason, payload };
    dead_letters::insert(connection, &kept, clock::now()).await
}

/// The cluster that a subject names: the broker's permissions vouch for it.
pub(super) fn sender(subject: &str) -> Result<ClusterId, IngestError> {
    let cluster = subjects::cluster_of(subject).and_then(ClusterId::parse);
    cluster.ok_or_else(|| IngestError::InvalidUsage(format!("subject \"{subject}\" names no cluster")))
}

/// The sender, if the body names the same one.
pub(super) fn sender_named(subject: &str, named: &str) -> Result<ClusterId, IngestError> {
    let cluster = sender(subject)?;
    if named == cluster.as_str() {
        Ok(cluster)
    } else {
        Err(IngestError::InvalidUsage(format!("cluster {cluster} reported for cluster \"{named}\"")))
    }
}
