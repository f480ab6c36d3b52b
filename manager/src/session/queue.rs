//! Requests of clusters that wait for their answer. One of a cluster is answered at a time, so a cluster that sends many takes no
//! more connections of Postgres than another; of those that come meanwhile only the newest is kept, because the cluster no longer
//! waits for the others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Clusters whose request is being answered, each with the one that waits behind it.
#[derive(Debug)]
pub(super) struct ByCluster<M>(Arc<Mutex<BTreeMap<String, Option<M>>>>);

impl<M> Default for ByCluster<M> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<M> ByCluster<M> {
    /// The turn of a cluster, which begins with this request; none while another of its requests is being answered.
    pub(super) fn add(&self, cluster: &str, request: M) -> Option<Turn<M>> {
        let mut waiting = self.waiting();
        if let Some(newest) = waiting.get_mut(cluster) {
            *newest = Some(request);
            return None;
        }
        waiting.insert(cluster.to_owned(), Some(request));
        drop(waiting);
        Some(Turn { queue: Self(Arc::clone(&self.0)), cluster: cluster.to_owned(), over: false })
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<String, Option<M>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to answer the requests of one cluster. Ends when nothing waits, or when it is dropped.
#[derive(Debug)]
pub(super) struct Turn<M> {
    queue: ByCluster<M>,
    cluster: String,
    over: bool,
}

impl<M> Turn<M> {
    /// The request to answer now; none ends the turn.
    pub(super) fn next(&mut self) -> Option<M> {
        let mut waiting = self.queue.waiting();
        let next = waiting.get_mut(&self.cluster).and_then(Option::take);
        if next.is_none() {
            waiting.remove(&self.cluster);
            self.over = true;
        }
        next
    }
}

impl<M> Drop for Turn<M> {
    fn drop(&mut self) {
        if !self.over {
            self.queue.waiting().remove(&self.cluster);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_of_a_cluster_is_answered_at_a_time_and_then_the_newest() {
        let queue = ByCluster::default();
        let mut turn = queue.add("a", 1).unwrap();
        assert_eq!(turn.next(), Some(1));
        assert!(queue.add("a", 2).is_none() && queue.add("a", 3).is_none());
        assert!(queue.add("b", 9).is_some(), "another cluster does not wait");
        assert_eq!((turn.next(), turn.next()), (Some(3), None));
        assert_eq!(queue.add("a", 4).unwrap().next(), Some(4));
    }

    #[test]
    fn a_turn_that_is_dropped_lets_the_next_request_begin() {
        let queue = ByCluster::default();
        drop(queue.add("a", 1));
        assert_eq!(queue.add("a", 2).unwrap().next(), Some(2));
    }
}
