//! Sealed usage windows into the ledger, each once.
//!
//! A window's chunks are put together in memory, un-acknowledged: what is lost here comes again. Every chunk is checked
//! against the cluster's enrolled nkeys before it is kept. Then one transaction writes window, ledger rows and billing
//! events; only after its commit are all chunks acknowledged and the receipt asked for. The same manifest again is a
//! replay, another one a conflict that is kept and raised, and what can never be counted becomes a dead_letters row.

pub mod assembly;
pub mod check;

use super::durable::{self, IngestError, OwnDurable, Taken};
use crate::billing::event;
use assembly::{Assembly, Key, Whole};
use async_nats::jetstream;
use check::{Checked, InvalidUsage};
use jiff::Timestamp;
use kubenova_bus::consume::{Delivery, Verdict};
use kubenova_core::{cluster::ClusterId, tenant::TenantId};
use kubenova_runtime::{clock, failpoint, shutdown::Shutdown};
use kubenova_schema::{message, signature::sha256_hex, streams, subjects, v1::UsageChunk, window::Window};
use kubenova_store::{
    billing, cluster_keys,
    connection::Connection,
    error::StoreError,
    ledger::{self, WindowRows},
    placements,
    pool::Store,
    usage_conflicts,
    windows::{self, Arrival},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, mpsc};

const USAGE: OwnDurable = OwnDurable {
    stream: streams::USAGE,
    name: "manager-usage",
    filter: subjects::every::USAGE,
    ack_wait: Duration::from_secs(60),
};

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
    let store = ingest.store.clone();
    let ingest = Arc::new(Ingest { parts: ingest, assembly: Mutex::default() });
    let take = |delivery: Delivery| {
        let ingest = Arc::clone(&ingest);
        async move { ingest.handle(delivery).await }
    };
    durable::run(&USAGE, &store, &jetstream, &shutdown, take).await;
}

struct Ingest {
    parts: UsageIngest,
    assembly: Mutex<Assembly>,
}

impl From<InvalidUsage> for IngestError {
    fn from(malformed: InvalidUsage) -> Self {
        Self::InvalidUsage(malformed.to_string())
    }
}

impl Ingest {
    /// One answer for all chunks of a window, the last one's among them.
    async fn handle(&self, delivery: Delivery) -> Result<Taken, IngestError> {
        let subject = delivery.subject.clone();
        let Some(whole) = self.take(delivery).await? else { return Ok(Taken::Held) };
        let verdict = match self.commit(&subject, &whole).await {
            Ok(()) => Verdict::Done,
            Err(trouble) => durable::verdict(&self.parts.store, &subject, &whole.payload, trouble).await,
        };
        for acknowledger in &whole.acknowledgers {
            acknowledger.answer(&verdict).await;
        }
        Ok(Taken::Held)
    }

    /// Takes a chunk in; the whole window when it was the last.
    async fn take(&self, delivery: Delivery) -> Result<Option<Whole>, IngestError> {
        let (cluster, window) = named(&delivery.subject)?;
        let chunk: UsageChunk =
            message::from_binary(&delivery.payload).map_err(|error| InvalidUsage::Unreadable(error.to_string()))?;
        self.check_signature(&cluster, &chunk).await?;
        let key = Key { cluster, window, manifest_sha256: sha256_hex(&chunk.manifest) };
        let mut assembly = self.assembly.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(assembly.add(key, chunk, delivery.acknowledger, delivery.payload)?)
    }

    async fn check_signature(&self, cluster: &ClusterId, chunk: &UsageChunk) -> Result<(), IngestError> {
        let nkey = check::signer(&chunk.manifest_signature)?;
        let mut connection = self.parts.store.acquire().await?;
        if !cluster_keys::contains(&mut connection, cluster, nkey).await? {
            return Err(InvalidUsage::UnknownKey(nkey.to_owned()).into());
        }
        Ok(check::verify(&chunk.manifest, &chunk.manifest_signature)?)
    }

    async fn commit(&self, subject: &str, whole: &Whole) -> Result<(), IngestError> {
        let now = clock::now();
        let mut checked = check::check(whole, now)?;
        let mut transaction = self.parts.store.begin("add a usage window").await?;
        let arrival = windows::insert(&mut transaction, &checked.window, now).await?;
        match arrival {
            Arrival::New => {
                let strangers = set_unplaced_tenants_aside(&mut transaction, &whole.key.cluster, &mut checked).await?;
                if !strangers.is_empty() {
                    let named = strangers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    let reason = format!("not counted, because they were never on this cluster: tenants {named}");
                    tracing::error!(cluster.id = %whole.key.cluster, window = %whole.key.window, reason, "usage of strangers");
                    durable::keep(&mut transaction, subject, &whole.payload, &reason).await?;
                }
                write(&mut transaction, &whole.key.cluster, &checked, now).await?;
            }
            Arrival::Replay => {}
            Arrival::Conflict => {
                if usage_conflicts::insert(&mut transaction, &checked.window, &whole.records, now).await? {
                    tracing::error!(
                        cluster.id = %whole.key.cluster, window = %whole.key.window,
                        "a cluster reported other bytes for a window that is in the ledger; kept in usage_conflicts, not counted"
                    );
                }
            }
        }
        failpoint::passing("usage.ingest.before-commit");
        transaction.commit().await?;
        failpoint::passing("usage.ingest.after-commit");
        if arrival == Arrival::New {
            self.parts.billing.notify_one();
        }
        // Full means that plenty of receipts are being made; this one is in the next list of its cluster anyway.
        let _full = self.parts.receipts.try_send(whole.key.cluster.clone());
        Ok(())
    }
}

/// Takes the rows of tenants that were never ordered on the cluster out of a window.
async fn set_unplaced_tenants_aside(
    transaction: &mut Connection,
    cluster: &ClusterId,
    checked: &mut Checked,
) -> Result<Vec<TenantId>, StoreError> {
    let tenants: Vec<TenantId> = checked.rows.iter().map(|row| row.tenant).collect();
    let known = placements::ever_on(transaction, cluster, &tenants).await?;
    checked.rows.retain(|row| known.contains(&row.tenant));
    Ok(tenants.into_iter().filter(|tenant| !known.contains(tenant)).collect())
}

async fn write(
    transaction: &mut Connection,
    cluster: &ClusterId,
    checked: &Checked,
    now: Timestamp,
) -> Result<(), StoreError> {
    let window = &checked.window;
    let of = WindowRows {
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

/// Cluster and window that a subject names.
fn named(subject: &str) -> Result<(ClusterId, Window), InvalidUsage> {
    let cluster = subjects::cluster_of(subject).and_then(ClusterId::parse);
    let window = subject.rsplit('.').next().and_then(Window::parse);
    cluster.zip(window).ok_or_else(|| InvalidUsage::Subject(subject.to_owned()))
}
