//! The broker goes away and comes back, with its store or without it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kubenova_bus::Settings;
use kubenova_scenarios::oracle::{self, Finding, Wrong};
use kubenova_scenarios::platform::Platform;
use kubenova_scenarios::simulated;
use kubenova_scenarios::writers::Accepted;
use kubenova_simulator::cluster::SimulatedCluster;

use crate::database::Database;
use crate::groups::{self, Posted};
use crate::processes::{Servers, Spent, mib};
use crate::raw_publish::{Published, RawPublish};
use crate::statistics::Sample;

/// Between two looks at all clusters.
const LOOK: Duration = Duration::from_millis(100);
/// For all clusters to be back, and for every command to end.
const BACK_MAX: Duration = Duration::from_secs(1_200);
/// Writes at once while the broker is away.
const WRITES_AT_ONCE: usize = 8;
const OPEN: &str = "select count(*) from commands where finished_at is null";
const SUCCEEDED: &str = "select count(*) from commands where state = 'succeeded'";

/// How far a cluster was before the broker went away.
#[derive(Debug, Clone, Copy)]
struct Before {
    session: u64,
    connects: u64,
}

/// When clusters came back, counted from the moment in which the broker listened again.
#[derive(Debug, Default)]
struct Back {
    connected: Sample,
    in_session: Sample,
    hellos: Sample,
    /// Sessions that were opened meanwhile.
    sessions: u64,
}

fn before(clusters: &[SimulatedCluster]) -> Result<Vec<Before>> {
    let one = |cluster: &SimulatedCluster| {
        let session =
            cluster.session().map_err(|error| anyhow::anyhow!("{} is not in session: {error}", cluster.name))?;
        Ok(Before { session, connects: cluster.connects() })
    };
    clusters.iter().map(one).collect()
}

/// Looks at all clusters until each is in a later session.
async fn wait_back(clusters: &[SimulatedCluster], before: &[Before], listens: Instant) -> Result<Back> {
    let mut back = Back::default();
    let mut disconnected: Vec<usize> = (0..clusters.len()).collect();
    let mut out: Vec<usize> = disconnected.clone();
    while !out.is_empty() {
        ensure!(listens.elapsed() < BACK_MAX, "{} of {} clusters did not come back", out.len(), clusters.len());
        tokio::time::sleep(LOOK).await;
        let now = listens.elapsed();
        disconnected.retain(|&index| {
            let is_out = clusters[index].connects() <= before[index].connects;
            if !is_out {
                back.connected.push(now);
            }
            is_out
        });
        out.retain(|&index| {
            let session = clusters[index].session().ok().filter(|session| *session > before[index].session);
            if session.is_some() {
                back.in_session.push(now);
            }
            session.is_none()
        });
    }
    Ok(back)
}

impl Back {
    /// What can be asked when all are back.
    fn complete(&mut self, clusters: &[SimulatedCluster], before: &[Before]) {
        clusters.iter().filter_map(SimulatedCluster::hello_took).for_each(|took| self.hellos.push(took));
        let opened = clusters
            .iter()
            .zip(before)
            .map(|(cluster, before)| cluster.session().map_or(0, |session| session.saturating_sub(before.session)));
        self.sessions = opened.sum();
    }

    fn print(&self) {
        println!("| | n | p50 s | p99 s | last s |\n| --- | --- | --- | --- | --- |");
        let row = |name: &str, sample: &Sample| {
            let seconds = |percent| sample.percentile(percent).as_secs_f64();
            println!("| {name} | {} | {:.2} | {:.2} | {:.2} |", sample.len(), seconds(50), seconds(99), seconds(100));
        };
        row("connected again, after the broker listened", &self.connected);
        row("in a later session", &self.in_session);
        row("answer to the hello of that session", &self.hellos);
    }
}

/// What a storm of hellos cost.
pub(crate) struct Storm {
    back: Back,
    away: Duration,
    spent: Spent,
    peak_kib: u64,
}

/// Kills the broker and starts it with the same store.
pub(crate) async fn storm(platform: &mut Platform, clusters: &[SimulatedCluster]) -> Result<Storm> {
    let before = before(clusters)?;
    let servers = Servers::of(platform)?;
    servers.reset_manager_peak()?;
    let spent = servers.spent()?;
    let killed = Instant::now();
    platform.hub.kill();
    platform.hub.restart().await?;
    let (away, listens) = (killed.elapsed(), Instant::now());
    let mut back = wait_back(clusters, &before, listens).await?;
    let servers = Servers::of(platform)?;
    let (spent, peak_kib) = (servers.spent()?.since(&spent), servers.manager_peak_kib()?);
    back.complete(clusters, &before);
    Ok(Storm { back, away, spent, peak_kib })
}

impl Storm {
    pub(crate) fn print(&self, title: &str) {
        println!("\n{title}\n");
        self.back.print();
        println!("\n| | |\n| --- | --- |\n| broker away | {:.1} s |", self.away.as_secs_f64());
        println!("| sessions opened | {} for {} clusters |", self.back.sessions, self.back.in_session.len());
        self.spent.print("clusters");
        println!("| peak memory of the Manager | {:.0} MiB |", mib(self.peak_kib));
    }
}

