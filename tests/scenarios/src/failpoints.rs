//! Processes that die at a named place of their own code (debug builds, `KUBENOVA_FAILPOINT`), as `kill -9` would end them.
//!
//! Guarantees: a place that is not reached is an error, so that a renamed one cannot make a test empty.

use anyhow::{Context as _, Result};
use kubenova_env::pod_runner::PodHandle;
use kubenova_env::poll::{self, Step};
use nix::sys::signal::Signal;

use crate::operators;
use crate::platform::Platform;
use crate::site::{OPERATOR, OPERATOR_IMAGE, Site};
use crate::steps::COMMAND_MAX;

const VARIABLE: &str = "KUBENOVA_FAILPOINT";
/// What a process says in its log before it aborts.
pub const SAID: &str = "aborting at a failpoint";
/// And before it waits.
const WAITS: &str = "waiting at a failpoint";

/// Starts the Manager with a failpoint (or none).
///
/// # Errors
/// When it does not start.
pub fn serve_with(platform: &mut Platform, failpoint: &str) -> Result<()> {
    platform.manager.kill();
    platform.manager.set_variable(VARIABLE, failpoint);
    platform.manager.serve()
}

/// Waits until the Manager has died at its failpoint, then starts it without one.
///
/// # Errors
/// When it does not die, or does not come back.
pub async fn manager_died_and_back(platform: &mut Platform, failpoint: &str) -> Result<()> {
    let died = poll::until(format!("the Manager to die at {failpoint}"), COMMAND_MAX, || {
        let ended = platform.manager.process().is_some_and(|process| process.ended().is_some());
        std::future::ready(Ok(Step::when(ended, (), "it still runs")))
    })
    .await;
    serve_with(platform, "")?;
    platform.wait_ready().await?;
    died
}

/// Starts the Operator with a failpoint, and suspends it there (SIGSTOP), as a machine is that is paused. When it goes on, it waits ten
/// seconds at each of `ending`. Operators that start from now on have no failpoint.
///
/// # Errors
/// When it does not get there.
pub async fn operator_suspended_at<T>(
    site: &Site,
    failpoint: &str,
    ending: &[&str],
    begin: impl AsyncFnOnce() -> Result<T>,
) -> Result<(PodHandle, T)> {
    let before = operators::leader(site)?.pids();
    let failpoints: Vec<String> = [failpoint].iter().chain(ending).map(|name| format!("{name}:1:wait")).collect();
    restart_operator(site, Some(&failpoints.join(",")));
    let leader = poll::until("the Operator to be back with the Lease", COMMAND_MAX, || async {
        let leader = operators::leader(site).ok().filter(|leader| leader.pids() != before);
        Ok(leader.map_or_else(|| Step::Waiting("none holds the Lease".to_owned()), Step::Done))
    })
    .await?;
    site.cluster.pods().set_variable(OPERATOR_IMAGE, VARIABLE, None);
    let waits = || Ok::<_, anyhow::Error>(leader.log("operator")?.matches(WAITS).count());
    let before = waits()?;
    let begun = begin().await?;
    poll::until(format!("the Operator to be at {failpoint}"), COMMAND_MAX, || async {
        Ok(Step::when(waits()? > before, (), "it is not"))
    })
    .await?;
    leader.signal(Signal::SIGSTOP);
    Ok((leader, begun))
}

/// Starts the Operator with a failpoint; returns how often it had died at one before.
///
/// # Errors
/// When no Operator runs.
pub fn start_operator_with(site: &Site, failpoint: &str) -> Result<usize> {
    let before = deaths(site)?;
    restart_operator(site, Some(failpoint));
    Ok(before)
}

/// Waits until the Operator has died at its failpoint, then starts it without one.
///
/// # Errors
/// When it does not die.
pub async fn operator_died_and_back(site: &Site, failpoint: &str, before: usize) -> Result<()> {
    let died = poll::until(format!("the Operator to die at {failpoint}"), COMMAND_MAX, || async {
        let now = deaths(site)?;
        Ok(Step::when(now > before, (), format!("{now} deaths")))
    })
    .await;
    restart_operator(site, None);
    died
}

/// Lets the Operator die at each of these places in turn, without a healthy run in between, then starts it without one. `begin` has
/// the first of them passed.
///
/// # Errors
/// When it does not die at one of them.
pub async fn operator_dies_at_each<T>(
    site: &Site,
    failpoints: &[&str],
    begin: impl AsyncFnOnce() -> Result<T>,
) -> Result<T> {
    let (mut begin, mut begun) = (Some(begin), None);
    for failpoint in failpoints {
        let name = failpoint.split(':').next().unwrap_or_default();
        let before = deaths_at(site, name);
        restart_operator(site, Some(failpoint));
        if let Some(begin) = begin.take() {
            begun = Some(begin().await?);
        }
        poll::until(format!("the Operator to die at {failpoint}"), COMMAND_MAX, || async {
            let now = deaths_at(site, name);
            Ok(Step::when(now > before, (), format!("{now} deaths")))
        })
        .await?;
    }
    restart_operator(site, None);
    begun.context("there was no failpoint")
}

/// Kills the Operator, if there is one; each that starts from now on has this failpoint, or none.
fn restart_operator(site: &Site, failpoint: Option<&str>) {
    site.cluster.pods().set_variable(OPERATOR_IMAGE, VARIABLE, failpoint);
    site.cluster.pods().kill9(OPERATOR);
}

/// How often an Operator died at a place; none runs before it is installed.
fn deaths_at(site: &Site, name: &str) -> usize {
    let field = format!("\"failpoint\":\"{name}\"");
    let is_one = |line: &&str| line.contains(SAID) && line.contains(&field);
    let pods = site.cluster.pods().labelled(OPERATOR);
    // A log begins with the first container of its pod.
    pods.iter().filter_map(|pod| pod.log("operator").ok()).map(|log| log.lines().filter(is_one).count()).sum()
}

fn deaths(site: &Site) -> Result<usize> {
    let pod = site.cluster.pods().labelled(OPERATOR).into_iter().next().context("the Operator's pod")?;
    Ok(pod.log("operator")?.matches(SAID).count())
}
