//! The real cluster's Operator and API server.

use std::time::Duration;

use anyhow::Result;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::operators;
use kubenova_scenarios::site::{OPERATOR, OPERATOR_IMAGE};
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
    operators::scale_and_wait(site, 2).await?;
    let leader = operators::leader(site)?;
    let pids = leader.pids();
    leader.signal(Signal::SIGSTOP);
    let taken = operators::taken_over_from(site, &leader).await;
    last(lasts).await;
    leader.signal(Signal::SIGCONT);
    taken?;
    operators::ended(&leader, &pids).await?;
    operators::scale_and_wait(site, 1).await
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
