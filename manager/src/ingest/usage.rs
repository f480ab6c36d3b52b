//! Sealed usage windows into the ledger, each once.
//!
//! A window's chunks are put together in memory, un-acknowledged: what is lost here comes again. Every chunk is checked
//! against the cluster's enrolled nkeys before it is kept. Then one transaction writes window, ledger rows and billing
//! events; only after its commit are all chunks acknowledged and the receipt asked for. The same manifest again is a
//! replay, another one a conflict that is kept and raised, and what can never be counted becomes a poison row.

pub mod assembly;
pub mod check;

use crate::billing::event;
use assembly::{Assembly, Key, Whole};
use async_nats::jetstream;
use check::{Checked, Malformed};
use jiff::Timestamp;
use kubenova_bus::{
    BusError, consume,
    consume::{Delivery, Verdict},
    durable, streams as made,
};
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::{clock, failpoint, shutdown::Shutdown};
use kubenova_schema::{message, signature::sha256_hex, streams, subjects, v1::UsageChunk, window::Window};
use kubenova_store::{
    billing,
    error::StoreError,
    ledger::{self, RowsOf},
    pool::Store,
    windows::{self, Arrival},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, mpsc};

/// The Manager's own durable on KN_USE.
pub const DURABLE: &str = "manager-usage";

/// Time to put a window together and commit it before its chunks come again.
const ACK_WAIT: Duration = Duration::from_secs(60);
/// Pause after Postgres did not answer.
const RETRY: Duration = Duration::from_secs(2);

/// What ingest needs.
#[derive(Debug)]
pub struct UsageIngest {
    /// Postgres.
    pub store: Store,
    /// Told which cluster waits for a receipt.
    pub receipts: mpsc::Sender<ClusterId>,
    /// Told that billing events wait.
    pub billing: Arc<Notify>,
}

/// Ingests until a stop is asked for.
pub async fn run(ingest: UsageIngest, jetstream: jetstream::Context, shutdown: Shutdown) {
    let ingest = Arc::new(Ingest { parts: ingest, assembly: Mutex::default() });
    if let Err(error) = ensure(&jetstream).await {
        tracing::warn!(%error, "could not ensure the durable for usage; trying again");
    }
    let handle = |delivery: Delivery| {
        let ingest = Arc::clone(&ingest);
        async move { ingest.handle(delivery).await }
    };
    let missing = || async {
        if let Err(error) = ensure(&jetstream).await {
            tracing::debug!(%error, "could not ensure the durable for usage; trying again");
        }
    };
    consume::run(&jetstream, streams::USAGE.name, DURABLE, &shutdown, handle, missing).await;
}

async fn ensure(jetstream: &jetstream::Context) -> Result<(), BusError> {
    made::ensure(jetstream, &streams::USAGE).await?;
    durable::ensure_own(jetstream, streams::USAGE.name, DURABLE, subjects::every::USAGE, ACK_WAIT).await
}

struct Ingest {
    parts: UsageIngest,
    assembly: Mutex<Assembly>,
}

/// Why a delivery was not taken in.
enum Trouble {
    /// It never can be.
    Malformed(Malformed),
    /// Not now.
    Store(StoreError),
}

impl From<Malformed> for Trouble {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Ingest {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let (subject, payload) = (delivery.subject.clone(), delivery.payload.clone());
        let acknowledger = delivery.acknowledger.clone();
        let (verdict, others) = match self.take(delivery).await {
            Ok(None) => return Verdict::Held,
            Ok(Some(whole)) => {
                let verdict = match self.commit(&whole).await {
                    Ok(()) => Verdict::Done,
                    Err(trouble) => self.verdict(trouble, &subject, &whole.payload).await,
                };
                (verdict, whole.acknowledgers)
            }
            Err(trouble) => (self.verdict(trouble, &subject, &payload).await, Vec::new()),
        };
        for other in &others {
            other.answer(&verdict).await;
        }
        // The last chunk's own acknowledger is among the others, if there are any.
        if !others.is_empty() {
            return Verdict::Held;
        }
        drop(acknowledger);
        verdict
    }

