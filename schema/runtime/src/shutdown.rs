//! Soft stop, then hard stop. Every task is spawned with a name; one that ends before a stop was requested ends the
//! process.

use crate::signal::Signal;
use futures::FutureExt as _;
use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Handed to every part of a process.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tracker: TaskTracker,
    failed: Arc<AtomicBool>,
}

impl Shutdown {
    /// For one process.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// For parts that may be stopped by themselves: a stop of this one stops them, and theirs stops nothing else.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), tracker: TaskTracker::new(), failed: Arc::clone(&self.failed) }
    }

    /// The token that is cancelled by the soft stop.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Asks every part to finish.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Resolves once a stop was requested.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Waits; false when a stop was requested before the time was over.
    pub async fn sleep(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.requested() => false,
            () = tokio::time::sleep(time) => true,
        }
    }

    /// Waits at least `least`, then until the signal, altogether at most `most`. False when a stop was requested.
    pub(crate) async fn wait(&self, least: Duration, most: Duration, signal: &mut impl Signal) -> bool {
        if !least.is_zero() && !self.sleep(least).await {
            return false;
        }
        tokio::select! {
            biased;
            () = self.requested() => false,
            () = signal.signaled() => true,
            () = tokio::time::sleep(most.saturating_sub(least)) => true,
        }
    }

    /// True once a stop was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Runs a part that lives as long as the process. When it ends before a stop was requested, or panics, the process
    /// stops and is started again from outside: a process that lacks a part would look healthy and do half of its work.
    pub fn spawn(&self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let stop = self.clone();
        self.tracker.spawn(async move {
            let panicked = AssertUnwindSafe(part).catch_unwind().await.is_err();
            if panicked || !stop.is_requested() {
                tracing::error!(
                    part = name,
                    panicked,
                    "a part of the process ended unexpectedly; stopping the process"
                );
                stop.failed.store(true, Ordering::SeqCst);
                stop.request();
            }
        });
    }

    /// Runs work that ends by itself; a stop waits for it. When it panics, the process stops as it does for a part.
    pub fn spawn_work(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.clone();
        self.tracker.spawn(async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                tracing::error!(work = name, "panicked; stopping the process");
                stop.failed.store(true, Ordering::SeqCst);
                stop.request();
            }
        });
    }

    /// True when a part ended unexpectedly: the process should say so with its exit code.
    #[must_use]
    pub fn part_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Waits for all parts, at most this long. False when some were still running.
    pub async fn finish(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }

    /// Asks for a stop on SIGTERM or Ctrl-C.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = stop.requested() => {}
            }
            stop.request();
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_or_returns_stops_the_process_and_a_requested_stop_is_no_failure() {
        for part in [0, 1] {
            let stop = Shutdown::new();
            stop.spawn("a part", async move { assert_eq!(part, 0, "a part that panics") });
            stop.requested().await;
            assert!(stop.finish(Duration::from_secs(5)).await && stop.part_failed());
        }
        let stop = Shutdown::new();
        let token = stop.token();
        stop.spawn("a part", async move { token.cancelled().await });
        stop.request();
        assert!(stop.finish(Duration::from_secs(5)).await && !stop.part_failed());
    }

    #[tokio::test]
    async fn work_may_end_and_stops_the_process_only_when_it_panics() {
        let stop = Shutdown::new();
        stop.spawn_work("some work", async {});
        assert!(stop.finish(Duration::from_secs(5)).await && !stop.is_requested());
        stop.spawn_work("some work", async { panic!("work that panics") });
        assert!(stop.finish(Duration::from_secs(5)).await && stop.part_failed());
    }
}
