//! The work queue of a controller: keys of objects to reconcile, the longest due first.
//!
//! A key is reconciled by one task at a time, once more when it changed meanwhile, and again after the time its last
//! reconcile asked for. A reconcile gets the key, not the reason.
//!
//! `kube::runtime::scheduler` was tried for this and does not fit: under load it hands out its held messages in hash
//! order and its expired ones last in, first out, so a key can wait for ever. This queue is ordered by time.
//!
//! A reconcile that hangs, as behind a webhook that does not answer, must not hold up the others either: one that runs long
//! gives its slot back and counts among the slow ones, which have slots of their own, and so does the key's next one.

use crate::{apiserver, metrics::Metrics};
use futures::{Stream, StreamExt as _, stream::FuturesUnordered};
use kubenova_runtime::{random, shutdown::Shutdown};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    future::Future,
    pin::pin,
    time::Duration,
};
use tokio::time::Instant;
use tracing::{Instrument as _, field::Empty};

/// Reconciles that run at once: the API server must not be flooded.
const QUICK_MAX: usize = 16;
/// Slow reconciles that run at once beside them. They wait for an answer and cost the API server little; a webhook holds each
/// for 30 s at most.
const SLOW_MAX: usize = 32;
/// A reconcile that runs longer is slow. Most take milliseconds; on a busy API server one may take a second.
const SLOW_AFTER: Duration = Duration::from_secs(2);
/// First pause before something is tried again. Most waits (a webhook's answer, a namespace) end within it.
pub(super) const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest pause. A change that no watch shows is then noticed within a minute, and a thousand stuck objects cost the
/// API server 17 reconciles a second at most.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(60);

/// What a reconcile asks for next. A watch event always makes it sooner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// All is as desired: look again after this time for drift that no watch shows.
    After(Duration),
    /// Not as desired yet, or a call failed: try again, with pauses that double while this stays the same, and not before the
    /// API server asked for.
    Retry { waiting_for: String, not_before: Duration },
    /// Nothing can come of another attempt before the object changes, or it is gone.
    OnChange,
}

impl Next {
    pub fn retry(waiting_for: impl Into<String>) -> Self {
        Self::Retry { waiting_for: waiting_for.into(), not_before: Duration::ZERO }
    }

    /// After a failed call.
    pub fn failed(cause: impl Into<String>, error: &apiserver::Error) -> Self {
        Self::Retry { waiting_for: cause.into(), not_before: error.retry_after() }
    }
}

/// Reconciles keys until the process stops, each reconcile in a span of its own; a controller that knows the command behind
/// an object records it there.
pub async fn run<K, S, P, F>(
    controller: &'static str,
    triggers: S,
    metrics: &Metrics,
    shutdown: &Shutdown,
    reconcile: P,
) where
    K: Ord + Clone + Display,
    S: Stream<Item = Vec<K>>,
    P: Fn(K) -> F,
    F: Future<Output = Next>,
{
    let mut triggers = pin!(triggers.fuse());
    let mut queue = Queue::<K>::new();
    let mut running = FuturesUnordered::new();
    loop {
        while let Some(key) = queue.start_due(Instant::now()) {
            let span =
                tracing::info_span!("reconcile", controller, object = %key, trace.id = Empty, command.id = Empty);
            let reconciled = reconcile(key.clone()).instrument(span);
            let began = Instant::now();
            running.push(async move {
                let next = reconciled.await;
                metrics.reconciled(controller, began, matches!(next, Next::Retry { .. }));
                (key, next)
            });
        }
        let wake_at = queue.wake_at();
        tokio::select! {
            () = shutdown.requested() => return,
            Some(keys) = triggers.next() => for key in keys {
                queue.trigger(key, Instant::now());
            },
            Some((key, next)) = running.next(), if !running.is_empty() => {
                queue.finish(key, next, Instant::now(), jitter());
            }
            () = tokio::time::sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
        }
    }
}