    async fn verdict(&self, trouble: Trouble, subject: &str, payload: &[u8]) -> Verdict {
        match trouble {
            Trouble::Malformed(malformed) => match self.keep_poison(subject, &malformed, payload).await {
                Ok(()) => Verdict::Poison(malformed.to_string()),
                Err(error) => later(&error),
            },
            Trouble::Store(error) => later(&error),
        }
    }

    async fn keep_poison(&self, subject: &str, malformed: &Malformed, payload: &[u8]) -> Result<(), StoreError> {
        let mut connection = self.parts.store.read().await?;
        let reason = malformed.to_string();
        windows::keep_poison(&mut connection, &sha256_hex(payload), subject, &reason, payload, clock::now())
            .await
            .map(drop)
    }

    /// Takes a chunk in; the whole window when it was the last.
    async fn take(&self, delivery: Delivery) -> Result<Option<Whole>, Trouble> {
        let (cluster, window) = named(&delivery.subject)?;
        let chunk: UsageChunk =
            message::from_binary(&delivery.payload).map_err(|error| Malformed::Unreadable(error.to_string()))?;
        self.check_signature(&cluster, &chunk).await?;
        let key = Key { cluster, window, manifest_sha256: sha256_hex(&chunk.manifest) };
        let mut assembly = self.assembly.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(assembly.add(key, chunk, delivery.acknowledger, delivery.payload)?)
    }

    async fn check_signature(&self, cluster: &ClusterId, chunk: &UsageChunk) -> Result<(), Trouble> {
        let nkey = check::signer(&chunk.manifest_signature)?;
        let mut connection = self.parts.store.read().await?;
        if !windows::is_key_of(&mut connection, cluster, nkey).await? {
            return Err(Malformed::UnknownKey(nkey.to_owned()).into());
        }
        Ok(check::verify(&chunk.manifest, &chunk.manifest_signature)?)
    }

    async fn commit(&self, whole: &Whole) -> Result<(), Trouble> {
        let now = clock::now();
        let checked = check::check(whole, now)?;
        let mut transaction = self.parts.store.transaction().await?;
        let arrival = windows::insert(&mut transaction, &checked.window, now).await?;
        match arrival {
            Arrival::New => write(&mut transaction, &whole.key.cluster, &checked, now).await?,
            Arrival::Replay => {}
            Arrival::Conflict => {
                if windows::keep_conflict(&mut transaction, &checked.window, &whole.records, now).await? {
                    tracing::error!(
                        cluster.id = %whole.key.cluster, window = %whole.key.window,
                        "a cluster reported other bytes for a window that is in the ledger; kept in usage_conflicts, not counted"
                    );
                }
            }
        }
        failpoint::passing("usage.ingest.before-commit");
        transaction.commit().await.map_err(|source| StoreError::Query { attempt: "commit a usage window", source })?;
        failpoint::passing("usage.ingest.after-commit");
        if arrival == Arrival::New {
            self.parts.billing.notify_one();
        }
        // Full means that plenty of receipts are being made; this one is in the next list of its cluster anyway.
        let _full = self.parts.receipts.try_send(whole.key.cluster.clone());
        Ok(())
    }
}

async fn write(
    transaction: &mut sqlx::PgConnection,
    cluster: &ClusterId,
    checked: &Checked,
    now: Timestamp,
) -> Result<(), StoreError> {
    let window = &checked.window;
    let of = RowsOf {
        cluster,
        window: window.window,
        revision: window.revision,
        quality: &checked.quality,
        coverage_ms: window.coverage_ms,
        gaps: &window.gaps,
        incarnation: &window.incarnation,
        received_at: now,
    };
    ledger::insert(transaction, &of, &checked.rows).await?;
    let events: Vec<billing::NewEvent> = checked.rows.iter().map(|row| event::usage(&of, row)).collect();
    billing::insert(transaction, cluster, &events, now).await
}

fn later(error: &StoreError) -> Verdict {
    tracing::warn!(error = %kubenova_runtime::telemetry::chain(error), "could not take in usage; it will come again");
    Verdict::Later(RETRY)
}

/// Cluster and window that a subject names.
fn named(subject: &str) -> Result<(ClusterId, Window), Malformed> {
    let cluster = subjects::cluster_of(subject).and_then(ClusterId::parse);
    let window = subject.rsplit('.').next().and_then(Window::parse);
    cluster.zip(window).ok_or_else(|| Malformed::Subject(subject.to_owned()))
}
