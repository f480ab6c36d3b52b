//! How long to wait before the next attempt: exponential, jittered, bounded, without end.

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use std::time::Duration;

/// First wait after a failure. Shorter would only repeat a call that the server has just refused.
pub const WAIT_MIN: Duration = Duration::from_millis(200);

/// Longest wait: with it the first success after a healed link comes within one heartbeat (15 s).
pub const WAIT_MAX: Duration = Duration::from_secs(15);

/// Waits between attempts that must succeed in the end: each about twice as long as the one before, with jitter, up to a
/// maximum. Has no last wait.
#[derive(Debug)]
pub struct Backoff {
    builder: ExponentialBuilder,
    waits: ExponentialBackoff,
    max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::between(WAIT_MIN, WAIT_MAX)
    }
}

impl Backoff {
    /// Waits from `min` to `max`.
    #[must_use]
    pub fn between(min: Duration, max: Duration) -> Self {
        let max = max.max(min);
        let builder = ExponentialBuilder::default()
            .with_min_delay(min)
            .with_max_delay(max)
            .with_factor(2.0)
            .with_jitter()
            .without_max_times();
        Self { builder, waits: builder.build(), max }
    }

    /// The next wait, never longer than the maximum.
    pub fn next_wait(&mut self) -> Duration {
        // The iterator has no end; its jitter comes on top of the maximum.
        self.waits.next().unwrap_or(self.max).min(self.max)
    }

    /// Begins again with the shortest wait: call it after a success.
    pub fn reset(&mut self) {
        self.waits = self.builder.build();
    }

    /// The longest wait.
    #[must_use]
    pub const fn max(&self) -> Duration {
        self.max
    }
}

/// Waits between attempts as an endless iterator, see [`Backoff`].
pub fn forever() -> impl Iterator<Item = Duration> + Send {
    let mut backoff = Backoff::default();
    std::iter::from_fn(move || Some(backoff.next_wait()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_maximum_stay_there_and_begin_again_after_a_reset() {
        let (min, max) = (Duration::from_millis(10), Duration::from_millis(100));
        let mut backoff = Backoff::between(min, max);
        let first = backoff.next_wait();
        assert!(first >= min && first <= 2 * min, "{first:?}");
        let later: Vec<Duration> = (0..1000).map(|_| backoff.next_wait()).collect();
        assert!(later.iter().all(|wait| *wait >= min && *wait <= max));
        assert_eq!(later.last(), Some(&max));
        backoff.reset();
        assert!(backoff.next_wait() <= 2 * min);
    }
}
