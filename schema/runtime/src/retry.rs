//! Retry until it succeeds or a stop is requested: for what must work in the end, such as a first connection, and for
//! what should last, such as a subscription.
//!
//! Waits between attempts grow with jitter ([`crate::backoff`]); a signal ends a wait early. A failure is logged with its
//! whole chain: as a warning when it is new, at debug level while it stays the same.
//!
//! On a stop the running attempt is dropped, so an attempt must bear being dropped at any `await`. Where it must not, it
//! watches the shutdown itself and [`Retry::finish_attempt`] keeps it.
//!
//! ```no_run
//! # use kubenova_runtime::{retry::Retry, shutdown::Shutdown};
//! # async fn connect() -> Result<u32, std::io::Error> { Ok(1) }
//! # async fn example(shutdown: &Shutdown) {
//! let connection = Retry::new("connect to the broker").until_ok(shutdown, || connect()).await;
//! // None only when a stop was requested.
//! let Some(connection) = connection else { return };
//! # }
//! ```

use crate::{
    backoff::{Backoff, WAIT_MIN},
    failures::Failures,
    shutdown::Shutdown,
    signal::{Never, Signal},
};
use std::{error::Error, future::Future, time::Duration};
use tokio::time::Instant;

/// An attempt that is repeated.
#[derive(Debug)]
pub struct Retry<S = Never> {
    what: &'static str,
    backoff: Backoff,
    finish_attempt: bool,
    signal: S,
}

impl Retry {
    /// `what` completes the sentence "could not ...": a verb and its object, for example "connect to the broker".
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        Self { what, backoff: Backoff::default(), finish_attempt: false, signal: Never }
    }
}

impl<S: Signal> Retry<S> {
    /// Tries again at once when this is signaled, for example when a connection is there again.
    #[must_use]
    pub fn on_signal<T: Signal>(self, signal: T) -> Retry<T> {
        let Self { what, backoff, finish_attempt, .. } = self;
        Retry { what, backoff, finish_attempt, signal }
    }

    /// Waits from `min`, doubling to `max`, instead of 0.2 s to 15 s.
    #[must_use]
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.backoff = Backoff::between(min, max);
        self
    }

    /// On a stop, awaits the running attempt instead of dropping it. It must end by itself then.
    #[must_use]
    pub const fn finish_attempt(mut self) -> Self {
        self.finish_attempt = true;
        self
    }

    /// Tries until it succeeds. None when a stop was requested first.
    pub async fn until_ok<F, Fut, T, E>(mut self, shutdown: &Shutdown, mut attempt: F) -> Option<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut failures = Failures::new(self.what);
        loop {
            match self.attempt(shutdown, attempt()).await? {
                Ok(done) => {
                    failures.succeeded();
                    return Some(done);
                }
                Err(error) => {
                    let wait = self.backoff.next_wait();
                    failures.failed(&*error.into(), wait);
                    if !shutdown.wait(WAIT_MIN.min(wait), wait, &mut self.signal).await {
                        return None;
                    }
                }
            }
        }
    }

    /// Runs something that should last, and starts it again whenever it ends, until a stop is requested. One that lasted
    /// longer than the longest wait counts as a success: the next wait is the shortest again.
    pub async fn keep_running<F, Fut, E>(mut self, shutdown: &Shutdown, mut start: F)
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<(), E>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut failures = Failures::new(self.what);
        loop {
            let started = Instant::now();
            let Some(ended) = self.attempt(shutdown, start()).await else { return };
            if shutdown.is_requested() {
                return;
            }
            if started.elapsed() > self.backoff.max() {
                failures.succeeded();
                self.backoff.reset();
            }
            let wait = self.backoff.next_wait();
            match ended {
                Ok(()) => tracing::debug!("{}: ended; starting again", self.what),
                Err(error) => failures.failed(&*error.into(), wait),
            }
            if !shutdown.wait(WAIT_MIN.min(wait), wait, &mut self.signal).await {
                return;
            }
        }
    }

    /// None when a stop was requested first.
    async fn attempt<T>(&self, shutdown: &Shutdown, attempt: impl Future<Output = T>) -> Option<T> {
        if shutdown.is_requested() {
            return None;
        }
        if self.finish_attempt {
            return Some(attempt.await);
        }
        tokio::select! {
            () = shutdown.requested() => None,
            done = attempt => Some(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, io};
    use tokio::sync::watch;

    const SHORT: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn an_attempt_is_repeated_until_it_succeeds() {
        let attempts = Cell::new(0);
        let attempt = || {
            attempts.set(attempts.get() + 1);
            std::future::ready(if attempts.get() < 4 { Err(io::Error::other("no")) } else { Ok(attempts.get()) })
        };
        let retry = Retry::new("test").backoff(SHORT, SHORT);
        assert_eq!(retry.until_ok(&Shutdown::new(), attempt).await, Some(4));
    }

    #[tokio::test]
    async fn a_signal_ends_the_wait() {
        let hour = Duration::from_secs(3600);
        let (sender, changed) = watch::channel(0);
        let begun = Instant::now();
        let attempts = Cell::new(0);
        let attempt = || {
            attempts.set(attempts.get() + 1);
            sender.send_modify(|count| *count += 1);
            std::future::ready(if attempts.get() < 3 { Err("no") } else { Ok(()) })
        };
        let retry = Retry::new("test").backoff(hour, hour).on_signal(changed);
        assert_eq!(retry.until_ok(&Shutdown::new(), attempt).await, Some(()));
        assert!(begun.elapsed() < hour, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_stop_drops_the_attempt_that_runs() {
        let shutdown = Shutdown::new();
        let attempt = || async {
            shutdown.request();
            std::future::pending::<Result<(), io::Error>>().await
        };
        assert_eq!(Retry::new("test").until_ok(&shutdown, attempt).await, None);
    }

    #[tokio::test]
    async fn an_attempt_that_must_finish_does() {
        let shutdown = Shutdown::new();
        let attempt = || async {
            shutdown.request();
            tokio::task::yield_now().await;
            Ok::<_, io::Error>(7)
        };
        assert_eq!(Retry::new("test").finish_attempt().until_ok(&shutdown, attempt).await, Some(7));
    }

    #[tokio::test]
    async fn what_should_last_is_started_again_whenever_it_ends() {
        let shutdown = Shutdown::new();
        let starts = Cell::new(0);
        let start = || {
            starts.set(starts.get() + 1);
            if starts.get() == 5 {
                shutdown.request();
            }
            std::future::ready(if starts.get() % 2 == 0 { Ok(()) } else { Err(io::Error::other("broke")) })
        };
        Retry::new("test").backoff(SHORT, SHORT).keep_running(&shutdown, start).await;
        assert_eq!(starts.get(), 5);
    }
}