/// A random share below 1.
fn jitter() -> f64 {
    f64::from(u16::from_le_bytes(random::bytes())) / f64::from(u32::from(u16::MAX) + 1)
}

/// What is due when, what runs, and how often what waits was tried. No clock, no tasks.
struct Queue<K> {
    quick: Pool<K>,
    slow: Pool<K>,
    /// Where each key stands among the due ones of its pool.
    scheduled: BTreeMap<K, (Instant, u64)>,
    /// Keys whose last reconcile was slow.
    known_slow: BTreeSet<K>,
    /// Keys that run and changed meanwhile.
    again: BTreeSet<K>,
    retries: BTreeMap<K, Retries>,
    arrivals: u64,
}

struct Retries {
    waiting_for: String,
    count: u32,
}

struct Pool<K> {
    /// In the order in which keys are started: by time, then by arrival. Holds no key that runs.
    due: BTreeSet<(Instant, u64, K)>,
    /// Since when each key runs.
    running: BTreeMap<K, Instant>,
    max: usize,
}

impl<K: Ord + Clone> Pool<K> {
    const fn new(max: usize) -> Self {
        Self { due: BTreeSet::new(), running: BTreeMap::new(), max }
    }

    fn has_room(&self) -> bool {
        self.running.len() < self.max
    }

    /// What could be started first, if there is room for it.
    fn first(&self) -> Option<(Instant, u64)> {
        self.due.first().filter(|_| self.has_room()).map(|(at, arrival, _)| (*at, *arrival))
    }

    fn start_first(&mut self, now: Instant) -> Option<K> {
        let (_, _, key) = self.due.pop_first()?;
        self.running.insert(key.clone(), now);
        Some(key)
    }
}

impl<K: Ord + Clone> Queue<K> {
    const fn new() -> Self {
        Self {
            quick: Pool::new(QUICK_MAX),
            slow: Pool::new(SLOW_MAX),
            scheduled: BTreeMap::new(),
            known_slow: BTreeSet::new(),
            again: BTreeSet::new(),
            retries: BTreeMap::new(),
            arrivals: 0,
        }
    }

    /// Something about the key changed.
    fn trigger(&mut self, key: K, now: Instant) {
        if self.quick.running.contains_key(&key) || self.slow.running.contains_key(&key) {
            self.again.insert(key);
        } else {
            self.schedule(key, now);
        }
    }

    /// The earlier time wins; a key that is due already keeps its place.
    fn schedule(&mut self, key: K, at: Instant) {
        let pool = if self.known_slow.contains(&key) { &mut self.slow } else { &mut self.quick };
        if let Some((present, arrival)) = self.scheduled.get(&key).copied() {
            if present <= at {
                return;
            }
            pool.due.remove(&(present, arrival, key.clone()));
        }
        self.arrivals += 1;
        self.scheduled.insert(key.clone(), (at, self.arrivals));
        pool.due.insert((at, self.arrivals, key));
    }

    /// Takes the key that has been due for the longest time and has a slot.
    fn start_due(&mut self, now: Instant) -> Option<K> {
        self.give_back_slots(now);
        let (quick, slow) = (self.quick.first(), self.slow.first());
        let pool = if quick.is_none() || slow.is_some_and(|slow| Some(slow) < quick) {
            &mut self.slow
        } else {
            &mut self.quick
        };
        if pool.first()?.0 > now {
            return None;
        }
        let key = pool.start_first(now)?;
        self.scheduled.remove(&key);
        Some(key)
    }

    /// What runs long counts among the slow ones from now on, as long as they have slots.
    fn give_back_slots(&mut self, now: Instant) {
        let Self { quick, slow, .. } = self;
        let long: Vec<K> =
            quick.running.iter().filter(|(_, since)| now - **since >= SLOW_AFTER).map(|(key, _)| key.clone()).collect();
        for key in long {
            if !slow.has_room() {
                return;
            }
            if let Some(since) = quick.running.remove(&key) {
                slow.running.insert(key, since);
            }
        }
    }

