//! Receipts: tells each cluster which of its windows are in the ledger, so that it stops sending them.
//!
//! Signed lists without revision or inbox record, made from Postgres: after each ingest commit one of what came last, after each
//! hello the whole of what a cluster may still hold as received, so that it sends again what a restored database has lost. Many
//! reasons for one cluster become one.

use async_nats::jetstream;
use jiff::{SignedDuration, Timestamp};
use kubenova_bus::{BusError, publish};
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::{
    clock,
    periodic::{Next, Periodic},
    random,
    shutdown::Shutdown,
};
use kubenova_schema::{
    message,
    signature::{HEADER, PayloadType, SCHEMA_HEADER},
    subjects,
    v1::ReceiptList,
};
use kubenova_store::{
    error::StoreError,
    pool::Store,
    receipts::{self, ReceivedWindow},
};
use kubenova_trust::current::CurrentKeyring;
use prometheus_client::metrics::gauge::Gauge;
use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Reasons for one cluster within this time become one list.
const GATHER: Duration = Duration::from_millis(200);
/// Time between two looks without a signal. A look without a waiting cluster costs nothing.
const EVERY: Duration = Duration::from_secs(60);
/// A cluster deletes a window 7 days after it was received, so of older ones there is nothing to ask for; a day more for a clock
/// that is wrong.
const HELD_AS_RECEIVED: SignedDuration = SignedDuration::from_hours(8 * 24);
/// Waits after a list could not be sent.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// The clusters whose list is due: each once, so at most as many as there are clusters. Cheap to clone.
///
/// Lost when the process ends; the next hello of the cluster, which follows a restart, makes its list due again.
#[derive(Debug, Clone, Default)]
pub struct ReceiptQueue(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    wake: Notify,
}

/// Which windows a list names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// The windows that came last.
    Newest,
    /// Every window that it may still hold.
    Whole,
}

#[derive(Debug, Default)]
struct State {
    clusters: BTreeMap<ClusterId, Extent>,
    /// The one taken last: the next comes after it, so that a cluster whose list fails again and again delays no other.
    last: Option<ClusterId>,
}

impl ReceiptQueue {
    /// Makes a cluster's list due.
    pub fn add(&self, cluster: ClusterId, extent: Extent) {
        let mut state = self.state();
        let due = state.clusters.entry(cluster).or_insert(extent);
        *due = extent.max(*due);
        drop(state);
        self.0.wake.notify_one();
    }

    fn take(&self) -> Option<(ClusterId, Extent)> {
        let mut state = self.state();
        let after = state
            .last
            .as_ref()
            .and_then(|last| state.clusters.range::<ClusterId, _>((Bound::Excluded(last), Bound::Unbounded)).next());
        let (next, extent) =
            after.or_else(|| state.clusters.first_key_value()).map(|(id, extent)| (id.clone(), *extent))?;
        state.clusters.remove(&next);
        state.last = Some(next.clone());
        Some((next, extent))
    }

