//! All clusters join: token, keys, certificate, connection, session, and their first command.

use std::time::{Duration, Instant};

use anyhow::Result;
use kubenova_scenarios::platform::Platform;
use kubenova_scenarios::{simulated, steps};
use kubenova_simulator::cluster::{Options, SimulatedCluster};

use crate::processes::{Servers, Spent, mib};

/// For all of them to be in session once the last has enrolled, and for their first commands to end.
const SETTLED_MAX: Duration = Duration::from_secs(900);

/// What joining cost.
pub(crate) struct Joined {
    pub(crate) clusters: Vec<SimulatedCluster>,
    enrolled: Duration,
    in_session: Duration,
    settled: Duration,
    spent: Spent,
    manager_kib: u64,
    manager_peak_kib: u64,
    broker_kib: u64,
}

/// Joins so many.
pub(crate) async fn join(platform: &mut Platform, count: usize, options: Options) -> Result<Joined> {
    let servers = Servers::of(platform)?;
    servers.reset_manager_peak()?;
    let before = servers.spent()?;
    let began = Instant::now();
    let clusters = simulated::join(platform, "sim", count, options).await?;
    let enrolled = began.elapsed();
    simulated::wait_in_session(&clusters, SETTLED_MAX).await?;
    let in_session = began.elapsed();
    steps::wait_no_open_commands(platform, SETTLED_MAX).await?;
    Ok(Joined {
        clusters,
        enrolled,
        in_session,
        settled: began.elapsed(),
        spent: servers.spent()?.since(&before),
        manager_kib: servers.manager_kib()?,
        manager_peak_kib: servers.manager_peak_kib()?,
        broker_kib: servers.broker_kib()?,
    })
}

impl Joined {
    pub(crate) fn print(&self) {
        let count = self.clusters.len();
        let seconds = self.enrolled.as_secs_f64();
        println!("\n| join, eight at once | |\n| --- | --- |");
        println!("| enrolled | {count} in {seconds:.1} s: {:.1} a second |", count as f64 / seconds);
        println!("| all in session after | {:.1} s |", self.in_session.as_secs_f64());
        println!("| first commands of all ended after | {:.1} s |", self.settled.as_secs_f64());
        self.spent.print("clusters (keys, TLS)");
        println!(
            "| memory | Manager {:.0} MiB (peak {:.0}), broker {:.0} MiB |",
            mib(self.manager_kib),
            mib(self.manager_peak_kib),
            mib(self.broker_kib)
        );
    }
}
