//! Sessions heal by themselves: after a stray hello, after a refused one, and after the database was restored to the past no
//! cluster waits for a person to restart its Operator, and nothing is sent to a cluster that knows more than the database.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::broker;
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps;
use kubenova_schema::v1::Hello;
use serde_json::Value;

const JOIN_MAX: Duration = Duration::from_secs(120);
/// The 45 s after which a session without heartbeats gives way, the pause between two hellos, and what a busy machine adds.
const HEAL_MAX: Duration = Duration::from_secs(120);

async fn cluster(platform: &Platform, site: &Site) -> Result<Value> {
    platform.rest.get(&format!("/api/v1/clusters/{}", site.id)).await?.expect(200)
}

/// The number of the session and the time of its last heartbeat.
fn session(cluster: &Value) -> Result<(u64, String)> {
    let number = text(cluster, "/session/number")?.parse().context("the session's number")?;
    Ok((number, text(cluster, "/session/lastHeartbeatAt")?))
}

/// Waits for a later heartbeat of a session with at least this number; returns its number.
async fn wait_in_session(platform: &Platform, site: &Site, least: u64) -> Result<u64> {
    let (_, seen_at) = session(&cluster(platform, site).await?)?;
    poll::until(format!("a heartbeat of session {least} or a later one"), HEAL_MAX, || async {
        let body = cluster(platform, site).await?;
        let (number, heartbeat_at) = session(&body)?;
        Ok(Step::when(number >= least && heartbeat_at > seen_at, number, body["session"].to_string()))
    })
    .await
}

/// Usage windows that the Manager has received, as they are named in the cluster.
fn received_windows(platform: &Platform) -> Result<Vec<String>> {
    let sql = "select 'w' || extract(epoch from window_start)::bigint || '-' || seconds from usage_windows";
    Ok(platform.postgres.query("kubenova", sql)?.lines().map(str::to_owned).collect())
}

/// Whether the cluster holds a receipt for a window, and so sends it no more.
fn is_receipted(site: &Site, window: &str) -> bool {
    let path = "jsonpath={.status.receivedAt}";
    let received = site.cluster.kubectl_ok(&["get", "novausagereport", window, "-n", "kubenova-system", "-o", path]);
    received.is_ok_and(|at| !at.trim().is_empty())
}

fn operator_restarts(site: &Site) -> Result<String> {
    let path = "jsonpath={.items[*].metadata.uid} {.items[*].status.containerStatuses[*].restartCount}";
    site.cluster.kubectl_ok(&[
        "get",
        "pods",
        "-n",
        "kubenova-system",
        "-l",
        kubenova_scenarios::site::OPERATOR,
        "-o",
        path,
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_session_heals_by_itself() -> Result<()> {
    let mut platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("BusConnected", "True", JOIN_MAX).await?;
    let uid = site.cluster.kubectl_ok(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"])?;
    let operator = operator_restarts(&site)?;
    let broker = broker::connect(&platform, &broker::keyring(&platform)?).await?;
    let (before, _) = session(&cluster(&platform, &site).await?)?;

    // A hello in the cluster's name with a UID that is not its own changes nothing but what is shown.
    let refused =
        broker::hello_as(&broker, &site, &Hello { cluster_uid: "another-cluster".to_owned(), ..Hello::default() })
            .await?;
    assert_eq!((refused.accepted, refused.reason.as_str()), (false, "ClusterUidMismatch"), "{refused:?}");
    assert_eq!(wait_in_session(&platform, &site, before).await?, before, "the session goes on");
    let seen = cluster(&platform, &site).await?;
    assert_eq!(seen["refusedHello"]["reason"], "ClusterUidMismatch", "{seen}");
    assert_eq!(seen["connection"], "connected", "{seen}");

    // One that is accepted takes the session. The Operator is asked for a hello, and takes it back once that session is silent.
    let hello = Hello { cluster_uid: uid, lease_term: 1_000, ..Hello::default() };
    let stray = broker::hello_as(&broker, &site, &hello).await?;
    assert!(stray.accepted && stray.session > before, "{stray:?}");
    wait_in_session(&platform, &site, stray.session + 1).await?;
    steps::wait_all_succeeded(&platform, &site, steps::COMPONENTS_MAX).await?;

    // The database is restored to a time before the last usage windows, which the cluster no longer sends: it sends them again.
    platform.postgres.back_up().await?;
    platform.wait_ready().await?;
    let windows = received_windows(&platform)?;
    let later = poll::until("a further usage window and its receipt", steps::COMMAND_MAX, || async {
        let now = received_windows(&platform)?;
        let later = now.iter().find(|window| !windows.contains(window) && is_receipted(&site, window));
        Ok(later.map_or_else(|| Step::Waiting(format!("{now:?}")), |window| Step::Done(window.clone())))
    })
    .await?;
    platform.postgres.restore().await?;
    platform.wait_ready().await?;
    poll::until(format!("window {later} to be in the ledger again"), steps::COMMAND_MAX, || async {
        let now = received_windows(&platform)?;
        Ok(Step::when(now.contains(&later), (), format!("{now:?}")))
    })
    .await?;

    // The database is restored to a time before the cluster's newest commands: it knows less than the cluster.
    let (healed, _) = session(&cluster(&platform, &site).await?)?;
    platform.postgres.back_up().await?;
    platform.wait_ready().await?;
    let lost = steps::create_tenant(&platform, "lost", &["alpha"]).await?;
    steps::wait_commands(&platform, &lost["commands"], "succeeded", steps::COMMAND_MAX).await?;
    platform.postgres.restore().await?;
    platform.wait_ready().await?;
    let after = steps::create_tenant(&platform, "after", &["alpha"]).await?;
    poll::until("the Manager to refuse the cluster's hello", HEAL_MAX, || async {
        let body = cluster(&platform, &site).await?;
        Ok(Step::when(body["refusedHello"]["reason"] == "Diverged", (), body["refusedHello"].to_string()))
    })
    .await?;
    site.wait_condition("BusConnected", "False", HEAL_MAX).await?;
    let command = text(&after, "/commands/0/id")?;
    let waiting = platform.rest.get(&format!("/api/v1/commands/{command}")).await?.expect(200)?;
    assert_eq!(waiting["state"], "queued", "its revision belongs to another command in the cluster: {waiting}");
    assert_eq!(waiting["waitingFor"], "SessionRefused", "{waiting}");
    let tenants = site.cluster.kubectl_ok(&["get", "novatenants", "-o", "name"])?;
    assert_eq!(tenants.lines().count(), 1, "the tenant that the database forgot runs on: {tenants}");
    let (number, _) = session(&cluster(&platform, &site).await?)?;
    assert_eq!(number, healed, "no session was opened for a cluster that has diverged");
    assert_eq!(operator_restarts(&site)?, operator, "the Operator was not restarted");
    Ok(())
}
