//! A replica is asked to stop (SIGTERM), and its sessions pass to another.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kubenova_simulator::cluster::SimulatedCluster;

use super::replica::Replica;
use crate::statistics::{Sample, row};

/// Between two looks at all clusters.
const LOOK: Duration = Duration::from_millis(50);
/// For all of them to be in a later session.
const BACK_MAX: Duration = Duration::from_secs(300);
/// For the replica to end: longer than it takes for the sessions that it ends last.
const STOP_MAX: Duration = Duration::from_secs(60);

/// What it took.
pub(super) struct Drain {
    /// From the request until a cluster was in a later session.
    back: Sample,
    /// From the end of a session on the one until its cluster had one on the other.
    between: Sample,
    ended: Duration,
    taken_over: f64,
    sessions: usize,
}

/// Stops the one, and waits until all are on the other.
pub(super) async fn measure(clusters: &[SimulatedCluster], mut from: Replica, to: &Replica) -> Result<Drain> {
    let before: Vec<u64> = clusters.iter().map(|cluster| cluster.session().unwrap_or_default()).collect();
    let began = Instant::now();
    let (ended, back) = tokio::try_join!(from.stop(STOP_MAX), back(clusters, &before, began))?;
    let taken_over = to.metric("kubenova_bridge_sessions").await?;
    let (ends, begins) = (from.logged("a session ended")?, to.logged("a session begins")?);
    let mut between = Sample::default();
    for (cluster, ended) in &ends {
        if let Some(begun) = begins.get(cluster) {
            between.push(Duration::try_from(begun.duration_since(*ended)).unwrap_or_default());
        }
    }
    Ok(Drain { back, between, ended, taken_over, sessions: clusters.len() })
}

async fn back(clusters: &[SimulatedCluster], before: &[u64], began: Instant) -> Result<Sample> {
    let mut back = Sample::default();
    let mut out: Vec<usize> = (0..clusters.len()).collect();
    while !out.is_empty() {
        ensure!(began.elapsed() < BACK_MAX, "{} of {} clusters are not in session again", out.len(), clusters.len());
        tokio::time::sleep(LOOK).await;
        let now = began.elapsed();
        out.retain(|&index| {
            let is_out = clusters[index].session().map_or(true, |session| session <= before[index]);
            if !is_out {
                back.push(now);
            }
            is_out
        });
    }
    Ok(back)
}

impl Drain {
    pub(super) fn print(&self) {
        println!(
            "\n| a replica is stopped, another takes over | n | p50 ms | p99 ms | | |\n| --- | --- | --- | --- | --- | --- |"
        );
        println!("{}", row("without a session: from its end on the one to the other", &self.between, None));
        println!("{}", row("in a later session, after SIGTERM", &self.back, None));
        println!("\n| | |\n| --- | --- |");
        println!("| all in a later session after | {:.1} s |", self.back.percentile(100).as_secs_f64());
        println!("| the process ended after | {:.1} s |", self.ended.as_secs_f64());
        println!("| sessions on the other | {:.0} of {} |", self.taken_over, self.sessions);
    }
}
