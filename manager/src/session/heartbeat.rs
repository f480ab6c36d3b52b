//! Heartbeats: which clusters are connected, and how far each is.
//!
//! Only the newest heartbeat of a cluster waits to be stored, so a cluster that floods the Manager delays no other: what it
//! sends between two rounds is one update of one row. Before it: `operator/src/outbound`. After it: `relay`, which sends to
//! clusters with a fresh heartbeat.

use super::subscribe;
use async_nats::Message;
use bytes::Bytes;
use kubenova_bus::Connection;
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::{
    clock,
    periodic::{Next, Periodic},
    shutdown::Shutdown,
    telemetry,
};
use kubenova_schema::{message, subjects, v1::Heartbeat};
use kubenova_store::{error::StoreError, pool::Store, sessions};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Shortest time between two rounds: far below any heartbeat interval, far above the time between two messages of a flood.
const ROUND_MIN: Duration = Duration::from_millis(100);
/// Time between two rounds without a signal. One without a waiting heartbeat costs nothing.
const EVERY: Duration = Duration::from_secs(15);

/// The newest heartbeat of each cluster that is not stored yet, as it arrived.
#[derive(Debug, Default)]
struct Waiting {
    newest: Mutex<BTreeMap<ClusterId, Bytes>>,
    wake: Notify,
}

impl Waiting {
    fn put(&self, message: Message) {
        // The broker lets only that cluster publish there.
        let Some(cluster) = subjects::cluster_of(&message.subject).and_then(ClusterId::parse) else { return };
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).insert(cluster, message.payload);
        self.wake.notify_one();
    }

    fn take(&self) -> BTreeMap<ClusterId, Bytes> {
        std::mem::take(&mut self.newest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Stores heartbeats until a stop is requested.
pub async fn run(store: Store, connection: Connection, shutdown: Shutdown) {
    let waiting = Waiting::default();
    let receive = subscribe(&connection, subjects::every::HEARTBEAT, &shutdown, |message| {
        waiting.put(message);
        std::future::ready(())
    });
    let rounds = Periodic::new("store heartbeats", EVERY)
        .on_signal(&waiting.wake)
        .at_most_every(ROUND_MIN)
        .run(&shutdown, || round(&store, &waiting));
    tokio::join!(receive, rounds);
}

/// Stores what waits. Heartbeats that Postgres could not take are dropped: the next ones are on their way.
async fn round(store: &Store, waiting: &Waiting) -> Result<Next, StoreError> {
    for (cluster, payload) in waiting.take() {
        if let Some(heartbeat) = read(&cluster, &payload) {
            save(store, &cluster, &heartbeat).await?;
        }
    }
    Ok(Next::Wait)
}

/// None when it cannot be decoded or names another cluster than its subject.
fn read(cluster: &ClusterId, payload: &[u8]) -> Option<Heartbeat> {
    match message::from_json::<Heartbeat>(payload) {
        Ok(heartbeat) => (heartbeat.cluster_id == cluster.as_str()).then_some(heartbeat),
        Err(error) => {
            tracing::debug!(cluster.id = %cluster, error = %telemetry::chain(&error), "could not decode a heartbeat");
            None
        }
    }
}

async fn save(store: &Store, cluster: &ClusterId, heartbeat: &Heartbeat) -> Result<(), StoreError> {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let (session, revision) = (number(heartbeat.session), number(heartbeat.highest_revision));
    let mut connection = store.acquire().await?;
    if !sessions::record_heartbeat(&mut connection, cluster, session, revision, clock::now()).await? {
        tracing::debug!(cluster.id = %cluster, session, "ignored a heartbeat of another session");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_heartbeats_of_one_cluster_become_one_and_the_newest() {
        let waiting = Waiting::default();
        let clusters = ["c0123456789abcdefghjkmnpqrs", "c0123456789abcdefghjkmnpqrt"];
        for number in 0..1000 {
            let cluster = clusters[usize::from(number == 500)];
            waiting.put(Message {
                subject: subjects::heartbeat(cluster).into(),
                reply: None,
                payload: Bytes::from(number.to_string()),
                headers: None,
                status: None,
                description: None,
                length: 0,
            });
        }
        let taken: Vec<Bytes> = waiting.take().into_values().collect();
        assert_eq!(taken, ["999", "500"]);
        assert!(waiting.take().is_empty());
    }
}
