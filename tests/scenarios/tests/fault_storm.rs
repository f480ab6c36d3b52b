//! Many at once: a thousand clusters that come back together, and one cluster with thousands of commands among others that have
//! few. No cluster waits for another.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::many_commands::{self, Case, Restart, simulated_inbox};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::simulated;
use kubenova_scenarios::steps::{self, COMMAND_MAX};
use kubenova_simulator::cluster::{Options, SimulatedCluster};

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

/// Commands of the one cluster, half of which never end while the others are looked at. With 6,000 (`cargo dev campaign inbox`) a
/// debug build takes nine minutes, most of it to make them and to let them end.
const COMMANDS: usize = 1_500;
/// For as many commands to have a state.
const STATES_MAX: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn fault_storm_thousands_of_commands_of_one_cluster_delay_no_other() -> Result<()> {
    let mut platform = Platform::start(&PlatformOptions::default()).await?;
    let mut one = simulated::join(&platform, "one", 1, Options::default()).await?.remove(0);
    let others = many_commands::join_others(&platform).await?;
    many_commands::create_tenant(&platform, others.iter().chain([&one])).await?;
    let restarts = vec![Restart::Operator, Restart::Manager, Restart::Broker, Restart::BrokerStore];
    let case = Case { commands: COMMANDS, states_max: STATES_MAX, restarts };
    Box::pin(simulated_inbox::run(&mut platform, &mut one, &others, &case)).await.map(drop)
}
