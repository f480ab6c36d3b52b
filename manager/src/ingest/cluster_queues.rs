//! Messages that wait to be stored, by cluster: whose turn it is, and which of them are stored together.
//!
//! Guarantees: messages of a cluster leave in the order in which they came, and only once those before them were answered; clusters
//! take turns, so that one that sends much delays itself. Decides only; `by_cluster.rs` stores.

use kubenova_schema::mutant;
use std::collections::{HashMap, VecDeque};

/// Most messages stored in one transaction: few enough that it takes a fraction of a second and holds its rows no longer.
const GROUP_MESSAGES_MAX: usize = 64;
/// Most bytes of them. A message of a cluster has at most a quarter of it.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// Messages that wait here before no more are taken from the broker: more than one cluster can have there
/// (`max_messages_per_subject` of `KN_STS`), so that a cluster that sends without end leaves room for others.
const WAITING_MESSAGES_MAX: usize = 512;
/// Bytes of them: several clusters' groups. More waits at the broker, which has the disk for it.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// From this delivery on a message is stored alone: it, or one beside it, could not be stored again and again.
const ALONE_FROM_DELIVERY: i64 = 3;

/// A message that waits.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    pub(super) message: T,
    pub(super) bytes: usize,
    /// How often it has been delivered.
    pub(super) delivered: i64,
}

/// Messages of one cluster that are stored together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group<T> {
    pub(super) cluster: String,
    pub(super) messages: Vec<T>,
}

#[derive(Debug)]
pub(super) struct ClusterQueues<T> {
    queues: HashMap<String, Queue<T>>,
    /// Clusters with messages of which none is being stored, in the order of their turns.
    turns: VecDeque<String>,
    messages: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<Waiting<T>>,
    is_being_stored: bool,
}

impl<T> Default for ClusterQueues<T> {
    fn default() -> Self {
        Self { queues: HashMap::new(), turns: VecDeque::new(), messages: 0, bytes: 0 }
    }
}

impl<T> ClusterQueues<T> {
    /// Whether another message may wait here.
    pub(super) const fn has_room(&self) -> bool {
        self.messages < WAITING_MESSAGES_MAX && self.bytes < WAITING_BYTES_MAX
    }

    pub(super) fn push(&mut self, cluster: &str, waiting: Waiting<T>) {
        self.messages += 1;
        self.bytes += waiting.bytes;
        if let Some(queue) = self.queues.get_mut(cluster) {
            queue.waiting.push_back(waiting);
            return;
        }
        self.turns.push_back(cluster.to_owned());
        self.queues.insert(cluster.to_owned(), Queue { waiting: VecDeque::from([waiting]), is_being_stored: false });
    }

    /// The next group to store; [`Self::release`] must follow once it was.
    pub(super) fn take(&mut self) -> Option<Group<T>> {
        let cluster = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&cluster)?;
        let together = group_len(&queue.waiting);
        queue.is_being_stored = true;
        let mut messages = Vec::with_capacity(together);
        for waiting in queue.waiting.drain(..together) {
            self.messages -= 1;
            self.bytes -= waiting.bytes;
            messages.push(waiting.message);
        }
        Some(Group { cluster, messages })
    }

    /// The cluster's group was answered: it takes its next turn after those that wait.
    pub(super) fn release(&mut self, cluster: &str) {
        let Some(queue) = self.queues.get_mut(cluster).filter(|queue| queue.is_being_stored) else { return };
        queue.is_being_stored = false;
        if queue.waiting.is_empty() {
            self.queues.remove(cluster);
        } else if mutant::is_on("ingest.no-turns") {
            self.turns.push_front(cluster.to_owned());
        } else {
            self.turns.push_back(cluster.to_owned());
        }
    }

    /// Takes everything that still waits.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.turns.clear();
        (self.messages, self.bytes) = (0, 0);
        let queues = std::mem::take(&mut self.queues);
        queues.into_values().flat_map(|queue| queue.waiting).map(|waiting| waiting.message).collect()
    }
}

