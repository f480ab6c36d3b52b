//! The real cluster's Operator and API server.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kubenova_env::pod_runner::PodHandle;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::site::{NAMESPACE, OPERATOR, OPERATOR_IMAGE, Site};
use kubenova_scenarios::steps::COMMAND_MAX;
use nix::sys::signal::Signal;

use super::last;
use super::processes;
use crate::fleet::Fleet;

const CLOCK: &str = "KUBENOVA_CLOCK_OFFSET_MS";

/// Kills it; it may be on its way up after an earlier death.
pub(super) async fn kill(fleet: &Fleet) -> Result<()> {
    poll::until("an Operator to kill", COMMAND_MAX, || async {
        Ok(Step::when(fleet.site.cluster.pods().kill9(OPERATOR) > 0, (), "no Operator runs"))
    })
    .await
}

pub(super) async fn pause(fleet: &Fleet, lasts: Duration) -> Result<()> {
    let operator = fleet.site.operator()?;
    operator.signal(Signal::SIGSTOP);
    last(lasts).await;
    // Its liveness probe may have ended it.
    operator.signal(Signal::SIGCONT);
    Ok(())
}

/// Starts it with a clock that is wrong, and later again with the right one.
pub(super) async fn set_clock(fleet: &Fleet, ms: i64, lasts: Duration) -> Result<()> {
    let pods = fleet.site.cluster.pods();
    pods.set_variable(OPERATOR_IMAGE, CLOCK, Some(&ms.to_string()));
    kill(fleet).await?;
    last(lasts).await;
    pods.set_variable(OPERATOR_IMAGE, CLOCK, None);
    kill(fleet).await
}

/// Two Operators in one cluster: the one that holds the Lease is paused until the other has it, and goes on then.
pub(super) async fn two(fleet: &Fleet, lasts: Duration) -> Result<()> {
    let site = &fleet.site;
    scale(site, 2).await?;
    let holder = holder(site)?;
    let leader = running(site).into_iter().find(|pod| pod.uid() == holder).context("no pod holds the Lease")?;
    let pids = leader.pids();
    leader.signal(Signal::SIGSTOP);
    let taken = poll::until("the other Operator to take the Lease", COMMAND_MAX, || async {
        let now = self::holder(site)?;
        Ok(Step::when(!now.is_empty() && now != holder, (), now))
    })
    .await;
    last(lasts).await;
    leader.signal(Signal::SIGCONT);
    taken?;
    poll::until("the Operator that lost the Lease to end", COMMAND_MAX, || async {
        let now = leader.pids();
        Ok(Step::when(now != pids, (), format!("{now:?}")))
    })
    .await?;
    scale(site, 1).await
}

async fn scale(site: &Site, count: usize) -> Result<()> {
    let replicas = format!("--replicas={count}");
    site.cluster.kubectl_ok(&["scale", "deployment", "kubenova-operator", "-n", NAMESPACE, &replicas])?;
    poll::until(format!("{count} Operators"), COMMAND_MAX, || async {
        let now = running(site).len();
        Ok(Step::when(now == count, (), format!("{now}")))
    })
    .await
}

fn running(site: &Site) -> Vec<PodHandle> {
    site.cluster.pods().labelled(OPERATOR).into_iter().filter(|pod| !pod.pids().is_empty()).collect()
}

fn holder(site: &Site) -> Result<String> {
    let path = "jsonpath={.spec.holderIdentity}";
    site.cluster.kubectl_ok(&["get", "lease", "kubenova-operator", "-n", NAMESPACE, "-o", path])
}

pub(super) async fn kill_apiserver(fleet: &mut Fleet, lasts: Duration) -> Result<()> {
    let cluster = &mut fleet.site.cluster;
    cluster.apiserver().kill();
    last(lasts).await;
    cluster.apiserver().restart().await?;
    cluster.revive().await
}

/// Connections stay open and nothing comes back.
pub(super) async fn pause_apiserver(fleet: &mut Fleet, lasts: Duration) -> Result<()> {
    processes::pause(fleet.site.cluster.apiserver().process(), lasts).await?;
    fleet.site.cluster.revive().await
}
