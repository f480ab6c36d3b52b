//! Soft stop, then hard stop. Every task is spawned with a name; one that ends by surprise ends the process.

use std::{future::Future, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Handed to every part of a process.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tracker: TaskTracker,
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

    /// Runs a part that lives as long as the process. When it ends before a stop was asked for, the process stops.
    pub fn spawn(&self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let stop = self.clone();
        self.tracker.spawn(async move {
            part.await;
            if !stop.is_requested() {
                tracing::error!(part = name, "a part of the process ended by surprise; stopping");
                stop.request();
            }
        });
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
