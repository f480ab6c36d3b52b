//! Many clusters: simulated ones that enroll at a real platform, and waits over all of them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kubenova_env::poll::{self, Step};
use kubenova_simulator::cluster::{Options, SimulatedCluster};
use reqwest::Method;
use serde_json::json;

use crate::platform::Platform;
use crate::site::text;
use crate::steps;

/// Clusters that enroll at once: as many as keep the Manager busy.
const AT_ONCE: usize = 8;

/// Makes clusters `<prefix>-<number>` at the Manager, enrolls them, and starts them.
pub async fn join(platform: &Platform, prefix: &str, count: usize, options: Options) -> Result<Vec<SimulatedCluster>> {
    let folder = platform.sandbox.memory("simulated")?;
    let join = |number: usize| join_one(platform, format!("{prefix}-{number}"), &folder, options);
    stream::iter(1..=count).map(join).buffered(AT_ONCE).try_collect().await
}

async fn join_one(platform: &Platform, name: String, folder: &Path, options: Options) -> Result<SimulatedCluster> {
    let created = platform.create_cluster(&name).await?;
    let token = text(&created, "/enrollment/token")?;
    let mut cluster = SimulatedCluster::enroll(&name, &token, folder, options).await?;
    cluster.start();
    Ok(cluster)
}

/// Waits until each of them is in session.
pub async fn wait_in_session(clusters: &[SimulatedCluster], within: Duration) -> Result<()> {
    poll::until(format!("{} clusters to be in session", clusters.len()), within, || async {
        let out: Vec<(&str, String)> = clusters
            .iter()
            .filter_map(|cluster| cluster.session().err().map(|reason| (cluster.name.as_str(), reason)))
            .collect();
        let seen = format!("{} are not, among them {:?}", out.len(), out.first());
        Ok(Step::when(out.is_empty(), (), seen))
    })
    .await
}

/// A command to another cluster, from the request to its success, whatever the one cluster is doing: a session begins again
/// within it.
const OTHERS_MAX: Duration = Duration::from_secs(20);

/// Commands to the other clusters, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Others {
    /// How many there were.
    pub commands: usize,
    /// From the request to its success.
    pub slowest: Duration,
}

/// Commands to the other clusters in turn for a while; fails when one of them takes too long.
pub async fn others_go_on(platform: &Platform, others: &[SimulatedCluster], what: &str) -> Result<Others> {
    let (begun, mut slowest, mut number) = (Instant::now(), Duration::ZERO, 0);
    while begun.elapsed() < Duration::from_secs(8) || number < others.len() {
        let cluster = &others[number % others.len()].name;
        let body = json!({ "name": format!("{what}-{number}"), "image": "shop/web:1", "clusters": [cluster] });
        let asked = Instant::now();
        let path = "/api/v1/tenants/acme/apps";
        let answer = platform.rest.write_through(Method::POST, path, &body, OTHERS_MAX).await?;
        steps::wait_command(platform, &text(&answer, "/commands/0/id")?, "succeeded", OTHERS_MAX).await?;
        slowest = slowest.max(asked.elapsed());
        number += 1;
    }
    ensure!(slowest < OTHERS_MAX, "{what}: a command to another cluster took {slowest:.1?}");
    Ok(Others { commands: number, slowest })
}
