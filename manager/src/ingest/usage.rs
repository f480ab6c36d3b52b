//! Sealed usage windows into the ledger, each once.
//!
//! The chunks of a window are collected in memory and stay unacknowledged: what is lost here is delivered again. Every
//! chunk's signature is verified against the cluster's enrolled nkeys before it is kept. Then one transaction writes
//! window, ledger rows and billing events; only after its commit are all chunks acknowledged and the receipt requested.
//! Usage of a tenant that is not known on the cluster is kept, and counted once it is (`claim.rs`).
//! The same manifest again is a replay; another one for the same window is a conflict, which is stored and logged as an
//! error; what can never be counted becomes a dead letter.

mod assembly;
pub mod claim;
mod invalid;
mod manifest;
mod signature;

use super::durable::{self, Ingest, IngestError};
use crate::{billing::event, receipts::Extent};
use assembly::{Added, Assembly, Ended, Key, Whole};
use invalid::InvalidUsage;
use jiff::Timestamp;
use kubenova_bus::{
    consume::{Delivery, Verdict},
    durable::OwnDurable,
};
use kubenova_core::{cluster::ClusterId, tenant::TenantId};
use kubenova_runtime::{clock, failpoint, shutdown::Shutdown};
use kubenova_schema::{message, signature::sha256_hex, streams, subjects, v1::UsageChunk, window::Window};
use kubenova_store::{
    billing,
    connection::Connection,
    error::StoreError,
    identities,
    ledger::{self, NewRow, WindowRows},
    placements, unclaimed_usage, usage_conflicts,
    windows::{self, Arrival},
};
use manifest::Checked;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

const USAGE: OwnDurable = OwnDurable {
    stream: streams::USAGE,
    name: "manager-usage",
    description: "The Manager's reader of sealed usage windows",
    filter: subjects::every::USAGE,
    ack_wait: Duration::from_secs(60),
};

/// What a committed window wakes.
#[derive(Debug, Clone)]
pub struct Wakes {
    /// Sends receipts to the cluster.
    pub receipts: crate::receipts::ReceiptQueue,
    /// Publishes billing events.
    pub billing: Arc<Notify>,
}

/// Ingests until a stop is requested.
pub async fn run(ingest: Ingest, wakes: Wakes, shutdown: Shutdown) {
    let usage = Arc::new(UsageIngest { ingest: ingest.clone(), wakes, assembly: Mutex::default() });
    let handle = |delivery: Delivery| {
        let usage = Arc::clone(&usage);
        async move { usage.handle(delivery).await }
    };
    Box::pin(durable::run(&USAGE, &ingest, &shutdown, handle)).await;
}

struct UsageIngest {
    ingest: Ingest,
    wakes: Wakes,
    assembly: Mutex<Assembly>,
}

impl From<InvalidUsage> for IngestError {
    fn from(invalid: InvalidUsage) -> Self {
        Self::Invalid(invalid.to_string())
    }
}

impl UsageIngest {
    /// Commits the window whose last chunk this is, and gives all its chunks the same answer.
    async fn handle(&self, delivery: Delivery) -> Result<(), IngestError> {
        let subject = delivery.subject.clone();
        let (stored_ms, pending) = (delivery.stored_ms, delivery.pending);
        let Added { whole, ended } = self.collect(delivery).await?;
        self.end(&ended).await;
        let Some(whole) = whole else { return Ok(()) };
        let verdict = match self.commit(&subject, &whole).await {
            Ok(()) => Verdict::Done,
            Err(error) => durable::verdict(&self.ingest.store, &subject, &whole.payload, error).await,
        };
        for acknowledger in &whole.acknowledgers {
            acknowledger.answer(&verdict).await;
        }
        durable::count(&self.ingest.metrics, USAGE.name, &verdict, stored_ms, pending);
        Ok(())
    }

