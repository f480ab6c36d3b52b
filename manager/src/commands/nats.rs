//! `nats config`: everything a nats-server of this installation needs, in one folder.

use super::keys;
use crate::settings::Settings;
use anyhow::{Context as _, Result};
use kubenova_runtime::clock;
use kubenova_trust::{nats::Revocations, nats_config::NatsConfig};
use std::{path::PathBuf, time::Duration};

/// Arguments of `nats config`.
#[derive(Debug, clap::Args)]
pub struct Config {
    /// The folder; made when it is not there. Run again it renews what is in it.
    #[arg(long)]
    out: PathBuf,
}

impl Config {
    pub(super) async fn run(self, settings: &Settings) -> Result<()> {
        let store = settings.store()?;
        let keyring = keys::open(settings, &store).await?;
        let revocations = Revocations::default();
        let url = settings.nats.urls.first().context("nats.urls is empty")?;
        let monitor = settings.nats.monitor.map(|address| address.to_string());
        let config = NatsConfig {
            folder: &self.out,
            listen: &settings.nats.listen,
            monitor: monitor.as_deref(),
            hosts: &settings.public_names,
            url,
            ping_interval: Duration::from_secs(settings.nats.ping_interval_seconds),
            now: clock::now(),
            lifetime: settings.lifetimes.server(),
            revocations: &revocations,
        };
        let path = config.write(&keyring.authority, &keyring.nkeys)?;
        let text = format!(
            "wrote {}\nstart the broker:  nats-server --config {}\nlook at it:        XDG_CONFIG_HOME={} nats stream ls\n",
            path.display(),
            path.display(),
            self.out.join("cli").display(),
        );
        let _nobody_reads = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
        Ok(())
    }
}
