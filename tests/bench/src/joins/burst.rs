//! Joins at one moment.

use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use kubenova_scenarios::platform::Platform;
use kubenova_scenarios::steps;
use kubenova_simulator::cluster::{Options, SimulatedCluster};

use super::Ticket;
use super::stages::{self, Stages};
use crate::processes::{Servers, Spent, mib};
use crate::statistics::Sample;

/// What a burst took.
pub(super) struct Burst {
    pub(super) clusters: Vec<SimulatedCluster>,
    stages: Stages,
    spent: Spent,
    manager_peak_kib: u64,
}

/// Joins all of them at once.
pub(super) async fn measure(platform: &mut Platform, tickets: Vec<Ticket>, options: Options) -> Result<Burst> {
    let folder = platform.sandbox.memory("burst-joins")?;
    let servers = Servers::of(platform)?;
    servers.reset_manager_peak()?;
    let before = servers.spent()?;
    let began = stages::now();
    let tasks = tickets.into_iter().map(|ticket| {
        let folder = folder.clone();
        tokio::spawn(async move { stages::join(ticket, &folder, options, began).await })
    });
    let joins = try_join_all(tasks.collect::<Vec<_>>()).await?.into_iter().collect::<Result<Vec<_>>>()?;
    steps::wait_no_open_commands(platform, steps::COMMAND_MAX).await?;
    let spent = servers.spent()?.since(&before);
    let stages = Stages::of(platform, &joins).await?;
    let clusters = joins.into_iter().map(|join| join.cluster).collect();
    Ok(Burst { clusters, stages, spent, manager_peak_kib: servers.manager_peak_kib()? })
}

impl Burst {
    pub(super) fn print(&self, raw: &Sample) {
        let count = self.clusters.len();
        self.stages.print(&format!("{count} at once"), raw);
        println!("\n| burst | |\n| --- | --- |");
        let row = |name: &str, last: Duration| {
            let rate = count as f64 / last.as_secs_f64();
            println!("| {name} | {:.1} s, {rate:.1} a second |", last.as_secs_f64());
        };
        row("raw stage, eight at once: last", raw.percentile(100));
        row("first command applied: last (goal: 50 a second)", self.stages.applied.percentile(100));
        self.spent.print("clusters (keys, TLS)");
        println!("| peak memory of the Manager | {:.0} MiB |", mib(self.manager_peak_kib));
    }
}
