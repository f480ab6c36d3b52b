//! Which clusters are being served: each by one task at a time, and only so many at once.

use kubenova_core::cluster::ClusterId;
use kubenova_schema::mutant;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The clusters that are being served, and the places for more.
#[derive(Debug)]
pub(super) struct Turns {
    served: Arc<Served>,
    places: Arc<Semaphore>,
}

/// Whether a cluster's next turn was asked for since this one began.
#[derive(Debug, Default)]
struct Served(Mutex<BTreeMap<ClusterId, bool>>);

impl Turns {
    pub(super) fn new(places: usize) -> Self {
        Self { served: Arc::default(), places: Arc::new(Semaphore::new(places)) }
    }

    /// The turn of a cluster, once a place is free; none while the cluster is being served: whoever serves it learns at the end of
    /// its turn that it was asked for.
    pub(super) async fn take(&self, cluster: &ClusterId) -> Option<Turn> {
        {
            let mut served = self.served.clusters();
            if let Some(asked) = served.get_mut(cluster) {
                *asked = !mutant::is_on("relay.signal-lost");
                return None;
            }
            served.insert(cluster.clone(), false);
        }
        let mut turn = Turn { served: Arc::clone(&self.served), cluster: Some(cluster.clone()), place: None };
        turn.place = Some(Arc::clone(&self.places).acquire_owned().await.ok()?);
        Some(turn)
    }
}

impl Served {
    fn clusters(&self) -> MutexGuard<'_, BTreeMap<ClusterId, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to serve a cluster; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    served: Arc<Served>,
    /// None once it has ended: the next turn of the cluster may have begun.
    cluster: Option<ClusterId>,
    place: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// Ends it. Whether the turn was asked for meanwhile: what that was about may have come too late for this one.
    pub(super) fn end(mut self) -> bool {
        self.give_back()
    }

    fn give_back(&mut self) -> bool {
        drop(self.place.take());
        self.cluster.take().and_then(|cluster| self.served.clusters().remove(&cluster)).unwrap_or_default()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use uuid::Uuid;

    #[tokio::test]
    async fn a_cluster_has_one_turn_at_a_time_and_more_clusters_wait_for_a_place() {
        let [one, two, three] = [1, 2, 3].map(|number| ClusterId::from_uuid(Uuid::from_u128(number)));
        let turns = Turns::new(2);
        let first = turns.take(&one).await.unwrap();
        assert!(turns.take(&one).await.is_none(), "it is being served");
        let _second = turns.take(&two).await.unwrap();
        assert!(turns.take(&three).now_or_never().is_none(), "no place is free");
        drop(first);
        assert!(turns.take(&three).now_or_never().flatten().is_some(), "a turn that was not waited for is given back");
        assert!(turns.take(&one).now_or_never().flatten().is_some());
    }

    #[tokio::test]
    async fn a_cluster_that_was_asked_for_while_it_was_served_says_so_once() {
        let cluster = ClusterId::from_uuid(Uuid::from_u128(1));
        let turns = Turns::new(2);
        let turn = turns.take(&cluster).await.unwrap();
        for _ in 0..2 {
            assert!(turns.take(&cluster).await.is_none());
        }
        assert!(turn.end());
        assert!(!turns.take(&cluster).await.unwrap().end());
    }
}