    fn count(&self) -> i64 {
        i64::try_from(self.state().clusters.len()).unwrap_or(i64::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What receipts need.
#[derive(Debug)]
pub struct Receipts {
    /// Postgres.
    pub store: Store,
    /// The broker.
    pub jetstream: jetstream::Context,
    /// Signs them.
    pub keyring: CurrentKeyring,
    /// Clusters that wait for a list.
    pub due: ReceiptQueue,
    /// Counts them.
    pub due_count: Gauge,
}

/// A list that was not sent.
#[derive(Debug, thiserror::Error)]
enum ReceiptError {
    /// Postgres.
    #[error("could not make the receipts of cluster {cluster}")]
    Store {
        cluster: ClusterId,
        #[source]
        source: StoreError,
    },
    /// The broker.
    #[error("could not publish the receipts of cluster {cluster}")]
    Bus {
        cluster: ClusterId,
        #[source]
        source: BusError,
    },
}

/// Sends lists until a stop is requested.
pub async fn run(parts: Receipts, shutdown: Shutdown) {
    Periodic::new("send receipts", EVERY)
        .on_signal(&parts.due.0.wake)
        .at_most_every(GATHER)
        .backoff(RETRY.0, RETRY.1)
        .run(&shutdown, || round(&parts))
        .await;
}

/// Sends the list of every cluster that is due. A cluster whose list could not be sent stays due.
async fn round(parts: &Receipts) -> Result<Next, ReceiptError> {
    parts.due_count.set(parts.due.count());
    while let Some((cluster, extent)) = parts.due.take() {
        if let Err(error) = send(parts, &cluster, extent).await {
            parts.due.add(cluster, extent);
            parts.due_count.set(parts.due.count());
            return Err(error);
        }
    }
    parts.due_count.set(parts.due.count());
    Ok(Next::Wait)
}

/// Makes and sends the lists of one cluster.
async fn send(parts: &Receipts, cluster: &ClusterId, extent: Extent) -> Result<(), ReceiptError> {
    let now = clock::now();
    let lists = lists(&parts.store, cluster, extent, now).await;
    for list in lists.map_err(|source| ReceiptError::Store { cluster: cluster.clone(), source })? {
        let body = message::to_json(&list);
        let signature = parts.keyring.get().command.sign(PayloadType::Receipt, &body);
        let ours = [(HEADER, &*signature), (SCHEMA_HEADER, "kubenova.v1.ReceiptList")];
        let headers = publish::headers(&random::uuid_v4().to_string(), &ours);
        publish::publish(&parts.jetstream, &subjects::receipt(cluster.as_str()), headers, body)
            .await
            .map_err(|source| ReceiptError::Bus { cluster: cluster.clone(), source })?;
    }
    Ok(())
}

async fn lists(
    store: &Store,
    cluster: &ClusterId,
    extent: Extent,
    now: Timestamp,
) -> Result<Vec<ReceiptList>, StoreError> {
    store
        .transaction("make lists of receipts", async |tx| {
            let Some(cluster_uid) = receipts::issue(tx, cluster, now).await? else { return Ok(Vec::new()) };
            let list = |windows: Vec<ReceivedWindow>, range: (i64, i64)| {
                let (windows, manifest_sha256) =
                    windows.into_iter().map(|(window, sha256)| (window.to_string(), sha256)).unzip();
                ReceiptList {
                    cluster_id: cluster.to_string(),
                    cluster_uid: cluster_uid.clone(),
                    windows,
                    manifest_sha256,
                    issued: clock::rfc3339_ms(now),
                    complete_from: range.0,
                    complete_until: range.1,
                }
            };
            if extent == Extent::Newest {
                return Ok(vec![list(receipts::newest(tx, cluster).await?, (0, 0))]);
            }
            let mut lists = Vec::new();
            let mut start = now.checked_sub(HELD_AS_RECEIVED).unwrap_or(Timestamp::UNIX_EPOCH);
            loop {
                let (windows, next) = receipts::from_start(tx, cluster, start).await?;
                lists.push(list(windows, (start.as_second(), next.unwrap_or_else(|| now.as_second()))));
                let Some(next) = next.and_then(|second| Timestamp::from_second(second).ok()) else { return Ok(lists) };
                start = next;
            }
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_reasons_for_one_cluster_are_one_list() {
        let due = ReceiptQueue::default();
        let clusters = [1, 2].map(|id| ClusterId::from_uuid(uuid::Uuid::from_u128(id)));
        for _ in 0..1000 {
            due.add(clusters[0].clone(), Extent::Newest);
        }
        due.add(clusters[1].clone(), Extent::Whole);
        due.add(clusters[1].clone(), Extent::Newest);
        due.0.wake.notified().await;
        assert_eq!(due.count(), 2);
        let [first, second] = clusters;
        let expected = [Some((first, Extent::Newest)), Some((second, Extent::Whole)), None];
        assert_eq!([due.take(), due.take(), due.take()], expected);
    }

    #[test]
    fn a_cluster_whose_list_fails_delays_no_other() {
        let due = ReceiptQueue::default();
        let clusters = [1, 2, 3].map(|id| ClusterId::from_uuid(uuid::Uuid::from_u128(id)));
        clusters.iter().for_each(|cluster| due.add(cluster.clone(), Extent::Newest));
        for expected in [0, 1, 2, 0] {
            assert_eq!(due.take(), Some((clusters[expected].clone(), Extent::Newest)));
            due.add(clusters[expected].clone(), Extent::Newest);
        }
    }
}
