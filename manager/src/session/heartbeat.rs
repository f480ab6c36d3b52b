//! Heartbeats: which clusters are connected, and how far each is.
//!
//! Only the newest heartbeat of a cluster waits to be recorded, so a cluster that floods the Manager delays no other: what it
//! sends between two rounds is one update of one row, and a round is one statement. A heartbeat of another session than the
//! open one, or with a revision that Postgres does not know, does not count: its cluster is asked for a hello, so that no
//! cluster stays out of session until its Operator is restarted.
//!
//! Before it: `operator/src/outbound`. After it: `relay`, which sends to clusters with a fresh heartbeat.

use super::{
    Sessions, Subscribed,
    renewal::{self, Renewals},
    subscribe,
    wanted::{self, Wanted},
};
use async_nats::Message;
use bytes::Bytes;
use jiff::Timestamp;
use kubenova_core::{cluster::ClusterId, listing, session::HelloWanted};
use kubenova_runtime::{
    periodic::{Next, Periodic},
    shutdown::Shutdown,
    telemetry,
};
use kubenova_schema::{message, subjects, v1};
use kubenova_store::{
    error::StoreError,
    listings,
    sessions::{self, CountedHeartbeat, Heartbeat},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex as StdMutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, Notify};

/// Shortest time between two rounds: far below any heartbeat interval, far above the time between two messages of a flood.
const ROUND_MIN: Duration = Duration::from_millis(100);
/// Longest time for a round: a Postgres that is gone without a word must not be waited for.
const ROUND_MAX: Duration = Duration::from_secs(30);
/// Time between two rounds without a signal. One without a waiting heartbeat costs nothing.
const EVERY: Duration = Duration::from_secs(15);