/// How many from the front are stored together; at least one.
fn group_len<T>(waiting: &VecDeque<Waiting<T>>) -> usize {
    let mut bytes = 0;
    let fitting = waiting.iter().take(GROUP_MESSAGES_MAX).take_while(|one| {
        bytes += one.bytes;
        bytes <= GROUP_BYTES_MAX && one.delivered < ALONE_FROM_DELIVERY
    });
    fitting.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_schema::streams;

    fn queues(messages: &[(&str, u32)]) -> ClusterQueues<u32> {
        let mut queues = ClusterQueues::default();
        for (cluster, message) in messages {
            queues.push(cluster, Waiting { message: *message, bytes: 100, delivered: 1 });
        }
        queues
    }

    fn group(cluster: &str, messages: impl IntoIterator<Item = u32>) -> Option<Group<u32>> {
        Some(Group { cluster: cluster.to_owned(), messages: messages.into_iter().collect() })
    }

    #[test]
    fn what_has_come_of_a_cluster_is_stored_together_and_in_order() {
        let mut queues = queues(&[("a", 1), ("b", 2), ("a", 3), ("a", 4)]);
        assert_eq!(queues.take(), group("a", [1, 3, 4]));
        assert_eq!(queues.take(), group("b", [2]));
        assert_eq!(queues.take(), None);
    }

    #[test]
    fn a_cluster_has_one_group_at_a_time() {
        let mut queues = queues(&[("a", 1)]);
        assert_eq!(queues.take(), group("a", [1]));
        queues.push("a", Waiting { message: 2, bytes: 100, delivered: 1 });
        assert_eq!(queues.take(), None, "what came later must not overtake");
        queues.release("a");
        assert_eq!(queues.take(), group("a", [2]));
        queues.release("a");
        assert!(queues.queues.is_empty(), "nothing is kept of a cluster that has nothing here");
    }

    #[test]
    fn a_cluster_that_sends_much_waits_for_the_others() {
        let flood = u32::try_from(GROUP_MESSAGES_MAX).unwrap() + 10;
        let mut queues = ClusterQueues::default();
        for message in 0..flood {
            queues.push("a", Waiting { message, bytes: 100, delivered: 1 });
        }
        queues.push("b", Waiting { message: 0, bytes: 100, delivered: 1 });
        assert_eq!(queues.take(), group("a", 0..flood - 10));
        queues.release("a");
        assert_eq!(queues.take(), group("b", [0]), "its turn comes before the second group");
        assert_eq!(queues.take(), group("a", flood - 10..flood));
    }

    #[test]
    fn a_group_is_bounded_in_bytes_and_a_large_message_goes_all_the_same() {
        let mut queues = ClusterQueues::default();
        for (message, bytes) in [(1, GROUP_BYTES_MAX + 1), (2, GROUP_BYTES_MAX / 2), (3, GROUP_BYTES_MAX / 2), (4, 1)] {
            queues.push("a", Waiting { message, bytes, delivered: 1 });
        }
        for messages in [vec![1], vec![2, 3], vec![4]] {
            assert_eq!(queues.take(), group("a", messages));
            queues.release("a");
        }
    }

    #[test]
    fn what_was_delivered_again_and_again_is_stored_alone() {
        let mut queues = ClusterQueues::default();
        for (message, delivered) in [(1, 1), (2, 2), (3, 3), (4, 1), (5, 1)] {
            queues.push("a", Waiting { message, bytes: 100, delivered });
        }
        for messages in [vec![1, 2], vec![3], vec![4, 5]] {
            assert_eq!(queues.take(), group("a", messages));
            queues.release("a");
        }
    }

    #[test]
    fn as_much_waits_here_as_there_is_room_for() {
        let mut queues = ClusterQueues::default();
        for message in 0.. {
            if !queues.has_room() {
                assert_eq!(message, WAITING_MESSAGES_MAX);
                break;
            }
            queues.push("a", Waiting { message, bytes: 100, delivered: 1 });
        }
        queues.take();
        assert!(queues.has_room());
        let mut queues = ClusterQueues::default();
        queues.push("a", Waiting { message: 1, bytes: WAITING_BYTES_MAX, delivered: 1 });
        assert!(!queues.has_room());
        assert_eq!(queues.drain(), [1]);
        assert!(queues.has_room());
    }

    #[test]
    fn one_cluster_cannot_fill_the_room() {
        let one = usize::try_from(streams::STATUS.max_messages_per_subject).unwrap();
        assert!(WAITING_MESSAGES_MAX > one);
        const { assert!(GROUP_BYTES_MAX >= 4 * streams::CLUSTER_MESSAGE_BYTES_MAX) }
    }
}
