//! A simulated cluster, so that every command is a request and half of them end only when they may.

use std::ops::Range;
use std::time::Instant;

use anyhow::{Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kubenova_env::poll::{self, Step};
use kubenova_simulator::cluster::SimulatedCluster;
use reqwest::Method;
use serde_json::json;

use super::{Case, Restart, Row};
use crate::platform::Platform;
use crate::simulated;
use crate::steps::COMMAND_MAX;

/// Requests that are made at once.
const AT_ONCE: usize = 8;

/// Applications `from..to` on a cluster.
async fn create_many(platform: &Platform, cluster: &str, range: Range<usize>) -> Result<()> {
    let create = |number: usize| {
        let body = json!({ "name": format!("app-{number}"), "image": "shop/web:1", "cpu": "1m", "memory": "1Mi", "clusters": [cluster] });
        // The Manager carries out eight changes of a caller at once; the others have to come again.
        async move { platform.rest.write_through(Method::POST, "/api/v1/tenants/acme/apps", &body, COMMAND_MAX).await }
    };
    stream::iter(range).map(create).buffer_unordered(AT_ONCE).map_ok(drop).try_collect().await
}

/// Waits until so many of the cluster's commands have this state.
async fn wait_states(platform: &Platform, case: &Case, cluster: &str, state: &str, count: usize) -> Result<()> {
    poll::until(format!("{count} commands of {cluster} to be {state}"), case.states_max, || async {
        let sql = format!(
            "select count(*) from commands k join clusters c on c.id = k.cluster_id where c.name = '{cluster}' and k.state = '{state}'"
        );
        let now = platform.postgres.query("kubenova", &sql)?;
        Ok(Step::when(now.trim() == count.to_string(), (), format!("{} are", now.trim())))
    })
    .await
}

async fn restart(
    platform: &mut Platform,
    one: &mut SimulatedCluster,
    others: &[SimulatedCluster],
    what: Restart,
) -> Result<Row> {
    let begun = Instant::now();
    let operator = || {
        one.start();
        Ok(())
    };
    what.carry_out(platform, operator).await?;
    let meanwhile = simulated::others_go_on(platform, others, what.name()).await?;
    Ok(Row::new(what.name(), begun.elapsed(), Some(meanwhile)))
}

/// The case on a cluster with tenant `acme`, which is on the others as well.
///
/// # Errors
/// When a command to another cluster takes too long, or one of the cluster is not carried out, or carried out twice.
pub async fn run(
    platform: &mut Platform,
    one: &mut SimulatedCluster,
    others: &[SimulatedCluster],
    case: &Case,
) -> Result<Vec<Row>> {
    let (commands, begun) = (case.commands, Instant::now());
    create_many(platform, &one.name, 0..commands / 2).await?;
    // The tenant's own is among those that have succeeded, and the configuration.
    wait_states(platform, case, &one.name, "succeeded", commands / 2 + 2).await?;
    one.hold(true);
    create_many(platform, &one.name, commands / 2..commands).await?;
    wait_states(platform, case, &one.name, "running", commands - commands / 2).await?;
    let what = format!("{commands} requests, half of them carried out by a simulated cluster");
    let mut rows = vec![Row::new(what, begun.elapsed(), None)];
    for what in &case.restarts {
        rows.push(restart(platform, one, others, *what).await?);
    }

    let begun = Instant::now();
    one.hold(false);
    one.start();
    wait_states(platform, case, &one.name, "succeeded", commands + 2).await?;
    rows.push(Row::new("the other half, once they may end", begun.elapsed(), None));
    let inbox = one.inbox();
    let mut done: Vec<&str> = inbox.effects().iter().map(|effect| effect.command_id.as_str()).collect();
    let count = done.len();
    done.sort_unstable();
    done.dedup();
    ensure!(done.len() == count && count == commands + 2, "{count} effects of {} commands", done.len());
    Ok(rows)
}