    /// Ends chunks of windows that did not become whole. Nothing is lost: the cluster keeps the window until it holds a
    /// receipt, and publishes it again.
    async fn end(&self, windows: &[Ended]) {
        let verdict = Verdict::Terminate("the window did not become whole".to_owned());
        for Ended { key, acknowledgers } in windows {
            tracing::debug!(
                window.cluster = %key.cluster, window = %key.window, chunks = acknowledgers.len(),
                "ended the chunks of a usage window that did not become whole; its cluster publishes it again"
            );
            for acknowledger in acknowledgers {
                acknowledger.answer(&verdict).await;
            }
        }
    }

    /// Keeps a chunk; returns the whole window when it was the last.
    async fn collect(&self, delivery: Delivery) -> Result<Added, IngestError> {
        let (cluster, window) = named(&delivery.subject)?;
        let chunk: UsageChunk =
            message::from_binary(&delivery.payload).map_err(|error| InvalidUsage::Undecodable(error.to_string()))?;
        self.verify(&cluster, &chunk).await?;
        let key = Key { cluster, window, manifest_sha256: sha256_hex(&chunk.manifest) };
        let mut assembly = self.assembly.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(assembly.add(key, chunk, delivery.acknowledger, delivery.payload)?)
    }

    async fn verify(&self, cluster: &ClusterId, chunk: &UsageChunk) -> Result<(), IngestError> {
        let nkey = signature::signer(&chunk.manifest_signature)?;
        let mut connection = self.ingest.store.acquire().await?;
        if !identities::contains(&mut connection, cluster, nkey).await? {
            return Err(InvalidUsage::UnknownKey(nkey.to_owned()).into());
        }
        Ok(signature::verify(&chunk.manifest, &chunk.manifest_signature)?)
    }

    async fn commit(&self, subject: &str, whole: &Whole) -> Result<(), IngestError> {
        let now = clock::now();
        let checked = manifest::check(whole, now)?;
        let add = self.ingest.store.transaction("add a usage window", async |transaction| {
            let arrival = insert_window(transaction, subject, whole, checked, now).await?;
            failpoint::passing("usage.ingest.before-commit");
            Ok::<_, StoreError>(arrival)
        });
        let arrival = add.await?;
        failpoint::passing("usage.ingest.after-commit");
        if arrival == Arrival::New {
            self.wakes.billing.notify_one();
        }
        self.wakes.receipts.add(whole.key.cluster.clone(), Extent::Newest);
        Ok(())
    }
}

/// Adds a window that is new with its rows, and keeps what cannot be counted for an administrator to look at.
async fn insert_window(
    transaction: &mut Connection,
    subject: &str,
    whole: &Whole,
    mut checked: Checked,
    now: Timestamp,
) -> Result<Arrival, StoreError> {
    let arrival = windows::insert(transaction, &checked.window, now).await?;
    match arrival {
        Arrival::New => {
            let unknown = remove_unknown_tenants(transaction, &whole.key.cluster, &mut checked).await?;
            let of = rows_of(&whole.key.cluster, &checked, now);
            let no_room = keep_unclaimed(transaction, &of, &unknown).await?;
            if let Some(reason) = not_counted(&checked.set_aside, no_room) {
                tracing::error!(window = %whole.key.window, reason, "records of a usage window are not counted");
                durable::insert_dead_letter(transaction, subject, &whole.payload, &reason).await?;
            }
            insert_rows(transaction, &of, &checked.rows).await?;
        }
        Arrival::Replay => {}
        Arrival::Conflict => {
            if usage_conflicts::insert(transaction, &checked.window, &whole.records, now).await? {
                tracing::error!(
                    window = %whole.key.window,
                    "a cluster reported other bytes for a window that is in the ledger; stored in usage_conflicts, not counted"
                );
            }
        }
    }
    Ok(arrival)
}

