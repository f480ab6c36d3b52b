//! H5 and H7: what thousands of connected clusters cost, how they come back after the broker was restarted, and how everything ends
//! after its store was lost.
//!
//! PostgreSQL, NATS with mutual TLS and one Manager process; the clusters are simulated in this process, each with a key, a
//! certificate and a connection of its own.

mod joining;
mod outage;
mod steady;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use kubenova_scenarios::broker;
use kubenova_simulator::cluster::Options;

use crate::environment;
use crate::health::Health;

/// What to measure with.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Simulated clusters.
    #[arg(long, default_value_t = 10_000)]
    clusters: usize,
    /// Seconds between a cluster's heartbeats.
    #[arg(long, default_value_t = 15)]
    heartbeat: u64,
    /// Minutes of the steady state.
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// Commands that are enqueued while the broker is away.
    #[arg(long, default_value_t = 10_000)]
    commands: usize,
    /// Clusters that these commands are for.
    #[arg(long, default_value_t = 1_000)]
    commanded: usize,
}

/// Measures and prints.
pub(crate) async fn run(settings: &Settings) -> Result<()> {
    ensure!(settings.clusters > 0 && settings.heartbeat > 0, "--clusters and --heartbeat must be above zero");
    ensure!(settings.commanded > 0, "--commanded must be above zero");
    let mut platform = environment::as_in_production(settings.clusters).await?;
    println!("| clusters | {}, a heartbeat every {} s |", settings.clusters, settings.heartbeat);
    println!("| seed | none: nothing is drawn |");
    let health = Health::begin(&platform)?;
    let client = broker::settings(&platform, &broker::keyring(&platform)?)?;

    let heartbeat = Duration::from_secs(settings.heartbeat);
    let idle = steady::idle(&mut platform).await?;
    let options = Options { heartbeat, ping: environment::PING };
    let joined = joining::join(&mut platform, settings.clusters, options).await?;
    joined.print();
    let clusters = &joined.clusters;
    // Every cluster has sent a heartbeat by its own clock, whatever it did before.
    tokio::time::sleep(heartbeat).await;
    steady::measure(&mut platform, client.clone(), Duration::from_secs(settings.minutes * 60)).await?.print(&idle);
    outage::storm(&mut platform, clusters).await?.print("hello storm: the broker is killed and started with its store");
    let commanded = &clusters[..settings.commanded.min(clusters.len())];
    outage::loss(&mut platform, client, clusters, commanded, settings.commands).await?.print()?;
    health.print(&platform).await
}
