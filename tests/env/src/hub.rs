//! The hub: one NATS server, from a folder that the Manager wrote.
//!
//! Guarantees: it can be killed, its store deleted, and it comes back with the same configuration.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Process, ProcessSpec};
use crate::sandbox::{HUB_ADDRESS, Sandbox};
use crate::servers::Servers;

/// Where clients connect, at [`HUB_ADDRESS`].
pub const PORT: u16 = 4222;
/// The file that `kubenova-manager nats config --out DIR` writes.
pub const CONFIG_FILE: &str = "nats-server.conf";
const BOOT_MAX: Duration = Duration::from_secs(30);

/// A running (or killed) broker.
#[derive(Debug)]
pub struct Hub {
    process: Process,
    address: SocketAddr,
    config: PathBuf,
}

impl Hub {
    /// Starts the broker from `config_folder` at 10.77.0.1:4222 and waits until it listens.
    pub async fn start(sandbox: &Sandbox, config_folder: &Path) -> Result<Self> {
        Self::start_at(sandbox, config_folder, PORT).await
    }

    /// [`Hub::start`] for a configuration that names another port.
    pub async fn start_at(sandbox: &Sandbox, config_folder: &Path, port: u16) -> Result<Self> {
        let folder = sandbox.folder("nats")?;
        let config = config_folder.join(CONFIG_FILE);
        // Relative paths in the configuration are relative to its own folder.
        let mut spec = ProcessSpec::new("nats-server", Servers::find()?.binary("nats-server")?, &folder)
            .args(["--config".into(), config.clone().into_os_string()]);
        spec.folder = folder;
        let address: SocketAddr = format!("{HUB_ADDRESS}:{port}").parse().context("the hub's address")?;
        let mut hub = Self { process: Process::start(spec)?, address, config };
        hub.wait().await?;
        Ok(hub)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Kills it (SIGKILL); its store stays.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills it and deletes `store`, the whole JetStream store.
    pub fn lose_store(&mut self, store: &Path) -> Result<()> {
        self.kill();
        match fs::remove_dir_all(store) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("could not delete {}", store.display()))
            }
            _ => Ok(()),
        }
    }

    /// Starts it again and waits until it listens.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.restart()?;
        self.wait().await
    }

    /// Makes it read its configuration again.
    pub fn reload(&self) -> Result<()> {
        self.process.signal(nix::sys::signal::Signal::SIGHUP)
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    async fn wait(&mut self) -> Result<()> {
        self.process.wait_listening("the broker", self.address, BOOT_MAX).await
    }
}
