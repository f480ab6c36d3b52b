//! Clusters that have as many unacknowledged commands as they may: their outcomes make room for more, and the relay looks at once
//! instead of at its next poll.

use super::signals::Signals;
use kubenova_core::cluster::ClusterId;
use kubenova_schema::mutant;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Shared by the relay and the ingest of outcomes of one Manager. Only a shortcut: an outcome that another Manager stores is found by
/// the poll.
#[derive(Debug)]
pub struct Backlog {
    full: Mutex<BTreeSet<ClusterId>>,
    signals: Arc<Signals>,
}

impl Backlog {
    /// Signals the relay by this.
    #[must_use]
    pub const fn new(signals: Arc<Signals>) -> Self {
        Self { full: Mutex::new(BTreeSet::new()), signals }
    }

    /// Outcomes of the cluster are stored.
    pub fn outcome_stored(&self, cluster: &ClusterId) {
        if self.full().contains(cluster) {
            self.signals.cluster(cluster);
        }
    }

    /// The relay begins to claim what is due for the cluster. It counts as full meanwhile: an outcome that is stored now may make
    /// room that the claim does not see.
    pub(super) fn begin(&self, cluster: &ClusterId) {
        if !mutant::is_on("relay.only-polls") {
            self.full().insert(cluster.clone());
        }
    }

    /// Everything that was due is claimed, and there was room for more.
    pub(super) fn has_room(&self, cluster: &ClusterId) {
        self.full().remove(cluster);
    }

    fn full(&self) -> MutexGuard<'_, BTreeSet<ClusterId>> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::signals::Wanted, *};
    use uuid::Uuid;

    #[test]
    fn an_outcome_of_a_cluster_without_room_signals_the_relay_and_no_other_does() {
        let [full, idle] = [1, 2].map(|number| ClusterId::from_uuid(Uuid::from_u128(number)));
        let signals = Arc::new(Signals::default());
        let backlog = Backlog::new(Arc::clone(&signals));
        backlog.begin(&full);
        backlog.outcome_stored(&idle);
        assert_eq!(signals.take(), Wanted::default());
        for _ in 0..2 {
            backlog.outcome_stored(&full);
            assert_eq!(signals.take(), Wanted::Clusters(BTreeSet::from([full.clone()])));
        }
        backlog.begin(&full);
        backlog.has_room(&full);
        backlog.outcome_stored(&full);
        assert_eq!(signals.take(), Wanted::default(), "it no longer waits for room");
    }
}
