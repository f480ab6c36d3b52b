//! How often something may happen: a bucket that fills with time, and many of them with bounded memory.
//!
//! Asking and charging are apart, so that only what turned out badly is charged. That, and a bound on the number of keys, is what
//! `governor` does not have. Times are durations since a start of the caller's choice.

use std::{collections::BTreeMap, time::Duration};

/// What is allowed: so many at once, and one more after each `refill`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// Time until one more is allowed.
    pub refill: Duration,
}

/// What one party has used of a rate. A new one has used nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When everything is allowed again.
    full_at: Duration,
}

impl Bucket {
    /// How long to wait until one more is allowed; none when it is now.
    #[must_use]
    pub fn wait(&self, rate: Rate, now: Duration) -> Option<Duration> {
        let allowed_from = self.full_at.saturating_sub(rate.refill.saturating_mul(rate.burst.saturating_sub(1)));
        allowed_from.checked_sub(now).filter(|wait| !wait.is_zero())
    }

    /// Counts one. What comes while nothing is allowed prolongs the wait by no more than one refill.
    pub fn charge(&mut self, rate: Rate, now: Duration) {
        let most = now.saturating_add(rate.refill.saturating_mul(rate.burst));
        self.full_at = self.full_at.max(now).saturating_add(rate.refill).min(most);
    }

    fn is_full(&self, now: Duration) -> bool {
        self.full_at <= now
    }
}

/// A bucket for each key that was charged lately, at most so many. Beyond them no further key is remembered: something else has to bound all keys
/// together.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    most: usize,
    of: BTreeMap<K, Bucket>,
    pruned_at: Duration,
}

/// Time between two searches for buckets that are full again; each looks at all of them.
const PRUNE_EVERY: Duration = Duration::from_secs(1);

impl<K: Ord> Buckets<K> {
    /// Of this rate, for at most so many keys at once.
    #[must_use]
    pub const fn new(rate: Rate, most: usize) -> Self {
        Self { rate, most, of: BTreeMap::new(), pruned_at: Duration::ZERO }
    }

    /// How long this key has to wait; none when it has not.
    #[must_use]
    pub fn wait(&self, key: &K, now: Duration) -> Option<Duration> {
        self.of.get(key)?.wait(self.rate, now)
    }

    /// Counts one for this key.
    pub fn charge(&mut self, key: K, now: Duration) {
        if self.of.len() >= self.most && !self.of.contains_key(&key) {
            if now.saturating_sub(self.pruned_at) < PRUNE_EVERY {
                return;
            }
            self.pruned_at = now;
            self.of.retain(|_, bucket| !bucket.is_full(now));
            if self.of.len() >= self.most {
                return;
            }
        }
        self.of.entry(key).or_default().charge(self.rate, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, refill: Duration::from_secs(10) };

    const fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn a_burst_is_allowed_and_then_one_each_refill() {
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            assert_eq!(bucket.wait(RATE, at(0)), None);
            bucket.charge(RATE, at(0));
        }
        assert_eq!(bucket.wait(RATE, at(0)), Some(at(10)));
        assert_eq!(bucket.wait(RATE, at(4)), Some(at(6)));
        assert_eq!(bucket.wait(RATE, at(10)), None);
        bucket.charge(RATE, at(10));
        assert_eq!(bucket.wait(RATE, at(10)), Some(at(10)));
        assert_eq!(bucket.wait(RATE, at(1000)), None);
        // Everything again after a pause, and no more than that.
        for _ in 0..3 {
            assert_eq!(bucket.wait(RATE, at(1000)), None);
            bucket.charge(RATE, at(1000));
        }
        assert!(bucket.wait(RATE, at(1000)).is_some());
    }

    #[test]
    fn a_flood_prolongs_the_wait_by_no_more_than_one_refill() {
        let mut bucket = Bucket::default();
        for _ in 0..1000 {
            bucket.charge(RATE, at(0));
        }
        assert_eq!(bucket.wait(RATE, at(0)), Some(at(10)));
    }

    #[test]
    fn a_flood_of_keys_takes_bounded_memory_and_hits_no_other_key() {
        let mut buckets = Buckets::new(RATE, 100);
        for key in 0..10_000 {
            for _ in 0..3 {
                buckets.charge(key, at(5));
            }
        }
        assert_eq!(buckets.of.len(), 100);
        assert!(buckets.wait(&0, at(5)).is_some());
        assert_eq!(buckets.wait(&10_000, at(5)), None);
        // Those that are full again make room.
        buckets.charge(10_000, at(500));
        assert_eq!(buckets.of.len(), 1);
    }
}
