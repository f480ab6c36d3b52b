//! `serve`: runs the Manager until a stop is requested.

use crate::{settings::Settings, wiring};
use anyhow::{Context as _, Result};
use kubenova_runtime::{
    panic_log,
    shutdown::Shutdown,
    telemetry::{self, TelemetryOptions},
};
use std::time::Duration;

/// Longest time of a soft stop: running requests have 10 s, the rest is for consumers to answer the messages they hold.
const STOP_MAX: Duration = Duration::from_secs(15);

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub struct Serve {}

impl Serve {
    pub(super) async fn run(self, settings: Settings) -> Result<()> {
        let telemetry = telemetry::init(&TelemetryOptions {
            service: "kubenova-manager",
            filter: &settings.log.filter,
            json: settings.log.json,
            otlp_endpoint: settings.tracing.otlp_endpoint.as_deref(),
        })
        .context("could not start logging: see log and tracing in the settings")?;
        panic_log::install();
        let ended = Self::until_stopped(settings).await;
        telemetry.finish().await;
        ended
    }

    async fn until_stopped(settings: Settings) -> Result<()> {
        let shutdown = Shutdown::new();
        shutdown.on_signals().context("could not install signal handlers")?;
        let running = wiring::start(settings, shutdown.clone()).await?;
        tracing::info!(addresses = ?running.addresses, metrics = running.metrics.map(tracing::field::display), "the Manager is running");
        shutdown.requested().await;
        tracing::info!("stopping");
        if !shutdown.finish(STOP_MAX).await {
            tracing::warn!("some parts did not stop in time; ending without them");
        }
        anyhow::ensure!(!shutdown.part_failed(), "a part of the Manager ended unexpectedly; the log above names it");
        Ok(())
    }
}
