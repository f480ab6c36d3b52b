//! `bridge`: runs the bridge until a stop is requested, or asks a running one whether it is ready. It reads its own settings only: neither
//! the database nor a key of the Manager is at hand here.

use super::process::Process;
use anyhow::{Context as _, Result, ensure};
use kubenova_bridge::settings::Settings;
use kubenova_runtime::{probe, telemetry::TelemetryOptions};
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
        let log = settings.log.clone();
        let logs =
            TelemetryOptions { service: "kubenova-bridge", filter: &log.filter, json: log.json, otlp_endpoint: None };
        let stop_max = kubenova_bridge::stop_max(&settings);
        let bridge = Process { name: "bridge", log_settings: "log", stop_max };
        bridge
            .run(&logs, async |shutdown| {
                let running = kubenova_bridge::start(settings, shutdown).await?;
                let metrics = running.metrics.map(tracing::field::display);
                tracing::info!(address = %running.address, metrics, "the bridge is running");
                Ok(running)
            })
            .await
    }
}

async fn ask(settings: &Settings) -> Result<()> {
    let path = settings.probe_socket.as_deref().context("probeSocket is not in the settings")?;
    let answer = probe::ask(path).await.with_context(|| format!("no bridge answers at {}", path.display()))?;
    ensure!(answer == "ok", "{answer}");
    Ok(())
}
