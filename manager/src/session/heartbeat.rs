//! The heartbeat: that a cluster is there, and how far it is.
//!
//! Only the newest heartbeat of a cluster waits to be noted, so one that floods us delays nobody but itself: what it sends
//! between two rounds is one row's update. Before it: `operator/src/session`. After it: `relay`, which sends to whoever
//! was heard.

use super::listen;
use async_nats::Message;
use bytes::Bytes;
use kubenova_bus::Connection;
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::{clock, shutdown::Shutdown, telemetry};
use kubenova_schema::{message, subjects, v1::Heartbeat};
use kubenova_store::{pool::Store, sessions};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Pause between two rounds: far below any heartbeat interval, far above what a flood needs to be coalesced.
const ROUND: Duration = Duration::from_millis(100);

/// The newest heartbeat of each cluster that was not noted yet, as it came.
#[derive(Debug, Default)]
struct Waiting {
    newest: Mutex<BTreeMap<ClusterId, Bytes>>,
    bell: Notify,
}

impl Waiting {
    fn put(&self, message: Message) {
        // The broker's permissions vouch for the subject.
        let Some(cluster) = subjects::cluster_of(&message.subject).and_then(ClusterId::parse) else { return };
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).insert(cluster, message.payload);
        self.bell.notify_one();
    }

    fn take(&self) -> BTreeMap<ClusterId, Bytes> {
        std::mem::take(&mut self.newest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Notes heartbeats until a stop is asked for.
pub async fn run(store: Store, connection: Connection, shutdown: Shutdown) {
    let waiting = Waiting::default();
    let hear = listen(&connection, subjects::every::HEARTBEAT, &shutdown, |message| {
        waiting.put(message);
        std::future::ready(())
    });
    tokio::join!(hear, rounds(&store, &waiting, &shutdown));
}

async fn rounds(store: &Store, waiting: &Waiting, shutdown: &Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            () = waiting.bell.notified() => {}
        }
        for (cluster, payload) in waiting.take() {
            note(store, &cluster, &payload).await;
        }
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

async fn note(store: &Store, cluster: &ClusterId, payload: &[u8]) {
    let heartbeat: Heartbeat = match message::from_json(payload) {
        Ok(heartbeat) => heartbeat,
        Err(error) => {
            tracing::debug!(cluster.id = %cluster, error = %telemetry::chain(&error), "a heartbeat could not be read");
            return;
        }
    };
    if heartbeat.cluster_id != cluster.as_str() {
        return;
    }
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let noted = async {
        let mut connection = store.acquire().await?;
        let nodes = i32::try_from(heartbeat.nodes).unwrap_or(i32::MAX);
        let (session, revision) = (number(heartbeat.session), number(heartbeat.highest_revision));
        sessions::record_heartbeat(&mut connection, cluster, session, nodes, revision, clock::now()).await
    };
    match noted.await {
        Ok(true) => {}
        Ok(false) => {
            tracing::debug!(cluster.id = %cluster, session = heartbeat.session, "a heartbeat of another session");
        }
        Err(error) => {
            tracing::warn!(cluster.id = %cluster, error = %telemetry::chain(&error), "could not note a heartbeat");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_cluster_is_one_heartbeat_and_the_newest() {
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
