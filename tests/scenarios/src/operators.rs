//! Several Operators in one cluster: one holds the Lease, and takes it over from one that is paused.

use anyhow::{Context as _, Result};
use kubenova_env::pod_runner::PodHandle;
use kubenova_env::poll::{self, Step};

use crate::site::{NAMESPACE, OPERATOR, Site};
use crate::steps::COMMAND_MAX;

/// Has so many replicas of the Operator.
///
/// # Errors
/// When the Deployment cannot be changed.
pub fn scale(site: &Site, replicas: usize) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    site.cluster.kubectl_ok(&["scale", "deployment", "kubenova-operator", "-n", NAMESPACE, &replicas]).map(drop)
}

/// The same, and waits until so many run.
///
/// # Errors
/// When they do not.
pub async fn scale_and_wait(site: &Site, replicas: usize) -> Result<()> {
    scale(site, replicas)?;
    poll::until(format!("{replicas} Operators"), COMMAND_MAX, || async {
        let now = running(site).len();
        Ok(Step::when(now == replicas, (), format!("{now}")))
    })
    .await
}

/// The pods of Operators that run.
#[must_use]
pub fn running(site: &Site) -> Vec<PodHandle> {
    site.cluster.pods().labelled(OPERATOR).into_iter().filter(|pod| !pod.pids().is_empty()).collect()
}

/// UID of the pod that holds the Lease; empty when none does.
///
/// # Errors
/// When the Lease cannot be read.
pub fn holder(site: &Site) -> Result<String> {
    let path = "jsonpath={.spec.holderIdentity}";
    site.cluster.kubectl_ok(&["get", "lease", "kubenova-operator", "-n", NAMESPACE, "-o", path])
}

/// The pod that holds the Lease.
///
/// # Errors
/// When none that runs does.
pub fn leader(site: &Site) -> Result<PodHandle> {
    let holder = holder(site)?;
    running(site).into_iter().find(|pod| pod.uid() == holder).context("no pod that runs holds the Lease")
}

/// Waits until another pod than this one holds the Lease.
///
/// # Errors
/// When none takes it.
pub async fn taken_over_from(site: &Site, leader: &PodHandle) -> Result<()> {
    poll::until("another Operator to take the Lease", COMMAND_MAX, || async {
        let now = holder(site)?;
        Ok(Step::when(!now.is_empty() && now != leader.uid(), (), now))
    })
    .await
}

/// Waits until a pod's processes are others than these: an Operator that lost the Lease ends.
///
/// # Errors
/// When they go on.
pub async fn ended(leader: &PodHandle, pids: &[u32]) -> Result<()> {
    poll::until("the Operator that lost the Lease to end", COMMAND_MAX, || async {
        let now = leader.pids();
        Ok(Step::when(now != pids, (), format!("{now:?}")))
    })
    .await
}
