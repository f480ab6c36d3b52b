//! When the relay looks at all clusters, however often single ones are signaled.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The time of the last look at all clusters that succeeded.
#[derive(Debug)]
pub(super) struct Poll {
    every: Duration,
    last: Mutex<Option<Instant>>,
}

impl Poll {
    pub(super) const fn new(every: Duration) -> Self {
        Self { every, last: Mutex::new(None) }
    }

    /// Time until the next one; none when it is due.
    pub(super) fn due_in(&self, now: Instant) -> Duration {
        self.last().map_or(Duration::ZERO, |last| self.every.saturating_sub(now.saturating_duration_since(last)))
    }

    /// A look that began then has succeeded.
    pub(super) fn looked(&self, begun: Instant) {
        *self.last() = Some(begun);
    }

    fn last(&self) -> MutexGuard<'_, Option<Instant>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_at_first_and_again_after_its_time_whatever_comes_between() {
        let (second, begin) = (Duration::from_secs(1), Instant::now());
        let poll = Poll::new(second * 10);
        assert_eq!(poll.due_in(begin), Duration::ZERO);
        assert_eq!(poll.due_in(begin + second), Duration::ZERO, "the first has not succeeded");
        poll.looked(begin);
        assert_eq!(poll.due_in(begin + second), second * 9);
        assert_eq!(poll.due_in(begin + second * 12), Duration::ZERO);
        poll.looked(begin + second * 12);
        assert_eq!(poll.due_in(begin + second * 13), second * 9);
    }
}
