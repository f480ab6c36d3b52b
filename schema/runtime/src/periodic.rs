//! Periodic work: one loop for everything that is done again and again.
//!
//! Guarantees: rounds run on a signal *and* on a timer; a signal only makes a round sooner, so a lost one costs time and
//! nothing else. Signals that come while a round runs are one more round. After a failed round the error's whole chain is
//! logged and the next round comes after a growing, jittered wait. A round that takes longer than its limit is given up, so
//! that one which waits for a server that is gone without a word does not end the work for good. The loop ends when a stop is
//! requested; a round that runs then is finished first.
//!
//! ```no_run
//! # use kubenova_runtime::{periodic::{Periodic, Next}, shutdown::Shutdown};
//! # use std::{sync::Arc, time::Duration};
//! # use tokio::sync::Notify;
//! # async fn relay_round() -> Result<Next, std::io::Error> { Ok(Next::Wait) }
//! # async fn example(wake: Arc<Notify>, shutdown: Shutdown) {
//! Periodic::new("relay commands", Duration::from_millis(500))
//!     .on_signal(wake)
//!     .run(&shutdown, || relay_round())
//!     .await;
//! # }
//! ```

use crate::{
    backoff::{Backoff, WAIT_MIN},
    failures::Failures,
    shutdown::Shutdown,
    signal::{Never, Signal},
};
use std::{error::Error, future::Future, time::Duration};

/// Limit of a round that has no other: above the 45 s after which the store gives a transaction up.
const LIMIT: Duration = Duration::from_secs(60);

/// When the next round runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// On the next signal, or after the interval.
    Wait,
    /// At once: the round was bounded and something is left.
    AtOnce,
    /// After this time, or on the next signal.
    After(Duration),
}

/// Work that runs on a timer and, if it has one, on a signal.
#[derive(Debug)]
pub struct Periodic<S = Never> {
    what: &'static str,
    every: Duration,
    pause: Duration,
    limit: Duration,
    backoff: Backoff,
    signal: S,
}

/// A round that did not end in time.
#[derive(Debug, thiserror::Error)]
#[error("it did not end within {} s", .0.as_secs_f64())]
struct TooLong(Duration);

impl Periodic {
    /// Work that runs at once and then at least every `every`. `what` completes the sentence "could not ...": a verb and
    /// its object, for example "relay commands".
    ///
    /// A round that does not end within a minute is given up ([`Periodic::limit`]): it must leave nothing half done when it is
    /// dropped at any point.
    #[must_use]
    pub fn new(what: &'static str, every: Duration) -> Self {
        Self { what, every, pause: Duration::ZERO, limit: LIMIT, backoff: Backoff::default(), signal: Never }
    }
}

impl<S: Signal> Periodic<S> {
    /// Runs a round also when this is signaled.
    #[must_use]
    pub fn on_signal<T: Signal>(self, signal: T) -> Periodic<T> {
        let Self { what, every, pause, limit, backoff, .. } = self;
        Periodic { what, every, pause, limit, backoff, signal }
    }

    /// Leaves at least this time between two rounds, so that many signals become one round.
    #[must_use]
    pub const fn at_most_every(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Gives a round up that takes longer, and counts it as failed, instead of after a minute.
    #[must_use]
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Waits this long after failed rounds: from `min`, doubling to `max`, instead of 0.2 s to 15 s.
    #[must_use]
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.backoff = Backoff::between(min, max);
        self
    }

