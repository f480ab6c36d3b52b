//! Fifty clusters, two of them real, while commands are posted to all of them: the whole broker is lost, twice. Every accepted
//! write is carried out or superseded, none twice, none out of order (which is also what a watch of each real cluster sees), and every cluster holds in the end what was written last.

use std::time::Duration;

use anyhow::{Result, ensure};
use kubenova_scenarios::observer::Observer;
use kubenova_scenarios::oracle;
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::simulated;
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use kubenova_scenarios::writers::Writer;
use kubenova_simulator::cluster::{Options, SimulatedCluster};
use serde_json::json;
use tokio::sync::watch;

const SIMULATED: usize = 48;
/// Clients that write at once, each to its own clusters: one to each real cluster, so that its applications change often, and these
/// to the others.
const WRITERS: usize = 6;
/// How long commands are posted before, between and after the losses.
const PHASE: Duration = Duration::from_secs(8);
/// For everything to end after the last loss.
const CONVERGED_MAX: Duration = Duration::from_secs(240);
const SEED: u64 = 8;

/// Clusters of each client.
fn shares(real: &[Site], simulated: &[SimulatedCluster]) -> Vec<Vec<String>> {
    let alone = real.iter().map(|site| vec![site.name.clone()]);
    let share = |index| simulated.iter().skip(index).step_by(WRITERS).map(|one| one.name.clone()).collect();
    alone.chain((0..WRITERS).map(share)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_fleet_the_whole_broker_is_lost_while_commands_go_to_fifty_clusters() -> Result<()> {
    Box::pin(the_whole_broker_is_lost()).await
}

async fn the_whole_broker_is_lost() -> Result<()> {
    let mut platform = Platform::start(&PlatformOptions::default()).await?;
    let real = [Site::join(&platform, "alpha", 1).await?, Site::join(&platform, "beta", 2).await?];
    let simulated = simulated::join(&platform, "sim", SIMULATED, Options::default()).await?;
    simulated::wait_in_session(&simulated, COMMAND_MAX).await?;
    let names: Vec<String> =
        real.iter().map(|site| site.name.clone()).chain(simulated.iter().map(|one| one.name.clone())).collect();
    let tenant =
        platform.rest.post("/api/v1/tenants", &json!({ "name": "acme", "clusters": names })).await?.expect(202)?;
    for site in &real {
        site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
        steps::wait_all_succeeded(&platform, site, COMMAND_MAX).await?;
    }

    let (stop, stopped) = watch::channel(false);
    let observers = real.each_ref().map(|site| Observer::start(site.cluster.kube_client(), "acme-apps"));
    let shares = shares(&real, &simulated).into_iter().zip(1..);
    let writers: Vec<_> = shares
        .map(|(clusters, index)| {
            tokio::spawn(Writer::new(&platform.rest, "acme", clusters, SEED, index).run(stopped.clone()))
        })
        .collect();
    for _ in 0..2 {
        tokio::time::sleep(PHASE).await;
        platform.lose_broker_store().await?;
    }
    tokio::time::sleep(PHASE).await;
    stop.send_replace(true);
    let mut accepted = Vec::new();
    for writer in writers {
        accepted.extend(writer.await??);
    }
    eprintln!("{} writes were accepted", accepted.len());
    let unwritten = names.iter().find(|name| !accepted.iter().any(|write| write.cluster == **name));
    ensure!(unwritten.is_none(), "no write to {unwritten:?} was accepted");

    steps::wait_no_open_commands(&platform, CONVERGED_MAX).await?;
    simulated::wait_in_session(&simulated, COMMAND_MAX).await?;
    oracle::expect_none(&oracle::commands(&platform.rest, &accepted).await?)?;
    let tenant_id = text(&tenant, "/id")?;
    for cluster in &simulated {
        oracle::check_simulated(cluster, &tenant_id, &accepted)?;
    }
    for (site, observer) in real.iter().zip(&observers) {
        oracle::check_real(site, "acme", &accepted)?;
        ensure!(observer.changes() > 0, "the watch of {} saw nothing", site.name);
        oracle::expect_none(&observer.findings())?;
    }
    Ok(())
}
