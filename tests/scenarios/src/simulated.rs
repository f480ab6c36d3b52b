//! Many clusters: simulated ones that enroll at a real platform, and waits over all of them.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kubenova_env::poll::{self, Step};
use kubenova_simulator::cluster::{Options, SimulatedCluster};

use crate::platform::Platform;
use crate::site::text;

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
