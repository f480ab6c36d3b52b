//! What the commands that go on until a stop is requested have in common: logs, signals, and an end in good order.

use anyhow::{Context as _, Result, ensure};
use kubenova_runtime::{
    open_files, panic_log,
    shutdown::Shutdown,
    telemetry::{self, TelemetryOptions},
};
use std::time::Duration;

/// A process.
pub(super) struct Process {
    /// What it is called in messages.
    pub(super) name: &'static str,
    /// The part of its settings about logs.
    pub(super) log_settings: &'static str,
    /// Longest time of a soft stop.
    pub(super) stop_max: Duration,
}

impl Process {
    /// Starts it, and ends it when a stop is requested. What was started says in the log that it runs.
    pub(super) async fn run<T>(
        &self,
        logs: &TelemetryOptions<'_>,
        start: impl AsyncFnOnce(Shutdown) -> Result<T>,
    ) -> Result<()> {
        let see = || format!("could not start logging: see {} in the settings", self.log_settings);
        let telemetry = telemetry::init(logs).with_context(see)?;
        panic_log::install();
        // Each connection is one.
        if let Err(error) = open_files::raise_limit() {
            tracing::warn!(%error, "could not raise the limit of open files; fewer connections are possible");
        }
        let ended = self.until_stopped(start).await;
        telemetry.finish().await;
        ended
    }

    async fn until_stopped<T>(&self, start: impl AsyncFnOnce(Shutdown) -> Result<T>) -> Result<()> {
        let shutdown = Shutdown::new();
        shutdown.on_signals().context("could not install signal handlers")?;
        // What it holds lives until the end.
        let _running = start(shutdown.clone()).await?;
        shutdown.requested().await;
        tracing::info!("stopping");
        if !shutdown.finish(self.stop_max).await {
            tracing::warn!("some parts did not stop in time; ending without them");
        }
        ensure!(!shutdown.part_failed(), "a part of the {} ended unexpectedly; the log above names it", self.name);
        Ok(())
    }
}
