//! Which clusters may have something to send: the relay looks at them at once, instead of at its next poll.

use kubenova_core::cluster::ClusterId;
use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Most clusters that are looked at one by one. A claim that finds nothing takes Postgres 0.1 ms; with 10,000 clusters in session a look
/// at all takes as long as a hundred of them.
const NAMED_MAX: usize = 100;

/// What a round looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// These clusters.
    Clusters(BTreeSet<ClusterId>),
    /// Whatever is due.
    All,
}

impl Default for Wanted {
    fn default() -> Self {
        Self::Clusters(BTreeSet::new())
    }
}

impl Wanted {
    fn add(&mut self, cluster: ClusterId) {
        let Self::Clusters(clusters) = self else { return };
        clusters.insert(cluster);
        if clusters.len() > NAMED_MAX {
            *self = Self::All;
        }
    }
}

/// Shared by the relay and whatever makes commands due in this Manager. Only a shortcut: the relay's poll finds what was signaled
/// nowhere, or in another Manager.
#[derive(Debug, Default)]
pub struct Signals {
    wanted: Mutex<Wanted>,
    wake: Notify,
}

impl Signals {
    /// This cluster may have something to send: what makes it so is committed.
    pub fn cluster(&self, cluster: &ClusterId) {
        self.wanted().add(cluster.clone());
        self.wake.notify_one();
    }

    /// Any cluster may have something to send.
    pub fn any(&self) {
        *self.wanted() = Wanted::All;
        self.wake.notify_one();
    }

    /// What was signaled since it was last taken.
    pub(super) fn take(&self) -> Wanted {
        std::mem::take(&mut *self.wanted())
    }

    /// Notified by each signal.
    pub(super) const fn wake(&self) -> &Notify {
        &self.wake
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use uuid::Uuid;

    fn cluster(number: usize) -> ClusterId {
        ClusterId::from_uuid(Uuid::from_u128(number as u128))
    }

    #[test]
    fn clusters_are_wanted_once_each_until_they_are_taken() {
        let signals = Signals::default();
        for number in [2, 1, 2] {
            signals.cluster(&cluster(number));
        }
        assert!(signals.wake().notified().now_or_never().is_some());
        assert_eq!(signals.take(), Wanted::Clusters(BTreeSet::from([cluster(1), cluster(2)])));
        assert_eq!(signals.take(), Wanted::default());
    }

    #[test]
    fn what_may_concern_any_cluster_and_too_many_clusters_want_a_look_at_all() {
        let signals = Signals::default();
        signals.any();
        signals.cluster(&cluster(1));
        assert_eq!(signals.take(), Wanted::All);
        for number in 0..NAMED_MAX {
            signals.cluster(&cluster(number));
        }
        signals.cluster(&cluster(0));
        assert!(matches!(signals.take(), Wanted::Clusters(named) if named.len() == NAMED_MAX));
        for number in 0..=NAMED_MAX {
            signals.cluster(&cluster(number));
        }
        assert_eq!(signals.take(), Wanted::All);
    }
}
