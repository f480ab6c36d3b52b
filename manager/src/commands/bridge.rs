//! `bridge`: runs the bridge until a stop is requested, or asks a running one whether it is ready. It reads its own settings only: neither
//! the database nor a key of the Manager is at hand here.

use anyhow::{Context as _, Result, ensure};
use kubenova_bridge::settings::Settings;
use kubenova_runtime::{
    panic_log, probe,
    shutdown::Shutdown,
    telemetry::{self, TelemetryOptions},
};
use std::path::Path;

/// Arguments of `bridge`.
#[derive(Debug, clap::Args)]
pub struct Bridge {
    /// Ask the running bridge with these settings whether it is ready, for a readiness probe.
    #[arg(long)]
    probe: bool,
}

impl Bridge {
    pub(super) async fn run(self, config: &Path) -> Result<()> {
        let settings = Settings::read(config)?;
        if self.probe {
            return ask(&settings).await;
        }
        let telemetry = telemetry::init(&TelemetryOptions {
            service: "kubenova-bridge",
            filter: &settings.log.filter,
            json: settings.log.json,
            otlp_endpoint: None,
        })
        .context("could not start logging: see log in the settings")?;
        panic_log::install();
        let ended = until_stopped(settings).await;
        telemetry.finish().await;
        ended
    }
}

async fn ask(settings: &Settings) -> Result<()> {
    let path = settings.probe_socket.as_deref().context("probeSocket is not in the settings")?;
    let answer = probe::ask(path).await.with_context(|| format!("no bridge answers at {}", path.display()))?;
    ensure!(answer == "ok", "{answer}");
    Ok(())
}

async fn until_stopped(settings: Settings) -> Result<()> {
    let shutdown = Shutdown::new();
    shutdown.on_signals().context("could not install signal handlers")?;
    let stop_max = kubenova_bridge::stop_max(&settings);
    let running = kubenova_bridge::start(settings, shutdown.clone()).await?;
    tracing::info!(address = %running.address, metrics = running.metrics.map(tracing::field::display), "the bridge is running");
    shutdown.requested().await;
    tracing::info!("stopping");
    if !shutdown.finish(stop_max).await {
        tracing::warn!("some sessions did not end in time; ending without them");
    }
    ensure!(!shutdown.part_failed(), "a part of the bridge ended unexpectedly; the log above names it");
    Ok(())
}