    /// When to look again: something is due then, or a slot is given back.
    fn wake_at(&self) -> Option<Instant> {
        let due = [self.quick.first(), self.slow.first()].into_iter().flatten().map(|(at, _)| at).min();
        let freed = if self.quick.has_room() || !self.slow.has_room() {
            None
        } else {
            self.quick.running.values().min().map(|since| *since + SLOW_AFTER)
        };
        [due, freed].into_iter().flatten().min()
    }

    fn finish(&mut self, key: K, next: Next, now: Instant, jitter: f64) {
        let since = self.quick.running.remove(&key).or_else(|| self.slow.running.remove(&key));
        if since.is_some_and(|since| now - since >= SLOW_AFTER) && next != Next::OnChange {
            self.known_slow.insert(key.clone());
        } else {
            self.known_slow.remove(&key);
        }
        let pause = match next {
            Next::After(pause) => {
                self.retries.remove(&key);
                Some(pause)
            }
            Next::Retry { waiting_for, not_before } => Some(self.retry(&key, waiting_for).max(not_before)),
            Next::OnChange => {
                self.retries.remove(&key);
                None
            }
        };
        if self.again.remove(&key) {
            self.schedule(key, now);
        } else if let Some(pause) = pause {
            // Up to a quarter later, so that objects that failed together do not come back together.
            self.schedule(key, now + pause.mul_f64(1.0 + jitter / 4.0));
        }
    }

    fn retry(&mut self, key: &K, waiting_for: String) -> Duration {
        let count = match self.retries.get(key) {
            Some(retries) if retries.waiting_for == waiting_for => retries.count.saturating_add(1),
            _ => 0,
        };
        self.retries.insert(key.clone(), Retries { waiting_for, count });
        RETRY_MIN.saturating_mul(2_u32.saturating_pow(count)).min(RETRY_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn start_all(queue: &mut Queue<u32>, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| queue.start_due(now)).collect()
    }

    #[test]
    fn keys_start_in_the_order_in_which_they_became_due() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        for key in [9, 3, 5] {
            queue.trigger(key, now);
        }
        queue.trigger(9, now + Duration::from_secs(1));
        assert_eq!(start_all(&mut queue, now), [9, 3, 5]);
    }

    /// More keys are always due than can run, and each is due again as soon as it ran.
    #[test]
    fn the_last_key_is_not_starved_by_keys_that_are_always_due() {
        let (mut queue, start) = (Queue::new(), Instant::now());
        for key in 0..1000 {
            queue.trigger(key, start);
        }
        let mut runs = BTreeMap::new();
        for round in 0..200_u64 {
            let now = start + Duration::from_millis(round);
            let batch = start_all(&mut queue, now);
            assert_eq!(batch.len(), QUICK_MAX);
            for key in batch {
                *runs.entry(key).or_insert(0) += 1;
                queue.finish(key, Next::After(Duration::ZERO), now, 0.0);
            }
        }
        assert_eq!(runs.len(), 1000, "every key ran");
        assert!(runs.values().all(|count| (3..=4).contains(count)), "all equally often: {runs:?}");
    }

