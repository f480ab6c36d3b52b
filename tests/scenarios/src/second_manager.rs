//! A second Manager on the same database and broker. It reaches both over links that can be cut, and is never the one that a
//! scenario asks.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kubenova_env::hub;
use kubenova_env::link::Link;
use kubenova_env::manager::ManagerProcess;
use kubenova_env::postgres;
use kubenova_env::sandbox::HUB_ADDRESS;

use crate::platform::{self, Platform, PlatformOptions, Ports};

const PORT: u16 = 8444;
const POSTGRES_LINK_PORT: u16 = 15_432;
const HUB_LINK_PORT: u16 = 14_222;

/// A running (or killed) second Manager.
#[derive(Debug)]
pub struct SecondManager {
    /// Its process.
    pub process: ManagerProcess,
    /// Its way to the database.
    pub to_postgres: Link,
    /// Its way to the broker.
    pub to_hub: Link,
    address: SocketAddr,
}

impl SecondManager {
    /// Starts it beside the platform's own, with the same options.
    pub async fn start(platform: &Platform, options: &PlatformOptions) -> Result<Self> {
        let at = |host: &str, port: u16| -> Result<SocketAddr> { Ok(format!("{host}:{port}").parse()?) };
        let to_postgres = Link::open(at("127.0.0.1", POSTGRES_LINK_PORT)?, at("127.0.0.1", postgres::PORT)?).await?;
        let to_hub = Link::open(at(HUB_ADDRESS, HUB_LINK_PORT)?, at(HUB_ADDRESS, hub::PORT)?).await?;
        let folder = platform.sandbox.folder("manager-2")?;
        let kek = platform.manager.folder().join("kek");
        let database_url = platform.database_url.replace(&postgres::PORT.to_string(), &POSTGRES_LINK_PORT.to_string());
        let ports = Ports { rest: PORT, hub: HUB_LINK_PORT };
        let config = platform::configuration(&folder, &kek, &database_url, ports, options)?;
        let mut process = ManagerProcess::configure(&platform.sandbox, "manager-2", &config)?;
        process.set_variable("RUST_LOG", "info,kubenova_manager=debug,kubenova_bus=debug");
        process.serve()?;
        let address = at(HUB_ADDRESS, PORT)?;
        process.wait_listening(address).await?;
        Ok(Self { process, to_postgres, to_hub, address })
    }

    /// Starts it again after it was killed, and waits until it listens.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.restart()?;
        self.process.wait_listening(self.address).await
    }

    /// Starts it again with a clock that is ahead of all others, and waits until it listens.
    pub async fn restart_ahead(&mut self, by: Duration) -> Result<()> {
        self.process.kill();
        self.process.set_variable("KUBENOVA_CLOCK_OFFSET_MS", &by.as_millis().to_string());
        self.process.serve()?;
        self.process.wait_listening(self.address).await
    }

    /// Stops it in the middle of what it does (SIGSTOP), as a machine does that is suspended.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(nix::sys::signal::Signal::SIGSTOP)
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&mut self) -> Result<()> {
        self.signal(nix::sys::signal::Signal::SIGCONT)
    }

    fn signal(&mut self, signal: nix::sys::signal::Signal) -> Result<()> {
        self.process.process().context("the second Manager runs")?.signal(signal)
    }
}
