//! Soft stop, then hard stop. Every task is spawned with a name; one that ends by surprise ends the process.

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
    surprised: Arc<AtomicBool>,
}

impl Shutdown {
    /// A process that has not been asked to stop.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
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

    /// Resolves once a stop was asked for.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// True once a stop was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Runs a part that lives as long as the process. When it ends before a stop was asked for, or panics, the process
    /// stops: whoever started it starts it again, and nobody waits for a part that is not there.
    pub fn spawn(&self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let stop = self.clone();
        self.tracker.spawn(async move {
            let panicked = AssertUnwindSafe(part).catch_unwind().await.is_err();
            if panicked || !stop.is_requested() {
                tracing::error!(part = name, panicked, "a part of the process ended by surprise; stopping");
                stop.surprised.store(true, Ordering::SeqCst);
                stop.request();
            }
        });
    }

    /// True when a part ended by surprise: the process should say so with its exit code.
    #[must_use]
    pub fn was_surprised(&self) -> bool {
        self.surprised.load(Ordering::SeqCst)
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
    async fn a_part_that_panics_or_returns_stops_the_process_and_a_stop_does_not_surprise() {
        for part in [0, 1] {
            let stop = Shutdown::new();
            stop.spawn("a part", async move { assert_eq!(part, 0, "a part that panics") });
            stop.requested().await;
            assert!(stop.finish(Duration::from_secs(5)).await && stop.was_surprised());
        }
        let stop = Shutdown::new();
        let token = stop.token();
        stop.spawn("a part", async move { token.cancelled().await });
        stop.request();
        assert!(stop.finish(Duration::from_secs(5)).await && !stop.was_surprised());
    }
}