    #[test]
    fn pauses_double_while_the_reason_stays_the_same_and_start_over_with_another() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        let mut pause = |reason: &str| {
            queue.trigger(1, now);
            assert_eq!(queue.start_due(now), Some(1));
            queue.finish(1, Next::retry(reason), now, 0.0);
            queue.wake_at().unwrap() - now
        };
        let pauses: Vec<u64> = (0..8).map(|_| pause("Capsule").as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause("namespaces").as_secs(), 1);
    }

    #[test]
    fn what_can_only_change_by_a_change_is_not_looked_at_again() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        queue.trigger(1, now);
        assert_eq!(start_all(&mut queue, now), [1]);
        queue.finish(1, Next::OnChange, now, 0.0);
        assert_eq!(queue.wake_at(), None);
        queue.trigger(1, now);
        assert_eq!(queue.wake_at(), Some(now));
    }

    #[test]
    fn a_change_while_running_makes_one_more_run_at_once_and_never_two_together() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        queue.trigger(1, now);
        assert_eq!(start_all(&mut queue, now), [1]);
        queue.trigger(1, now);
        queue.trigger(1, now);
        assert_eq!(start_all(&mut queue, now), [0_u32; 0]);
        queue.finish(1, Next::After(Duration::from_secs(300)), now, 0.5);
        assert_eq!(start_all(&mut queue, now), [1]);
        queue.finish(1, Next::After(Duration::from_secs(300)), now, 0.5);
        assert_eq!(queue.wake_at(), Some(now + Duration::from_secs(300).mul_f64(1.125)));
    }

    #[test]
    fn what_the_api_server_asks_to_wait_for_is_waited_for() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        let mut pause = |seconds| {
            queue.trigger(1, now);
            assert_eq!(start_all(&mut queue, now), [1]);
            let not_before = Duration::from_secs(seconds);
            queue.finish(1, Next::Retry { waiting_for: "a slot".to_owned(), not_before }, now, 0.0);
            (queue.wake_at().unwrap() - now).as_secs()
        };
        assert_eq!([pause(7), pause(0), pause(90)], [7, 2, 90]);
    }

    #[test]
    fn slow_keys_run_in_slots_of_their_own_until_one_of_their_reconciles_is_quick() {
        let (mut queue, start) = (Queue::new(), Instant::now());
        let (later, retry) = (start + SLOW_AFTER, || Next::retry("a webhook"));
        let quick = u32::try_from(QUICK_MAX).unwrap();
        (0..quick).for_each(|key| queue.trigger(key, start));
        assert_eq!(start_all(&mut queue, start).len(), QUICK_MAX);
        (0..quick).for_each(|key| queue.finish(key, retry(), later, 0.0));
        // All of them, and as many others, are due at once.
        let now = later + RETRY_MAX;
        (quick..3 * quick).for_each(|key| queue.trigger(key, now));
        let started = start_all(&mut queue, now);
        assert_eq!(started.iter().filter(|key| **key < quick).count(), QUICK_MAX, "beside the others: {started:?}");
        assert_eq!(started.len(), 2 * QUICK_MAX);
        queue.finish(0, retry(), now, 0.0);
        assert!(!queue.known_slow.contains(&0));
    }

    /// As behind a webhook that does not answer: more keys than there are slots hang.
    #[tokio::test(start_paused = true)]
    async fn keys_that_hang_do_not_hold_up_the_others() {
        let shutdown = Shutdown::new();
        let begun = Instant::now();
        let hanging: Vec<String> = (0..QUICK_MAX + SLOW_MAX - 1).map(|key| format!("a hanging key {key}")).collect();
        let triggers = futures::stream::iter([hanging, vec!["quick".to_owned()]]).chain(futures::stream::pending());
        let (_registry, metrics) = crate::metrics::registry();
        let reconcile = |key: String| {
            let shutdown = &shutdown;
            async move {
                if key == "quick" {
                    shutdown.request();
                } else {
                    tokio::time::sleep(Duration::from_secs(30)).await;
                }
                Next::retry("a webhook")
            }
        };
        run("test", triggers, &metrics, &shutdown, reconcile).await;
        assert!(begun.elapsed() <= 3 * SLOW_AFTER, "waited for {:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn every_trigger_is_reconciled_until_a_stop_is_requested() {
        let shutdown = Shutdown::new();
        let log = Mutex::new(Vec::new());
        let triggers = futures::stream::iter([vec!["a"], vec!["b", "c"]]).chain(futures::stream::pending());
        let (_registry, metrics) = crate::metrics::registry();
        run("test", triggers, &metrics, &shutdown, |key| {
            let mut log = log.lock().unwrap();
            log.push(key);
            if log.len() == 3 {
                shutdown.request();
            }
            std::future::ready(Next::OnChange)
        })
        .await;
        let mut log = log.into_inner().unwrap();
        log.sort_unstable();
        assert_eq!(log, ["a", "b", "c"]);
    }
}
