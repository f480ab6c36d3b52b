//! Whether a connection carries a session. One that carries none for long is closed: it holds a place that a cluster could have.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// For a session to begin on a connection, after the handshake or after the session before. A cluster asks for one at once.
pub(crate) const UNUSED_MAX: Duration = Duration::from_secs(20);

/// The sessions of one connection.
#[derive(Debug)]
pub(crate) struct Usage(Mutex<Sessions>);

#[derive(Debug)]
struct Sessions {
    open: usize,
    /// When the connection was made, or the last session ended.
    unused_since: Instant,
}

impl Usage {
    /// Of a connection that is made now.
    pub(crate) const fn new(now: Instant) -> Self {
        Self(Mutex::new(Sessions { open: 0, unused_since: now }))
    }

    /// Counts a session until the value is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> InUse {
        self.change(|sessions| sessions.open += 1);
        InUse(Arc::clone(self))
    }

    /// When the connection has been without a session for too long, if none begins; while it has one not before a whole time from now.
    pub(crate) fn unused_at(&self, now: Instant) -> Instant {
        let sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = if sessions.open == 0 { sessions.unused_since } else { now };
        since + UNUSED_MAX
    }

    fn end(&self, now: Instant) {
        self.change(|sessions| {
            sessions.open = sessions.open.saturating_sub(1);
            sessions.unused_since = now;
        });
    }

    fn change(&self, change: impl FnOnce(&mut Sessions)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A session on a connection.
#[derive(Debug)]
pub(crate) struct InUse(Arc<Usage>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.end(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_unused_from_its_begin_and_from_the_end_of_its_last_session() {
        let made = Instant::now();
        let usage = Arc::new(Usage::new(made));
        assert_eq!(usage.unused_at(made + UNUSED_MAX / 2), made + UNUSED_MAX);
        let (first, second) = (usage.begin(), usage.begin());
        let later = made + 10 * UNUSED_MAX;
        assert_eq!(usage.unused_at(later), later + UNUSED_MAX);
        drop(first);
        assert_eq!(usage.unused_at(later), later + UNUSED_MAX, "one is left");
        std::mem::forget(second);
        usage.end(later);
        assert_eq!(usage.unused_at(later + UNUSED_MAX / 2), later + UNUSED_MAX);
    }
}
