//! All clusters connect at once by one transport, and stay.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kubenova_scenarios::platform::Platform;
use kubenova_scenarios::simulated;
use kubenova_simulator::cluster::SimulatedCluster;

use super::replica::Replica;
use crate::processes::{Servers, Spent, mib};
use crate::statistics::Sample;

/// For all of them to be in session.
const IN_SESSION_MAX: Duration = Duration::from_secs(300);
/// For a server that was started to have done what it does then.
const STARTED: Duration = Duration::from_secs(5);

/// Memory of the servers, in KiB.
#[derive(Debug, Clone, Copy)]
struct Memory {
    broker: u64,
    bridge: Option<u64>,
}

impl Memory {
    fn of(servers: Servers, replica: Option<&mut Replica>) -> Result<Self> {
        Ok(Self { broker: servers.broker_kib()?, bridge: replica.map(Replica::kib).transpose()? })
    }
}

/// What it took, and what it costs.
pub(super) struct Stage {
    sessions: usize,
    connected: Sample,
    in_session: Sample,
    before: Memory,
    opened: Memory,
    steady: Memory,
    bridge_peak: Option<u64>,
    spent: Spent,
    bridge_spent: Option<Duration>,
    lasted: Duration,
    refused: f64,
}

impl Stage {
    /// Starts the broker again and all clusters at once, and looks for so long after all are in session.
    pub(super) async fn measure(
        platform: &mut Platform,
        clusters: &mut [SimulatedCluster],
        mut replica: Option<&mut Replica>,
        lasts: Duration,
    ) -> Result<Self> {
        clusters.iter_mut().for_each(SimulatedCluster::kill);
        platform.hub.kill();
        platform.hub.restart().await?;
        platform.wait_ready().await?;
        tokio::time::sleep(STARTED).await;
        let servers = Servers::of(platform)?;
        let before = Memory::of(servers, replica.as_deref_mut())?;
        let began = Instant::now();
        clusters.iter_mut().for_each(SimulatedCluster::start);
        simulated::wait_in_session(clusters, IN_SESSION_MAX).await?;
        let opened = Memory::of(servers, replica.as_deref_mut())?;
        let (mut connected, mut in_session) = (Sample::default(), Sample::default());
        for moments in clusters.iter().map(SimulatedCluster::moments) {
            moments.connected.into_iter().for_each(|at| connected.push(at.saturating_duration_since(began)));
            moments.in_session.into_iter().for_each(|at| in_session.push(at.saturating_duration_since(began)));
        }
        let mut refused = 0.0;
        if let Some(replica) = replica.as_deref_mut() {
            let open = replica.metric("kubenova_bridge_sessions").await?;
            ensure!(open == clusters.len() as f64, "the bridge has {open} sessions instead of {}", clusters.len());
            refused = replica.metric("kubenova_bridge_sessions_refused_total").await?;
        }
        let bridge_before = replica.as_deref_mut().map(Replica::spent).transpose()?;
        let (spent, from) = (servers.spent()?, Instant::now());
        tokio::time::sleep(lasts).await;
        let (spent, lasted) = (servers.spent()?.since(&spent), from.elapsed());
        let bridge_after = replica.as_deref_mut().map(Replica::spent).transpose()?;
        let bridge_spent = bridge_after.zip(bridge_before).map(|(after, before)| after.saturating_sub(before));
        let bridge_peak = replica.as_deref_mut().map(Replica::peak_kib).transpose()?;
        let steady = Memory::of(servers, replica)?;
        let sessions = clusters.len();
        Ok(Self {
            sessions,
            connected,
            in_session,
            before,
            opened,
            steady,
            bridge_peak,
            spent,
            bridge_spent,
            lasted,
            refused,
        })
    }

    pub(super) fn print(&self, title: &str) {
        println!("\n{title}\n\n| all at once | n | p50 s | p99 s | last s |\n| --- | --- | --- | --- | --- |");
        for (name, sample) in [("connected", &self.connected), ("in session", &self.in_session)] {
            let seconds = |percent| sample.percentile(percent).as_secs_f64();
            println!("| {name} | {} | {:.2} | {:.2} | {:.2} |", sample.len(), seconds(50), seconds(99), seconds(100));
        }
        println!(
            "\n| memory MiB | before | all in session | after {:.0} s | KiB a session |",
            self.lasted.as_secs_f64()
        );
        println!("| --- | --- | --- | --- | --- |");
        let row = |name: &str, before: u64, opened: u64, steady: u64| {
            let each = self.each_kib(before, steady);
            println!("| {name} | {:.1} | {:.1} | {:.1} | {each:.1} |", mib(before), mib(opened), mib(steady));
        };
        row("broker", self.before.broker, self.opened.broker, self.steady.broker);
        if let (Some(before), Some(opened), Some(steady)) = (self.before.bridge, self.opened.bridge, self.steady.bridge)
        {
            row("bridge", before, opened, steady);
            println!(
                "\npeak of the bridge {:.1} MiB; sessions that it refused {:.0}",
                mib(self.bridge_peak.unwrap_or(0)),
                self.refused
            );
        }
        println!("\n| steady state, {:.0} s | cores |\n| --- | --- |", self.lasted.as_secs_f64());
        let cores =
            |name: &str, time: Duration| println!("| {name} | {:.4} |", time.as_secs_f64() / self.lasted.as_secs_f64());
        cores("broker", self.spent.broker);
        self.bridge_spent.into_iter().for_each(|time| cores("bridge", time));
        cores("Manager", self.spent.manager);
        cores("PostgreSQL", self.spent.postgres);
        cores("clusters", self.spent.ourselves);
    }

    /// A session by way of the bridge against a connection of the broker.
    pub(super) fn print_beside(&self, direct: &Self) {
        let connection = self.each_kib(direct.before.broker, direct.steady.broker);
        if let (Some(before), Some(steady)) = (self.before.bridge, self.steady.bridge) {
            let session = self.each_kib(before, steady);
            println!(
                "\na session costs the bridge {session:.1} KiB, a direct connection the broker {connection:.1} KiB: {:.2}",
                session / connection
            );
        }
    }

    fn each_kib(&self, before: u64, after: u64) -> f64 {
        after.saturating_sub(before) as f64 / self.sessions as f64
    }
}
