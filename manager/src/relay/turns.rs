//! Which clusters are being served: each by one task at a time, and only so many at once.

use kubenova_core::cluster::ClusterId;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The clusters that are being served, and the places for more.
#[derive(Debug)]
pub(super) struct Turns {
    served: Arc<Served>,
    places: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Served(Mutex<BTreeSet<ClusterId>>);

impl Turns {
    pub(super) fn new(places: usize) -> Self {
        Self { served: Arc::default(), places: Arc::new(Semaphore::new(places)) }
    }

    /// The turn of a cluster, once a place is free; none while the cluster is being served.
    pub(super) async fn take(&self, cluster: &ClusterId) -> Option<Turn> {
        if !self.served.clusters().insert(cluster.clone()) {
            return None;
        }
        let mut turn = Turn { served: Arc::clone(&self.served), cluster: cluster.clone(), place: None };
        turn.place = Some(Arc::clone(&self.places).acquire_owned().await.ok()?);
        Some(turn)
    }
}

impl Served {
    fn clusters(&self) -> MutexGuard<'_, BTreeSet<ClusterId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to serve a cluster; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    served: Arc<Served>,
    cluster: ClusterId,
    place: Option<OwnedSemaphorePermit>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.served.clusters().remove(&self.cluster);
        drop(self.place.take());
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
}
