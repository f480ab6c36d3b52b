//! `nats config`: everything that the nats-server of this installation needs, in one folder.

pub(super) mod decode;

use super::{keys, say};
use crate::{accounts, settings::Settings};
use anyhow::{Context as _, Result};
use kubenova_runtime::clock;
use kubenova_trust::nats_config::NatsConfig;
use std::{path::PathBuf, time::Duration};

/// Arguments of `nats config`.
#[derive(Debug, clap::Args)]
pub struct Config {
    /// The folder; created when it is missing. Can be repeated; it renews what is in it.
    #[arg(long)]
    out: PathBuf,
}

impl Config {
    pub(super) async fn run(self, settings: &Settings) -> Result<()> {
        let store = settings.connect().await?;
        let keyring = keys::open(settings, &store).await?;
        let current = accounts::current(&store, &keyring).await?;
        let url =
            settings.nats.urls.first().context("nats.urls is empty: set the URL of the broker, tls://host:port")?;
        let monitor = settings.nats.monitor.map(|address| address.to_string());
        let config = NatsConfig {
            folder: &self.out,
            listen: &settings.nats.listen,
            leaf: settings.nats.leaf_listen.as_deref(),
            websocket: settings.nats.websocket_listen.as_deref(),
            monitor: monitor.as_deref(),
            hosts: &settings.hub_hosts(),
            bridge_hosts: &settings.bridge_hosts(),
            url,
            ping_interval: Duration::from_secs(settings.nats.ping_interval_seconds),
            now: clock::now(),
            lifetime: settings.lifetimes.server(),
            accounts: &current.accounts,
        };
        let path = config.write(&keyring.authority, &keyring.nkeys)?;
        let text = format!(
            "wrote {}\nstart the broker:  nats-server --config {}\ninspect it:        XDG_CONFIG_HOME={} nats stream ls",
            path.display(),
            path.display(),
            self.out.join("cli").display(),
        );
        say(&text);
        Ok(())
    }
}
