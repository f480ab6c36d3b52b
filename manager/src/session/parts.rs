//! What clusters send in parts, as request and reply: one part of a cluster at a time, a few clusters at once. The others wait or
//! are dropped; a cluster whose part is dropped is asked again, and one that floods the Manager delays no other.

use super::{
    NOT_READY, Sessions, Subscribed,
    queue::{ByCluster, Turn},
    subscribe,
};
use async_nats::Message;
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::{shutdown::Shutdown, telemetry};
use kubenova_schema::{message, subjects, v1::ListingAnswer};
use kubenova_store::error::StoreError;
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument as _;

/// Parts of a subject that are taken in at once: each takes a connection of Postgres.
const PARTS_MAX: usize = 2;
/// Clusters whose parts wait for a place; each holds two of them, of 256 KiB at most.
const CLUSTERS_MAX: usize = 256;
/// Longest time for a part.
const PART_MAX: Duration = Duration::from_secs(25);

/// Takes one part in.
pub(super) type Take =
    for<'a> fn(&'a Sessions, &'a Message) -> Pin<Box<dyn Future<Output = ListingAnswer> + Send + 'a>>;

/// Whose a part is says its subject, where the broker lets only that cluster publish; the part must name the same.
pub(super) fn sender(subject: &str, named: &str) -> Result<ClusterId, String> {
    let cluster = subjects::cluster_of(subject).and_then(ClusterId::parse);
    let cluster = cluster.filter(|cluster| cluster.as_str() == named);
    cluster.ok_or_else(|| format!("it names cluster \"{named}\", its subject another one"))
}

/// Takes the parts of a subject in until a stop is requested.
pub(super) async fn run(sessions: Sessions, from: Subscribed, shutdown: Shutdown, take: Take) {
    let sessions = Arc::new(sessions);
    let parts = Parts::default();
    let handle = |message: Message| {
        let cluster = subjects::cluster_of(&message.subject).unwrap_or_default().to_owned();
        if let Some(waiting) = parts.add(&cluster, message) {
            let sessions = Arc::clone(&sessions);
            let work = waiting.serve(async move |message| {
                let answer = take(&sessions, &message).await;
                send(&sessions, &message, &answer).await;
            });
            let span = tracing::info_span!("part", subject = from.subject, cluster.id = cluster);
            shutdown.spawn_work("take in what a cluster holds", work.instrument(span));
        }
        std::future::ready(())
    };
    subscribe(&sessions.connection, from, &shutdown, handle).await;
}

/// The parts of a subject that wait, and the places where they are taken in.
#[derive(Debug)]
struct Parts<M> {
    by_cluster: ByCluster<M>,
    clusters: Arc<Semaphore>,
    slots: Arc<Semaphore>,
}

impl<M> Default for Parts<M> {
    fn default() -> Self {
        Self {
            by_cluster: ByCluster::default(),
            clusters: Arc::new(Semaphore::new(CLUSTERS_MAX)),
            slots: Arc::new(Semaphore::new(PARTS_MAX)),
        }
    }
}

impl<M> Parts<M> {
    /// The parts of a cluster, beginning with this one; none when others of it are being served, or too many clusters wait.
    fn add(&self, cluster: &str, part: M) -> Option<WaitingParts<M>> {
        let turn = self.by_cluster.add(cluster, part)?;
        let place = Arc::clone(&self.clusters).try_acquire_owned().ok()?;
        Some(WaitingParts { turn, slots: Arc::clone(&self.slots), _place: place })
    }
}

/// Parts of one cluster that wait.
#[derive(Debug)]
struct WaitingParts<M> {
    turn: Turn<M>,
    slots: Arc<Semaphore>,
    _place: OwnedSemaphorePermit,
}

impl<M> WaitingParts<M> {
    /// Takes each in until none waits.
    async fn serve(mut self, take: impl AsyncFn(M)) {
        // The place is given back after each part: others wait for it.
        while let Ok(_slot) = Arc::clone(&self.slots).acquire_owned().await {
            let Some(part) = self.turn.next() else { return };
            take(part).await;
        }
    }
}

async fn send(sessions: &Sessions, message: &Message, answer: &ListingAnswer) {
    if !answer.accepted {
        tracing::warn!(reason = answer.reason, message = answer.message, "refused a part of what a cluster holds");
    }
    let Some(reply) = message.reply.clone() else { return };
    if let Err(error) = sessions.connection.client.publish(reply, message::to_json(answer).into()).await {
        tracing::warn!(%error, "could not answer a part of what a cluster holds; the cluster is asked for it again");
    }
}

/// The answer of work in Postgres, which may fail or take too long.
pub(super) async fn in_time(work: impl Future<Output = Result<ListingAnswer, StoreError>>) -> ListingAnswer {
    match tokio::time::timeout(PART_MAX, work).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => refusal(NOT_READY, telemetry::chain(&error)),
        Err(_) => refusal(NOT_READY, format!("Postgres did not answer within {} s", PART_MAX.as_secs())),
    }
}

pub(super) fn taken() -> ListingAnswer {
    ListingAnswer { accepted: true, ..ListingAnswer::default() }
}

pub(super) fn refusal(reason: &str, message: String) -> ListingAnswer {
    ListingAnswer { accepted: false, reason: reason.to_owned(), message, ..ListingAnswer::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use std::sync::Mutex;

    #[tokio::test]
    async fn a_cluster_that_floods_the_manager_delays_no_other() {
        let parts = Parts::default();
        let taken = Mutex::new(Vec::new());
        let mut flood = Vec::new();
        for number in 0..1000 {
            flood.extend(parts.add("flood", number));
        }
        assert_eq!(flood.len(), 1, "one task for all of them");
        let alone = parts.add("alone", 1000).expect("its part waits for no other cluster");
        let take = async |part| taken.lock().unwrap().push(part);
        let flooded = flood.remove(0).serve(take);
        assert!(alone.serve(take).now_or_never().is_some());
        flooded.await;
        assert_eq!(*taken.lock().unwrap(), [1000, 999], "of the flood only the newest was kept");
    }
}
