//! `serve`: runs the Manager until a stop is requested.

use super::process::Process;
use crate::{settings::Settings, wiring};
use anyhow::Result;
use kubenova_runtime::telemetry::TelemetryOptions;
use std::time::Duration;

/// Longest time of a soft stop: running requests have 10 s, the rest is for consumers to answer the messages they hold.
const STOP_MAX: Duration = Duration::from_secs(15);

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub struct Serve {}

impl Serve {
    pub(super) async fn run(self, settings: Settings) -> Result<()> {
        let (log, otlp_endpoint) = (settings.log.clone(), settings.tracing.otlp_endpoint.clone());
        let logs = TelemetryOptions {
            service: "kubenova-manager",
            filter: &log.filter,
            json: log.json,
            otlp_endpoint: otlp_endpoint.as_deref(),
        };
        let manager = Process { name: "Manager", log_settings: "log and tracing", stop_max: STOP_MAX };
        manager
            .run(&logs, async |shutdown| {
                let running = wiring::start(settings, shutdown).await?;
                let metrics = running.metrics.map(tracing::field::display);
                tracing::info!(addresses = ?running.addresses, metrics, "the Manager is running");
                Ok(running)
            })
            .await
    }
}
