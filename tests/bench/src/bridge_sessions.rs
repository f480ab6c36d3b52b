//! What sessions by way of the bridge cost: memory, processor time, the time until all are open, and how they pass to another replica
//! when theirs is stopped. Beside it the same clusters, connected to the broker directly.
//!
//! PostgreSQL, NATS with mutual TLS, one Manager process; clusters are simulated in this process. The broker is started again before each
//! measurement, because a server does not give back what it needed before.

mod drain;
mod replica;
mod stage;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use kubenova_scenarios::platform::{self, HUB_HOST};
use kubenova_scenarios::{simulated, steps};
use kubenova_simulator::cluster::Options;

use crate::environment;
use crate::health::Health;
use replica::{Replica, SPARE_PORT};
use stage::Stage;

/// For all of them to join.
const JOINED_MAX: Duration = Duration::from_secs(900);
/// Files that are open for a cluster: its own connection, that to the relay, and both ends of it at the bridge.
const FILES: usize = 8;

/// What to measure with.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Simulated clusters, each with one session.
    #[arg(long, default_value_t = 1_000)]
    sessions: usize,
    /// Seconds between a cluster's heartbeats.
    #[arg(long, default_value_t = 15)]
    heartbeat: u64,
    /// Seconds of each steady state.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
}

/// Measures and prints.
pub(crate) async fn run(settings: &Settings) -> Result<()> {
    ensure!(settings.sessions > 0 && settings.heartbeat > 0, "--sessions and --heartbeat must be above zero");
    ensure!(
        platform::transport() == "nats",
        "this benchmark measures both transports by itself: leave --transport out"
    );
    let mut platform = environment::with_bridge(settings.sessions * FILES).await?;
    println!("| sessions | {}, a heartbeat every {} s |", settings.sessions, settings.heartbeat);
    let health = Health::begin(&platform)?;
    let options = Options { heartbeat: Duration::from_secs(settings.heartbeat), ping: environment::PING };
    let mut clusters = simulated::join(&platform, "sim", settings.sessions, options).await?;
    simulated::wait_in_session(&clusters, JOINED_MAX).await?;
    steps::wait_no_open_commands(&platform, JOINED_MAX).await?;
    let steady = Duration::from_secs(settings.seconds);

    let direct = Stage::measure(&mut platform, &mut clusters, None, steady).await?;
    direct.print("raw stage: connected directly");

    let mut replica = Replica::start(&platform, "bridge-1", platform::BRIDGE_PORT).await?;
    let urls = [platform::BRIDGE_PORT, SPARE_PORT].map(|port| format!("grpcs://{HUB_HOST}:{port}"));
    clusters.iter().for_each(|cluster| cluster.reach_by(urls.to_vec()));
    let bridged = Stage::measure(&mut platform, &mut clusters, Some(&mut replica), steady).await?;
    bridged.print("by way of one bridge");
    bridged.print_beside(&direct);

    let spare = Replica::start(&platform, "bridge-2", SPARE_PORT).await?;
    drain::measure(&clusters, replica, &spare).await?.print();
    health.print(&platform).await
}