/// Keeps the rows of tenants that are not known on the cluster; returns those for which there is no room.
async fn keep_unclaimed<'a>(
    transaction: &mut Connection,
    of: &WindowRows<'_>,
    unknown: &'a [NewRow],
) -> Result<&'a [NewRow], StoreError> {
    if unknown.is_empty() {
        return Ok(unknown);
    }
    let kept = unclaimed_usage::insert(transaction, of, unknown).await?;
    tracing::warn!(window = %of.window, kept, "usage of tenants that are not known on this cluster is kept unclaimed");
    let kept = usize::try_from(kept).unwrap_or(usize::MAX);
    Ok(unknown.get(kept..).unwrap_or_default())
}

/// The reason of the dead letter for the records of a window that are not counted; none when all are. What the cluster wrote
/// is quoted in part only, for it may be of any length.
fn not_counted(set_aside: &[String], no_room: &[NewRow]) -> Option<String> {
    const NAMED_MAX: usize = 10;
    const QUOTED_MAX: usize = 200;
    let no_room = no_room
        .iter()
        .map(|row| format!("tenant {} is not known on this cluster, which has too many of them", row.tenant));
    let reasons: Vec<String> = set_aside.iter().cloned().chain(no_room).collect();
    if reasons.is_empty() {
        return None;
    }
    let quote = |reason: &String| reason.chars().take(QUOTED_MAX).collect::<String>();
    let named = reasons.iter().take(NAMED_MAX).map(quote).collect::<Vec<_>>().join("; ");
    let more = reasons.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Some(format!("not counted: {named}{more}"))
}

/// Removes the rows of tenants that are not known on the cluster from a window, and returns them: a cluster must not be able to
/// bill others, and what a restored database has forgotten is counted once it is known again.
async fn remove_unknown_tenants(
    transaction: &mut Connection,
    cluster: &ClusterId,
    checked: &mut Checked,
) -> Result<Vec<NewRow>, StoreError> {
    let tenants: Vec<TenantId> = checked.rows.iter().map(|row| row.tenant).collect();
    let placed = placements::ever_on(transaction, cluster, &tenants).await?;
    let (known, unknown) = checked.rows.drain(..).partition(|row| placed.contains(&row.tenant));
    checked.rows = known;
    Ok(unknown)
}

fn rows_of<'a>(cluster: &'a ClusterId, checked: &'a Checked, now: Timestamp) -> WindowRows<'a> {
    let window = &checked.window;
    WindowRows {
        cluster,
        window: window.window,
        revision: window.revision,
        quality: &checked.quality,
        coverage_ms: window.coverage_ms,
        gaps: &window.gaps,
        incarnation: &window.incarnation,
        received_at: now,
    }
}

async fn insert_rows(transaction: &mut Connection, of: &WindowRows<'_>, rows: &[NewRow]) -> Result<(), StoreError> {
    ledger::insert(transaction, of, rows).await?;
    let events: Vec<billing::NewEvent> = rows.iter().map(|row| event::usage(of, row)).collect();
    billing::insert(transaction, of.cluster, &events, of.received_at).await
}

/// Cluster and window that a subject names.
fn named(subject: &str) -> Result<(ClusterId, Window), InvalidUsage> {
    let cluster = subjects::cluster_of(subject).and_then(ClusterId::parse);
    let window = subject.rsplit('.').next().and_then(Window::parse);
    cluster.zip(window).ok_or_else(|| InvalidUsage::Subject(subject.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn what_is_not_counted_is_told_in_bounded_words() {
        assert_eq!(not_counted(&[], &[]), None);
        let row = |number| NewRow {
            tenant: TenantId(Uuid::from_u128(number)),
            tenant_name: String::new(),
            quantities: [0; 5],
            payload_sha256: String::new(),
        };
        let no_room: Vec<NewRow> = (0..20).map(row).collect();
        let reason = not_counted(&["x".repeat(1_000_000)], &no_room).unwrap();
        assert!(reason.len() < 10 * 250 && reason.ends_with("; and 11 more"), "{reason}");
        assert!(reason.contains("tenant 00000000-0000-0000-0000-000000000000 is not known"), "{reason}");
    }
}