/// The newest heartbeat of each cluster that is not recorded yet, as it arrived.
#[derive(Debug, Default)]
struct Waiting {
    newest: StdMutex<BTreeMap<ClusterId, Bytes>>,
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

/// What clusters are asked for.
#[derive(Debug, Default)]
struct Requests {
    hellos: Wanted,
    renewals: Renewals,
}

/// Records heartbeats until a stop is requested, and asks clusters for a hello whose heartbeats do not count.
///
/// Every Manager receives every heartbeat: one that is cut off from Postgres must not take any from the others.
pub async fn run(sessions: Sessions, shutdown: Shutdown) {
    let waiting = Waiting::default();
    let requests = Mutex::new(Requests::default());
    let from = Subscribed { subject: subjects::every::HEARTBEAT, group: None };
    let receive = subscribe(&sessions.connection, from, &shutdown, |message| {
        waiting.put(message);
        std::future::ready(())
    });
    let rounds = Periodic::new("record heartbeats", EVERY)
        .on_signal(&waiting.wake)
        .at_most_every(ROUND_MIN)
        .limit(ROUND_MAX)
        .run(&shutdown, || round(&sessions, &waiting, &requests));
    tokio::join!(receive, rounds);
}

/// Records what waits in one statement. Heartbeats that Postgres could not take are dropped: the next ones are on their way.
async fn round(sessions: &Sessions, waiting: &Waiting, requests: &Mutex<Requests>) -> Result<Next, StoreError> {
    let read = waiting.take().into_iter().filter_map(|(cluster, payload)| read(&cluster, &payload));
    let (heartbeats, hashes): (Vec<Heartbeat>, Vec<String>) = read.unzip();
    if heartbeats.is_empty() {
        return Ok(Next::Wait);
    }
    let (recorded, now) = {
        let mut connection = sessions.store.acquire().await?;
        let now = sessions::database_time(&mut connection).await?;
        (sessions::record_heartbeats(&mut connection, &heartbeats, now).await?, now)
    };
    let hashes: BTreeMap<ClusterId, String> =
        heartbeats.iter().map(|one| one.cluster_id.clone()).zip(hashes).filter(|(_, hash)| !hash.is_empty()).collect();
    // Whoever has no session is asked for a hello also while listings cannot be compared.
    let differing = compare_listings(sessions, &recorded, &hashes, now).await.unwrap_or_else(|error| {
        tracing::warn!(error = %telemetry::chain(&error), "could not compare what clusters hold; trying again");
        BTreeSet::new()
    });
    let (mut requests, instant) = (requests.lock().await, Instant::now());
    let key_set_id = sessions.keyring.get().key_set_id.clone();
    let asks = !sessions.keyring.is_outdated();
    for one in recorded.iter().filter(|_| asks) {
        if requests.renewals.is_due(&one.cluster_id, &one.key_set_id, &key_set_id, instant) {
            renewal::ask(&sessions.connection, &sessions.metrics.renewal_requests, &one.cluster_id).await;
        }
    }
    let counted: BTreeMap<ClusterId, (Timestamp, bool)> =
        recorded.into_iter().map(|one| (one.cluster_id, (one.previous_at, one.confirmed))).collect();
    for Heartbeat { cluster_id, session, .. } in &heartbeats {
        let reason = HelloWanted::after_heartbeat(counted.get(cluster_id).copied(), now)
            .or_else(|| differing.contains(cluster_id).then_some(HelloWanted::ListingDiffers));
        if let Some(reason) = requests.hellos.heartbeat(cluster_id, *session, reason, instant) {
            wanted::ask(&sessions.connection, &sessions.metrics.hello_requests, cluster_id, reason).await;
        }
    }
    requests.hellos.forget_silent(instant);
    requests.renewals.forget_old(instant);
    Ok(Next::Wait)
}

/// Compares the listings of clusters whose heartbeats count, as far as they are due. Returns those that differ.
async fn compare_listings(
    sessions: &Sessions,
    recorded: &[CountedHeartbeat],
    hashes: &BTreeMap<ClusterId, String>,
    now: Timestamp,
) -> Result<BTreeSet<ClusterId>, StoreError> {
    let reported: Vec<(ClusterId, String)> = recorded
        .iter()
        .filter(|one| one.confirmed)
        .filter_map(|one| Some((one.cluster_id.clone(), hashes.get(&one.cluster_id)?.clone())))
        .collect();
    let store = &sessions.store;
    let clusters: Vec<ClusterId> = reported.iter().map(|(cluster, _)| cluster.clone()).collect();
    let due = store.transaction("record the hashes of listings", async |tx| {
        listings::record_reported(tx, &reported, now).await?;
        listings::due(tx, &clusters, now).await
    });
    let mut differing = BTreeSet::new();
    for cluster in due.await? {
        let compare = store.transaction("compare a listing", async |tx| listings::compare(tx, &cluster, now).await);
        if compare.await? {
            differing.insert(cluster);
        }
    }
    Ok(differing)
}

/// A heartbeat with the hash of its cluster's listing; none when it cannot be decoded or names another cluster than its subject.
fn read(cluster: &ClusterId, payload: &[u8]) -> Option<(Heartbeat, String)> {
    let heartbeat = match message::from_json::<v1::Heartbeat>(payload) {
        Ok(heartbeat) => heartbeat,
        Err(error) => {
            tracing::debug!(cluster.id = %cluster, error = %telemetry::chain(&error), "could not decode a heartbeat");
            return None;
        }
    };
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    (heartbeat.cluster_id == cluster.as_str()).then(|| {
        let recorded = Heartbeat {
            cluster_id: cluster.clone(),
            session: number(heartbeat.session),
            highest_revision: number(heartbeat.highest_revision),
            highest_command: heartbeat.highest_command_id.parse().ok(),
        };
        (recorded, listing::hash(heartbeat.listing_sha256))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One statement takes the hashes of all clusters: what Postgres cannot store of one would keep those of all others out.
    #[test]
    fn what_is_no_hash_counts_as_none() {
        let cluster = ClusterId::parse("c0123456789abcdefghjkmnpqrs").unwrap();
        for (hash, counts) in [("0f".repeat(32), true), ("\0".to_owned(), false), ("0F".repeat(32), false)] {
            let heartbeat = v1::Heartbeat {
                cluster_id: cluster.to_string(),
                listing_sha256: hash.clone(),
                ..v1::Heartbeat::default()
            };
            let (_, read) = read(&cluster, &message::to_json(&heartbeat)).unwrap();
            assert_eq!(read, if counts { hash } else { String::new() });
        }
    }

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
