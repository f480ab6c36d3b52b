//! Receipts: tells each cluster which of its windows are in the ledger, so that it stops sending them.
//!
//! One signed list per cluster with a counter of its own, newest wins: no revision, no inbox record. Made from Postgres
//! after each ingest commit and after each hello; many reasons for one cluster become one list.

use async_nats::jetstream;
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
    signature::{HEADER, PayloadType, SCHEMA_HEADER, SigningKey},
    subjects,
    v1::ReceiptList,
};
use kubenova_store::{error::StoreError, pool::Store, receipts};
use prometheus_client::metrics::gauge::Gauge;
use std::{
    collections::BTreeSet,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Reasons for one cluster within this time become one list.
const GATHER: Duration = Duration::from_millis(200);
/// Time between two looks without a signal. A look without a waiting cluster costs nothing.
const EVERY: Duration = Duration::from_secs(60);
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

#[derive(Debug, Default)]
struct State {
    clusters: BTreeSet<ClusterId>,
    /// The one taken last: the next comes after it, so that a cluster whose list fails again and again delays no other.
    last: Option<ClusterId>,
}

impl ReceiptQueue {
    /// Makes a cluster's list due.
    pub fn add(&self, cluster: ClusterId) {
        self.state().clusters.insert(cluster);
        self.0.wake.notify_one();
    }

    fn take(&self) -> Option<ClusterId> {
        let mut state = self.state();
        let after = state
            .last
            .as_ref()
            .and_then(|last| state.clusters.range::<ClusterId, _>((Bound::Excluded(last), Bound::Unbounded)).next());
        let next = after.or_else(|| state.clusters.first()).cloned()?;
        state.clusters.remove(&next);
        state.last = Some(next.clone());
        Some(next)
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
    /// The key that signs commands.
    pub key: Arc<SigningKey>,
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
    while let Some(cluster) = parts.due.take() {
        if let Err(error) = send(parts, &cluster).await {
            parts.due.add(cluster);
            parts.due_count.set(parts.due.count());
            return Err(error);
        }
    }
    parts.due_count.set(parts.due.count());
    Ok(Next::Wait)
}

/// Makes and sends one cluster's list.
async fn send(parts: &Receipts, cluster: &ClusterId) -> Result<(), ReceiptError> {
    let now = clock::now();
    let next = next(&parts.store, cluster, now).await;
    let receipts = next.map_err(|source| ReceiptError::Store { cluster: cluster.clone(), source })?;
    let (windows, manifest_sha256) =
        receipts.windows.into_iter().map(|(window, sha256)| (window.to_string(), sha256)).unzip();
    let list = ReceiptList {
        cluster_id: cluster.to_string(),
        cluster_uid: receipts.cluster_uid,
        counter: receipts.counter,
        windows,
        manifest_sha256,
        issued: clock::rfc3339_ms(now),
    };
    let body = message::to_json(&list);
    let signature = parts.key.sign(PayloadType::Receipt, &body);
    let ours = [(HEADER, &*signature), (SCHEMA_HEADER, "kubenova.v1.ReceiptList")];
    let headers = publish::headers(&random::uuid_v4().to_string(), &ours);
    publish::publish(&parts.jetstream, &subjects::receipt(cluster.as_str()), headers, body)
        .await
        .map_err(|source| ReceiptError::Bus { cluster: cluster.clone(), source })?;
    Ok(())
}

async fn next(store: &Store, cluster: &ClusterId, now: jiff::Timestamp) -> Result<receipts::Receipts, StoreError> {
    store.transaction("make a receipt list", async |tx| receipts::next(tx, cluster, now).await).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_reasons_for_one_cluster_are_one_list() {
        let due = ReceiptQueue::default();
        let clusters = [1, 2].map(|id| ClusterId::from_uuid(uuid::Uuid::from_u128(id)));
        for _ in 0..1000 {
            due.add(clusters[0].clone());
        }
        due.add(clusters[1].clone());
        due.0.wake.notified().await;
        assert_eq!(due.count(), 2);
        assert_eq!([due.take(), due.take(), due.take()], [Some(clusters[0].clone()), Some(clusters[1].clone()), None]);
    }

    #[test]
    fn a_cluster_whose_list_fails_delays_no_other() {
        let due = ReceiptQueue::default();
        let clusters = [1, 2, 3].map(|id| ClusterId::from_uuid(uuid::Uuid::from_u128(id)));
        clusters.iter().for_each(|cluster| due.add(cluster.clone()));
        for expected in [0, 1, 2, 0] {
            assert_eq!(due.take().as_ref(), Some(&clusters[expected]));
            due.add(clusters[expected].clone());
        }
    }
}