/// What the loss of the broker's store cost.
pub(crate) struct Loss {
    back: Back,
    posted: Posted,
    /// From the moment in which the broker listened again.
    converged: Duration,
    spent: Spent,
    peak_kib: u64,
    raw: Published,
    raw_bytes: usize,
    findings: Vec<Finding>,
}

/// Deletes the broker's store, has commands enqueued, starts the broker, and waits until all of them have succeeded.
pub(crate) async fn loss(
    platform: &mut Platform,
    client: Settings,
    clusters: &[SimulatedCluster],
    commanded: &[SimulatedCluster],
    commands: usize,
) -> Result<Loss> {
    let groups = groups::place(platform, commanded).await?;
    simulated::wait_in_session(clusters, BACK_MAX).await?;
    let mut database = Database::of_product(platform).await?;
    let succeeded = database.number(SUCCEEDED).await?;
    let before = before(clusters)?;
    let servers = Servers::of(platform)?;
    let store = platform.nats_folder.join("jetstream");
    platform.hub.lose_store(&store)?;
    let writes = groups::single(&groups, commands, "lost");
    let posted = groups::post(std::slice::from_ref(&platform.rest), &writes, WRITES_AT_ONCE).await?;
    servers.reset_manager_peak()?;
    let spent = servers.spent()?;
    platform.hub.restart().await?;
    let listens = Instant::now();
    let (back, converged) =
        tokio::try_join!(wait_back(clusters, &before, listens), wait_ended(&mut database, listens))?;
    let mut back = back;
    let servers = Servers::of(platform)?;
    let (spent, peak_kib) = (servers.spent()?.since(&spent), servers.manager_peak_kib()?);
    back.complete(clusters, &before);
    let ended = database.number(SUCCEEDED).await? - succeeded;
    let mut findings = check(clusters, &groups::tenants_by_cluster(&groups), &posted.accepted);
    if ended != i64::try_from(commands)? {
        findings.push(Finding::new(Wrong::Lost, format!("{ended} of {commands} commands have succeeded")));
    }
    let raw = RawPublish::of_last_commands(kubenova_bus::connect(client).await?, usize::MAX).await?;
    let (raw_bytes, raw) = (raw.bytes(), raw.run().await?);
    Ok(Loss { back, posted, converged, spent, peak_kib, raw, raw_bytes, findings })
}

async fn wait_ended(database: &mut Database, listens: Instant) -> Result<Duration> {
    loop {
        let open = database.number(OPEN).await?;
        if open == 0 {
            return Ok(listens.elapsed());
        }
        ensure!(listens.elapsed() < BACK_MAX, "{open} commands have not ended");
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether each cluster holds what was accepted for it, and did nothing twice and nothing out of order.
fn check(clusters: &[SimulatedCluster], tenants: &BTreeMap<&str, &str>, accepted: &[Accepted]) -> Vec<Finding> {
    let mut by_cluster: BTreeMap<&str, Vec<Accepted>> = BTreeMap::new();
    for write in accepted {
        by_cluster.entry(&write.cluster).or_default().push(write.clone());
    }
    let mut findings = Vec::new();
    for cluster in clusters {
        findings.extend(oracle::effects(&cluster.name, cluster.inbox().effects()));
        if let Some(tenant_id) = tenants.get(cluster.name.as_str()) {
            let accepted = by_cluster.remove(cluster.name.as_str()).unwrap_or_default();
            let held = oracle::held_by_simulated(cluster, tenant_id);
            findings.extend(oracle::compare(&cluster.name, &held, &accepted));
        }
    }
    findings
}

impl Loss {
    /// Fails when a command was lost, or more than carried out.
    pub(crate) fn print(&self) -> Result<()> {
        println!("\nbroker loss: killed, its store deleted, commands enqueued meanwhile, started\n");
        self.back.print();
        let (commands, converged) = (self.posted.accepted.len(), self.converged.as_secs_f64());
        let all_back = self.back.in_session.percentile(100).as_secs_f64();
        let whole = converged.max(all_back);
        println!("\n| | |\n| --- | --- |");
        println!("| commands accepted while it was away | {commands}, {:.0} a second |", self.posted.rate());
        println!("| every command has succeeded after | {converged:.1} s |");
        println!("| every cluster in session and every command ended after | {whole:.1} s |");
        self.spent.print("clusters");
        println!("| peak memory of the Manager | {:.0} MiB |", mib(self.peak_kib));
        println!(
            "| raw stage: {} messages, {} bytes, published again to an empty stream | {:.2} s, {:.0} a second |",
            self.raw.messages,
            self.raw_bytes,
            self.raw.took.as_secs_f64(),
            self.raw.rate()
        );
        println!("| whole / raw (goal 3) | {:.1} |", whole / self.raw.took.as_secs_f64());
        let connected = self.back.connected.percentile(100).as_secs_f64();
        println!(
            "| whole / (raw + the last cluster connected) | {:.2} |",
            whole / (self.raw.took.as_secs_f64() + connected)
        );
        let count = |wrong: Wrong| self.findings.iter().filter(|finding| finding.wrong == wrong).count();
        println!(
            "| lost, doubled, stale, out of order | {}, {}, {}, {} |",
            count(Wrong::Lost),
            count(Wrong::Doubled),
            count(Wrong::Stale),
            count(Wrong::OutOfOrder)
        );
        oracle::expect_none(&self.findings)
    }
}
