//! Tenants on simulated clusters, and writes of their applications over REST.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, stream};
use kubenova_scenarios::platform::Platform;
use kubenova_scenarios::rest::Rest;
use kubenova_scenarios::site::text;
use kubenova_scenarios::steps;
use kubenova_scenarios::writers::{self, Accepted};
use kubenova_simulator::cluster::SimulatedCluster;
use serde_json::json;

use crate::statistics::Sample;

/// Most clusters of a tenant that one request may name.
const GROUP: usize = 100;
/// For the tenants' own commands to end on all clusters.
const PLACED_MAX: Duration = Duration::from_secs(600);

/// A tenant and its clusters.
#[derive(Debug)]
pub(crate) struct Group {
    tenant: String,
    pub(crate) tenant_id: String,
    clusters: Vec<String>,
}

impl Group {
    /// How many clusters.
    pub(crate) fn size(&self) -> usize {
        self.clusters.len()
    }
}

/// Places a tenant on each hundred clusters, and waits until every command of it has ended.
pub(crate) async fn place(platform: &Platform, clusters: &[SimulatedCluster]) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    for (index, members) in clusters.chunks(GROUP).enumerate() {
        let tenant = format!("tenant-{index}");
        let names: Vec<&str> = members.iter().map(|cluster| cluster.name.as_str()).collect();
        let created = steps::create_tenant(platform, &tenant, &names).await?;
        let clusters = names.into_iter().map(str::to_owned).collect();
        groups.push(Group { tenant, tenant_id: text(&created, "/id")?, clusters });
    }
    steps::wait_no_open_commands(platform, PLACED_MAX).await?;
    Ok(groups)
}

/// An application to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    tenant: String,
    name: String,
    clusters: Vec<String>,
    number: u64,
}

impl Write {
    /// Commands that it makes.
    pub(crate) fn commands(&self) -> usize {
        self.clusters.len()
    }
}

/// Applications on one cluster each: as many as commands, and the clusters take turns.
pub(crate) fn single(groups: &[Group], commands: usize, prefix: &str) -> Vec<Write> {
    let targets: Vec<(&Group, &String)> =
        groups.iter().flat_map(|group| group.clusters.iter().map(move |cluster| (group, cluster))).collect();
    let write = |(number, (group, cluster)): (u64, &(&Group, &String))| Write {
        tenant: group.tenant.clone(),
        name: format!("{prefix}-{number}"),
        clusters: vec![(*cluster).clone()],
        number,
    };
    (1..).zip(targets.iter().cycle()).take(commands).map(write).collect()
}

/// Applications on all clusters of a tenant: one write makes up to a hundred commands.
pub(crate) fn many(groups: &[Group], commands: usize, prefix: &str) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut left = commands;
    for (number, group) in (1..).zip(groups.iter().cycle()) {
        if left == 0 {
            break;
        }
        let clusters: Vec<String> = group.clusters.iter().take(left).cloned().collect();
        left -= clusters.len();
        writes.push(Write { tenant: group.tenant.clone(), name: format!("{prefix}-{number}"), clusters, number });
    }
    writes
}

/// Writes that were accepted.
#[derive(Debug, Default)]
pub(crate) struct Posted {
    pub(crate) accepted: Vec<Accepted>,
    pub(crate) answered: Sample,
    pub(crate) took: Duration,
}

impl Posted {
    /// Commands a second.
    pub(crate) fn rate(&self) -> f64 {
        self.accepted.len() as f64 / self.took.as_secs_f64()
    }
}

/// Makes all of them, `at_once` at any time, the callers in turn.
pub(crate) async fn post(callers: &[Rest], writes: &[Write], at_once: usize) -> Result<Posted> {
    let began = Instant::now();
    let requests = writes.iter().zip(callers.iter().cycle()).map(|(write, caller)| post_one(caller, write));
    let mut answers = stream::iter(requests).buffer_unordered(at_once);
    let mut posted = Posted::default();
    while let Some(answer) = answers.next().await {
        let (accepted, took) = answer?;
        posted.accepted.extend(accepted);
        posted.answered.push(took);
    }
    posted.took = began.elapsed();
    Ok(posted)
}

async fn post_one(caller: &Rest, write: &Write) -> Result<(Vec<Accepted>, Duration)> {
    let body = json!({ "name": write.name, "image": writers::image(write.number), "cpu": "1m", "memory": "1Mi",
        "clusters": write.clusters });
    let began = Instant::now();
    let answer = caller.post(&format!("/api/v1/tenants/{}/apps", write.tenant), &body).await?.expect(202)?;
    let took = began.elapsed();
    let commands = answer["commands"].as_array().context("an answer has commands")?;
    anyhow::ensure!(commands.len() == write.clusters.len(), "a command a cluster: {answer}");
    let accept = |cluster: &String| Accepted {
        cluster: cluster.clone(),
        application: write.name.clone(),
        number: Some(write.number),
        // Tens of thousands are looked at in Postgres, not one by one.
        command: None,
        may_be_lost: false,
    };
    Ok((write.clusters.iter().map(accept).collect(), took))
}

/// The tenants' ids, by cluster.
pub(crate) fn tenants_by_cluster(groups: &[Group]) -> BTreeMap<&str, &str> {
    let pairs =
        groups.iter().flat_map(|group| group.clusters.iter().map(move |it| (it.as_str(), group.tenant_id.as_str())));
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups() -> Vec<Group> {
        let group = |tenant: &str, clusters: &[&str]| Group {
            tenant: tenant.to_owned(),
            tenant_id: String::new(),
            clusters: clusters.iter().map(|it| (*it).to_owned()).collect(),
        };
        vec![group("x", &["a", "b"]), group("y", &["c"])]
    }

    #[test]
    fn single_writes_go_round_the_clusters_and_have_names_of_their_own() {
        let writes = single(&groups(), 4, "s");
        let seen: Vec<String> =
            writes.iter().map(|it| format!("{} {} {:?}", it.tenant, it.name, it.clusters)).collect();
        assert_eq!(seen, ["x s-1 [\"a\"]", "x s-2 [\"b\"]", "y s-3 [\"c\"]", "x s-4 [\"a\"]"]);
        assert_eq!(writes.iter().map(Write::commands).sum::<usize>(), 4);
    }

    #[test]
    fn writes_for_many_clusters_make_exactly_as_many_commands() {
        for commands in [0, 1, 2, 3, 7] {
            let writes = many(&groups(), commands, "m");
            assert_eq!(writes.iter().map(Write::commands).sum::<usize>(), commands, "{writes:?}");
            assert!(writes.iter().all(|it| it.commands() > 0), "{writes:?}");
        }
    }
}
