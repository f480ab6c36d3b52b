//! Many at once: a thousand clusters that come back together, and one cluster with thousands of commands among others that have
//! few. No cluster waits for another.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::simulated;
use kubenova_scenarios::steps::{self, COMMAND_MAX};
use kubenova_simulator::cluster::{Options, SimulatedCluster};
use reqwest::Method;
use serde_json::json;

const THOUSAND: usize = 1_000;
/// For a thousand clusters to be in session again, in a debug build beside another scenario: what counts is that they are.
const BACK_MAX: Duration = Duration::from_secs(300);
/// What the design allows the Manager for ten thousand clusters.
const MANAGER_KIB_MAX: u64 = 256 * 1024;

/// Memory of the Manager that is in RAM.
fn manager_kib(platform: &mut Platform) -> Result<u64> {
    let pid = platform.manager.process().context("the Manager runs")?.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the Manager's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has a resident set")?;
    line.trim().trim_end_matches(" kB").trim().parse().context("a number of KiB")
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_storm_a_thousand_clusters_come_back_at_once() -> Result<()> {
    let mut platform = Platform::start(&PlatformOptions::default()).await?;
    let options = Options { heartbeat: Duration::from_secs(5), ping: Duration::from_secs(5) };
    let begun = Instant::now();
    let clusters = simulated::join(&platform, "sim", THOUSAND, options).await?;
    simulated::wait_in_session(&clusters, BACK_MAX).await?;
    eprintln!("{THOUSAND} clusters joined in {:.1?}", begun.elapsed());

    let before: Vec<u64> = clusters.iter().map(|cluster| cluster.session().unwrap_or(u64::MAX)).collect();
    platform.lose_broker_store().await?;
    let back = Instant::now();
    poll::until("every cluster to be in a later session", BACK_MAX, || async {
        let is_back = |(cluster, before): (&SimulatedCluster, &u64)| cluster.session().is_ok_and(|now| now > *before);
        let count = clusters.iter().zip(&before).filter(|pair| is_back(*pair)).count();
        Ok(Step::when(count == THOUSAND, (), format!("{count} are")))
    })
    .await?;
    eprintln!("{THOUSAND} clusters were back {:.1?} after the broker", back.elapsed());
    let kib = manager_kib(&mut platform)?;
    eprintln!("the Manager has {kib} KiB in memory");
    ensure!(kib < MANAGER_KIB_MAX, "the Manager has {kib} KiB in memory");

    let names: Vec<&str> = clusters.iter().step_by(THOUSAND / 20).map(|cluster| cluster.name.as_str()).collect();
    let tenant = steps::create_tenant(&platform, "acme", &names).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await
}

/// Commands of the one cluster, half of which never end while the others are looked at. With 6,000 a debug build takes nine minutes,
/// most of it to make them and to let them end.
const COMMANDS: usize = 1_500;
/// For as many commands to have a state.
const STATES_MAX: Duration = Duration::from_secs(300);
/// Requests that are made at once.
const AT_ONCE: usize = 8;
/// Applications `from..to` on a cluster.
async fn create_many(platform: &Platform, cluster: &str, range: std::ops::Range<usize>) -> Result<()> {
    let create = |number: usize| {
        let body = json!({ "name": format!("app-{number}"), "image": "shop/web:1", "cpu": "1m", "memory": "1Mi", "clusters": [cluster] });
        // The Manager carries out eight changes of a caller at once; the others are told to come again.
        async move { platform.rest.write_through(Method::POST, "/api/v1/tenants/acme/apps", &body, COMMAND_MAX).await }
    };
    stream::iter(range).map(create).buffer_unordered(AT_ONCE).map_ok(drop).try_collect().await
}

/// How many of the cluster's commands have each state.
async fn wait_states(platform: &Platform, cluster: &str, state: &str, count: usize) -> Result<()> {
    poll::until(format!("{count} commands of {cluster} to be {state}"), STATES_MAX, || async {
        let sql = format!(
            "select count(*) from commands k join clusters c on c.id = k.cluster_id where c.name = '{cluster}' and k.state = '{state}'"
        );
        let now = platform.postgres.query("kubenova", &sql)?;
        Ok(Step::when(now.trim() == count.to_string(), (), format!("{} are", now.trim())))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_storm_thousands_of_commands_of_one_cluster_delay_no_other() -> Result<()> {
    let mut platform = Platform::start(&PlatformOptions::default()).await?;
    let mut one = simulated::join(&platform, "one", 1, Options::default()).await?.remove(0);
    let others = simulated::join(&platform, "other", 4, Options::default()).await?;
    simulated::wait_in_session(&others, COMMAND_MAX).await?;
    let names: Vec<&str> = others.iter().chain([&one]).map(|cluster| cluster.name.as_str()).collect();
    let tenant = steps::create_tenant(&platform, "acme", &names).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;

    let begun = Instant::now();
    create_many(&platform, &one.name, 0..COMMANDS / 2).await?;
    // The tenant's own is among those that have succeeded, and the configuration.
    wait_states(&platform, &one.name, "succeeded", COMMANDS / 2 + 2).await?;
    one.hold(true);
    create_many(&platform, &one.name, COMMANDS / 2..COMMANDS).await?;
    wait_states(&platform, &one.name, "running", COMMANDS / 2).await?;
    eprintln!("{COMMANDS} commands in {:.1?}", begun.elapsed());

    one.start();
    simulated::others_go_on(&platform, &others, "operator-restarts").await?;
    platform.manager.kill();
    platform.manager.restart()?;
    simulated::others_go_on(&platform, &others, "manager-restarts").await?;
    platform.hub.kill();
    platform.hub.restart().await?;
    simulated::others_go_on(&platform, &others, "broker-restarts").await?;
    platform.lose_broker_store().await?;
    simulated::others_go_on(&platform, &others, "broker-lost").await?;

    one.hold(false);
    one.start();
    wait_states(&platform, &one.name, "succeeded", COMMANDS + 2).await?;
    let inbox = one.inbox();
    let mut done: Vec<&str> = inbox.effects().iter().map(|effect| effect.command_id.as_str()).collect();
    let count = done.len();
    done.sort_unstable();
    done.dedup();
    ensure!(done.len() == count && count == COMMANDS + 2, "{count} effects of {} commands", done.len());
    Ok(())
}
