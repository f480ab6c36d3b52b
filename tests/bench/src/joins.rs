//! H8: from an enrollment token to a cluster that carries out commands, and back: a revocation until the broker has disconnected it.
//!
//! PostgreSQL, NATS with mutual TLS, one Manager process, and the bridge where that is the transport. Clusters are simulated: their
//! keys, enrollment, TLS, hello and rules are the Operator's, and their first command is applied in memory. Tokens are there before;
//! a join is measured from the moment in which its cluster has one.

mod burst;
mod revocations;
mod serial;
mod stages;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kubenova_scenarios::platform::Platform;
use kubenova_scenarios::site::text;
use kubenova_simulator::cluster::Options;

use crate::environment;
use crate::health::Health;
use crate::raw_joins::RawJoins;

/// Time between a cluster's heartbeats, as the product has it by default.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Clusters that are made at once: as many as keep the Manager busy.
const MADE_AT_ONCE: usize = 8;
/// Between the clusters' creation and the burst, so that nothing of the one is left in the other.
const QUIET: Duration = Duration::from_secs(5);

/// What to measure with.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Joins one after another, on a Manager that does nothing else.
    #[arg(long, default_value_t = 200)]
    serial: usize,
    /// Joins at once.
    #[arg(long, default_value_t = 1_000)]
    burst: usize,
    /// Clusters that are revoked one after another, and as many at once.
    #[arg(long, default_value_t = 50)]
    revoked: usize,
}

/// A cluster of the Manager that has not joined.
#[derive(Debug)]
struct Ticket {
    name: String,
    token: String,
}

/// Measures and prints.
pub(crate) async fn run(settings: &Settings) -> Result<()> {
    ensure!(settings.serial > 0 && settings.burst > 0, "--serial and --burst must be above zero");
    ensure!(settings.revoked * 2 <= settings.burst, "--revoked must be at most half of --burst");
    let mut platform = environment::as_in_production((settings.serial + settings.burst) * 4).await?;
    let health = Health::begin(&platform)?;
    let raw = RawJoins::open(&platform).await?;
    let options = Options { heartbeat: HEARTBEAT, ping: environment::PING };

    let tickets = make(&platform, "serial", settings.serial).await?;
    tokio::time::sleep(QUIET).await;
    let mut raw_serial = raw.serially(settings.serial).await?;
    let serial = serial::measure(&platform, tickets, options).await?;
    raw_serial.extend(&raw.serially(settings.serial).await?);
    serial.print("one after another", &raw_serial);

    let tickets = make(&platform, "burst", settings.burst).await?;
    tokio::time::sleep(QUIET).await;
    let raw_burst = raw.burst(settings.burst).await?;
    let burst = burst::measure(&mut platform, tickets, options).await?;
    burst.print(&raw_burst);
    // Before revocations: a cluster that says hello between the request and the end of its connection is rightly refused.
    health.print(&platform).await?;

    let (one_by_one, at_once) = burst.clusters[..settings.revoked * 2].split_at(settings.revoked);
    revocations::measure(&platform, one_by_one, at_once).await?.print();
    Ok(())
}

/// Makes clusters at the Manager.
async fn make(platform: &Platform, prefix: &str, count: usize) -> Result<Vec<Ticket>> {
    let make = |number: usize| async move {
        let name = format!("{prefix}-{number}");
        let created = platform.create_cluster(&name).await?;
        Ok(Ticket { token: text(&created, "/enrollment/token")?, name })
    };
    stream::iter(1..=count).map(make).buffered(MADE_AT_ONCE).try_collect().await
}
