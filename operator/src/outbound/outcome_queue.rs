//! Outcomes that wait to be published. The record's status is the durable copy: whatever is dropped here is published
//! again from the records.

use kubenova_crds::command::NovaCommand;
use kubenova_operator_core::outcome;
use kubenova_schema::v1::Outcome;
use prometheus_client::metrics::gauge::Gauge;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// A cluster has one record per object, so this many waiting outcomes mean that the broker has been slow for long;
/// beyond it the queue is dropped and everything is repeated from the records.
const QUEUE_MAX: usize = 4096;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct OutcomeQueue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Mutex<Queue>,
    wake: Notify,
    cluster_id: String,
    pending: Gauge,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Outcome>,
    overflowed: bool,
}

/// The next outcomes to publish.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) outcomes: Vec<Outcome>,
    /// Outcomes were dropped since the last batch: repeat every record.
    pub(super) overflowed: bool,
}

impl OutcomeQueue {
    #[must_use]
    pub fn new(cluster_id: &str, pending: Gauge) -> Self {
        let (queue, wake) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { queue, wake, cluster_id: cluster_id.to_owned(), pending }))
    }

    /// Queues what this record says about its command.
    pub fn push(&self, record: &NovaCommand) {
        self.push_outcome(outcome::of_record(&self.0.cluster_id, record));
    }

    fn push_outcome(&self, outcome: Outcome) {
        let mut queue = self.lock();
        if queue.waiting.len() >= QUEUE_MAX {
            queue.waiting.clear();
            queue.overflowed = true;
        } else {
            queue.waiting.push_back(outcome);
        }
        self.measure(&queue);
        drop(queue);
        self.0.wake.notify_one();
    }

    /// Takes at most `max` outcomes.
    pub(super) fn take(&self, max: usize) -> Batch {
        let mut queue = self.lock();
        let count = queue.waiting.len().min(max);
        let outcomes = queue.waiting.drain(..count).collect();
        self.measure(&queue);
        Batch { outcomes, overflowed: std::mem::take(&mut queue.overflowed) }
    }

    /// Puts outcomes that could not be published back at the front, in their order.
    pub(super) fn give_back(&self, outcomes: Vec<Outcome>) {
        let mut queue = self.lock();
        for outcome in outcomes.into_iter().rev() {
            queue.waiting.push_front(outcome);
        }
        self.measure(&queue);
    }

    pub(super) fn clear(&self) {
        let mut queue = self.lock();
        *queue = Queue::default();
        self.measure(&queue);
    }

    /// Resolves when something was queued since the last call.
    pub(super) async fn changed(&self) {
        self.0.wake.notified().await;
    }

    fn measure(&self, queue: &Queue) {
        self.0.pending.set(i64::try_from(queue.waiting.len()).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(id: usize) -> Outcome {
        Outcome { command_id: id.to_string(), ..Outcome::default() }
    }

    #[test]
    fn a_full_queue_is_dropped_and_asks_for_a_repetition_once() {
        let queue = OutcomeQueue::new("c1", Gauge::default());
        (0..=QUEUE_MAX).for_each(|id| queue.push_outcome(outcome(id)));
        let batch = queue.take(10);
        assert!(batch.overflowed && batch.outcomes.is_empty());
        queue.push_outcome(outcome(1));
        assert!(!queue.take(10).overflowed);
    }

    #[test]
    fn outcomes_given_back_come_first_and_in_order() {
        let queue = OutcomeQueue::new("c1", Gauge::default());
        (1..=3).for_each(|id| queue.push_outcome(outcome(id)));
        let batch = queue.take(2);
        queue.give_back(batch.outcomes);
        let ids: Vec<String> = queue.take(3).outcomes.into_iter().map(|outcome| outcome.command_id).collect();
        assert_eq!(ids, ["1", "2", "3"]);
    }
}
