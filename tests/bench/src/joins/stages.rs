//! How far each of many joins was when.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kubenova_runtime::clock;
use kubenova_scenarios::platform::Platform;
use kubenova_simulator::cluster::{Moments, Options, SimulatedCluster};

use super::Ticket;
use crate::database::Database;
use crate::statistics::{Sample, row};

/// For the first command of a cluster to be applied, however many others join.
const APPLIED_MAX: Duration = Duration::from_secs(300);
/// When the first command of each cluster ended, as the Manager has it.
const ENDED: &str = "select coalesce(json_object_agg(cluster_id, at), '{}')::text
     from (select cluster_id, min(finished_at) as at from commands where state = 'succeeded' group by cluster_id) as ended";

/// A cluster that has joined.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) cluster: SimulatedCluster,
    began: Instant,
    began_at: Timestamp,
    enrolled: Instant,
    moments: Moments,
}

/// Joins; `began` is the moment from which its times count.
pub(super) async fn join(
    ticket: Ticket,
    folder: &Path,
    options: Options,
    (began, began_at): (Instant, Timestamp),
) -> Result<Joined> {
    let mut cluster = SimulatedCluster::enroll(&ticket.name, &ticket.token, folder, options).await?;
    let enrolled = Instant::now();
    cluster.start();
    let moments = cluster.applied(APPLIED_MAX).await?;
    Ok(Joined { cluster, began, began_at, enrolled, moments })
}

/// Now, by both clocks.
pub(super) fn now() -> (Instant, Timestamp) {
    (Instant::now(), clock::now())
}

/// How long joins took until each point.
#[derive(Debug, Default)]
pub(super) struct Stages {
    enrolled: Sample,
    connected: Sample,
    in_session: Sample,
    pub(super) applied: Sample,
    /// Until the Manager knew that the first command has succeeded.
    ended: Sample,
    /// Requests for an identity beyond the first.
    asked_again: u32,
}

impl Stages {
    /// Of joins whose first commands have ended.
    pub(super) async fn of(platform: &Platform, joins: &[Joined]) -> Result<Self> {
        let ended = Database::of_product(platform).await?.text(ENDED).await?;
        let ended: BTreeMap<String, Timestamp> = serde_json::from_str(&ended).context("when commands ended is JSON")?;
        let mut stages = Self::default();
        for join in joins {
            let Joined { cluster, began, began_at, enrolled, moments } = join;
            let points = [
                (Some(*enrolled), &mut stages.enrolled),
                (moments.connected, &mut stages.connected),
                (moments.in_session, &mut stages.in_session),
                (moments.applied, &mut stages.applied),
            ];
            for (at, sample) in points {
                sample.push(at.context("a join went past each point")?.saturating_duration_since(*began));
            }
            let ended = ended.get(cluster.id()).context("each first command has ended")?;
            stages.ended.push(Duration::try_from(ended.duration_since(*began_at)).unwrap_or_default());
            stages.asked_again += cluster.asked() - 1;
        }
        Ok(stages)
    }

    /// One row for each point.
    pub(super) fn print(&self, title: &str, raw: &Sample) {
        println!("\n| {title} | n | p50 ms | p99 ms | p50 ratio | p99 ratio |\n| --- | --- | --- | --- | --- | --- |");
        println!("{}", row("raw stage: key, certificate, commit, TLS", raw, None));
        println!("{}", row("enrolled", &self.enrolled, None));
        println!("{}", row("connected", &self.connected, None));
        println!("{}", row("in session", &self.in_session, None));
        println!("{}", row("first command applied", &self.applied, Some(raw)));
        println!("{}", row("success of it at the Manager", &self.ended, None));
        println!("\n{} requests for an identity were made again", self.asked_again);
    }
}
