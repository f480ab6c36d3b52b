//! Clusters that have something due and as many unacknowledged commands as they may: their outcomes make room for more, and the
//! relay looks at once instead of at its next poll.

use kubenova_core::cluster::ClusterId;
use kubenova_schema::mutant;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Shared by the relay and the ingest of outcomes of one Manager. Only a shortcut: an outcome that another Manager stores is found by
/// the poll.
#[derive(Debug)]
pub struct Backlog {
    /// Whether an outcome was stored since the relay began to look.
    waiting: Mutex<BTreeMap<ClusterId, bool>>,
    wake: Arc<Notify>,
}

impl Backlog {
    /// Signals the relay by this.
    #[must_use]
    pub const fn new(wake: Arc<Notify>) -> Self {
        Self { waiting: Mutex::new(BTreeMap::new()), wake }
    }

    /// Outcomes of the cluster are stored.
    pub fn outcome_stored(&self, cluster: &ClusterId) {
        if let Some(stored) = self.waiting().get_mut(cluster) {
            *stored = true;
            self.wake.notify_one();
        }
    }

    /// The relay begins to look at what is due for the cluster.
    pub(super) fn begin(&self, cluster: &ClusterId) {
        if !mutant::is_on("relay.only-polls") {
            self.waiting().insert(cluster.clone(), false);
        }
    }

    /// The relay has sent so many. Whether it is to look once more: more may be due than one claim takes, and an outcome that was
    /// stored meanwhile has found the cluster being served.
    pub(super) fn end(&self, cluster: &ClusterId, sent: usize) -> bool {
        let mut waiting = self.waiting();
        if sent == 0 {
            return waiting.get(cluster).copied().unwrap_or_default();
        }
        waiting.remove(cluster);
        true
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<ClusterId, bool>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use uuid::Uuid;

    #[tokio::test]
    async fn an_outcome_of_a_cluster_without_room_signals_the_relay_and_no_other_does() {
        let [full, idle] = [1, 2].map(|number| ClusterId::from_uuid(Uuid::from_u128(number)));
        let wake = Arc::new(Notify::new());
        let backlog = Backlog::new(Arc::clone(&wake));
        let signaled = || wake.notified().now_or_never().is_some();
        backlog.begin(&full);
        assert!(!backlog.end(&full, 0), "nothing has changed since");
        backlog.outcome_stored(&idle);
        assert!(!signaled());
        backlog.outcome_stored(&full);
        assert!(signaled());

        backlog.begin(&full);
        backlog.outcome_stored(&full);
        assert!(backlog.end(&full, 0), "it made room after the relay had looked");
        backlog.begin(&full);
        assert!(backlog.end(&full, 1), "more may be due than one claim takes");
        assert!(signaled());
        backlog.outcome_stored(&full);
        assert!(!signaled(), "it no longer waits for room");
    }
}