    /// Runs rounds until a stop is requested.
    pub async fn run<F, Fut, E>(mut self, shutdown: &Shutdown, mut round: F)
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<Next, E>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut failures = Failures::new(self.what);
        while !shutdown.is_requested() {
            let ended: Result<Next, Box<dyn Error + Send + Sync>> =
                match tokio::time::timeout(self.limit, round()).await {
                    Ok(ended) => ended.map_err(Into::into),
                    Err(_) => Err(TooLong(self.limit).into()),
                };
            let (pause, wait) = match ended {
                Ok(next) => {
                    failures.succeeded();
                    self.backoff.reset();
                    match next {
                        Next::AtOnce => (Duration::ZERO, Duration::ZERO),
                        Next::Wait => (self.pause, self.every),
                        Next::After(wait) => (self.pause, wait),
                    }
                }
                Err(error) => {
                    let wait = self.backoff.next_wait();
                    failures.failed(&*error, wait);
                    (self.pause.max(WAIT_MIN).min(wait), wait)
                }
            };
            if !shutdown.wait(pause, wait, &mut self.signal).await {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };
    use tokio::sync::{Notify, mpsc};

    /// Far longer than a test runs: a round that comes sooner was signaled.
    const NEVER: Duration = Duration::from_secs(3600);

    struct Work {
        rounds: mpsc::UnboundedReceiver<u32>,
        wake: Arc<Notify>,
        shutdown: Shutdown,
    }

    /// Starts work whose rounds answer as `answer` says, each reported to the test by its number.
    fn start(periodic: Periodic, answer: impl Fn(u32) -> io::Result<Next> + Send + Sync + 'static) -> Work {
        let (sender, rounds) = mpsc::unbounded_channel();
        let (wake, shutdown) = (Arc::new(Notify::new()), Shutdown::new());
        let (signal, stop) = (Arc::clone(&wake), shutdown.clone());
        let count = AtomicU32::new(0);
        shutdown.spawn("test", async move {
            let round = || {
                let number = count.fetch_add(1, Ordering::SeqCst);
                sender.send(number).expect("the test listens");
                std::future::ready(answer(number))
            };
            periodic.on_signal(signal).run(&stop, round).await;
        });
        Work { rounds, wake, shutdown }
    }

    #[tokio::test]
    async fn the_first_round_runs_at_once_the_next_on_the_signal() {
        let mut work = start(Periodic::new("test", NEVER), |_| Ok(Next::Wait));
        assert_eq!(work.rounds.recv().await, Some(0));
        work.wake.notify_one();
        assert_eq!(work.rounds.recv().await, Some(1));
        assert!(work.rounds.try_recv().is_err());
    }

    #[tokio::test]
    async fn rounds_run_on_the_timer_without_a_signal() {
        let mut work = start(Periodic::new("test", Duration::from_millis(1)), |_| Ok(Next::Wait));
        for number in 0..5 {
            assert_eq!(work.rounds.recv().await, Some(number));
        }
    }

    #[tokio::test]
    async fn a_failed_round_is_repeated_and_what_is_left_comes_at_once() {
        let answer = |number| match number {
            0 => Err(io::Error::other("no")),
            1 => Ok(Next::AtOnce),
            2 => Ok(Next::After(Duration::from_millis(1))),
            _ => Ok(Next::Wait),
        };
        let mut work = start(Periodic::new("test", NEVER).backoff(Duration::from_millis(1), NEVER), answer);
        for number in 0..4 {
            assert_eq!(work.rounds.recv().await, Some(number));
        }
    }

    #[tokio::test]
    async fn a_round_that_never_ends_is_given_up() {
        let (sender, mut rounds) = mpsc::unbounded_channel();
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        shutdown.spawn("test", async move {
            let round = || {
                sender.send(()).expect("the test listens");
                std::future::pending::<io::Result<Next>>()
            };
            let limit = Duration::from_millis(1);
            Periodic::new("test", NEVER).limit(limit).backoff(limit, limit).run(&stop, round).await;
        });
        for _ in 0..3 {
            assert_eq!(rounds.recv().await, Some(()));
        }
        shutdown.request();
        assert!(shutdown.finish(Duration::from_secs(5)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_without_a_limit_of_its_own_is_given_up_as_well() {
        let shutdown = Shutdown::new();
        let rounds = AtomicU32::new(0);
        let round = || {
            if rounds.fetch_add(1, Ordering::SeqCst) == 1 {
                shutdown.request();
            }
            std::future::pending::<io::Result<Next>>()
        };
        Periodic::new("test", NEVER).run(&shutdown, round).await;
        assert_eq!(rounds.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_stop_ends_the_loop() {
        let mut work = start(Periodic::new("test", NEVER), |_| Ok(Next::Wait));
        assert_eq!(work.rounds.recv().await, Some(0));
        work.shutdown.request();
        assert!(work.shutdown.finish(Duration::from_secs(5)).await);
        assert_eq!(work.rounds.recv().await, None);
    }

    #[tokio::test]
    async fn many_signals_within_the_pause_are_one_round() {
        let pause = Duration::from_millis(50);
        let mut work = start(Periodic::new("test", NEVER).at_most_every(pause), |_| Ok(Next::Wait));
        assert_eq!(work.rounds.recv().await, Some(0));
        let begun = tokio::time::Instant::now();
        for _ in 0..100 {
            work.wake.notify_one();
            tokio::task::yield_now().await;
        }
        assert_eq!(work.rounds.recv().await, Some(1));
        assert!(begun.elapsed() >= pause, "{:?}", begun.elapsed());
        assert!(work.rounds.try_recv().is_err());
    }
}
