//! A cluster that was restored from an earlier copy of its etcd heals by itself: what was created since comes back, what was
//! changed is changed again, what was deleted goes again, and nothing is billed twice.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use serde_json::Value;

/// For the Operator to start again, report another listing, and carry out what is sent again, on a busy machine.
const HEAL_MAX: Duration = Duration::from_secs(300);

async fn sync_of(platform: &Platform, site: &Site) -> Result<Value> {
    platform.rest.get(&format!("/api/v1/clusters/{}/sync", site.id)).await?.expect(200)
}

async fn wait_in_sync(platform: &Platform, site: &Site) -> Result<Value> {
    poll::until(format!("{} to hold what it was commanded", site.name), HEAL_MAX, || async {
        let body = sync_of(platform, site).await?;
        let done = body["state"] == "inSync";
        Ok(Step::when(done, body.clone(), body.to_string()))
    })
    .await
}

async fn wait_pods(site: &Site, application: &str, wanted: usize) -> Result<()> {
    poll::until(format!("{wanted} pods of {application}"), HEAL_MAX, || async {
        let found = match steps::ready_pods(site, "shop", application) {
            Ok(found) => found,
            Err(error) => return Ok(Step::Waiting(format!("{error:#}"))),
        };
        Ok(Step::when(found == wanted, (), format!("{found} pods")))
    })
    .await
}

/// Waits until REST shows what the newest command asked for, as the cluster reports it.
async fn wait_observed(platform: &Platform, application: &str) -> Result<()> {
    let path = format!("/api/v1/tenants/shop/apps/{application}/status");
    poll::until(format!("the status of {application} to include its newest command"), HEAL_MAX, || async {
        let body = platform.rest.get(&path).await?.expect(200)?;
        let cluster = &body["clusters"][0];
        let (commanded, observed) = (&cluster["command"]["revision"], &cluster["observed"]["revision"]);
        let done = body["ready"] == true && commanded.is_string() && commanded == observed;
        Ok(Step::when(done, (), body.to_string()))
    })
    .await
}

async fn create_application(platform: &Platform, name: &str, replicas: u32) -> Result<()> {
    let body = steps::web_application(name, replicas, &["alpha"]);
    let created = platform.rest.post("/api/v1/tenants/shop/apps", &body).await?.expect(202)?;
    steps::wait_commands(platform, &created["commands"], "succeeded", COMMAND_MAX).await
}

/// The ledger as rows of text, up to the newest window.
fn ledger(platform: &Platform) -> Result<Vec<String>> {
    let sql = "select l::text from ledger l order by 1";
    Ok(platform.postgres.query("kubenova", sql)?.lines().map(str::to_owned).collect())
}

/// An application that no node has room for: its command stays `running`. Returns the command's id.
async fn running_application(platform: &Platform) -> Result<String> {
    let mut body = steps::web_application("waits", 1, &["alpha"]);
    body["cpu"] = "500".into();
    let created = platform.rest.post("/api/v1/tenants/shop/apps", &body).await?.expect(202)?;
    steps::wait_commands(platform, &created["commands"], "running", COMMAND_MAX).await?;
    text(&created, "/commands/0/id")
}

/// It was acknowledged, so it would be sent again after ten minutes only; anti-entropy looks at no object whose command is open. The
/// hello of the restored cluster names a lower revision, and it is sent at once.
async fn comes_back_while_it_runs(platform: &Platform, site: &Site, command: &str) -> Result<()> {
    let application = ["get", "applications.core.oam.dev", "waits", "-n", "shop-apps", "-o", "name"];
    poll::until("the application whose command runs to be there again", HEAL_MAX, || async {
        let found = site.cluster.kubectl(&application)?;
        Ok(Step::when(found.status.success(), (), String::from_utf8_lossy(&found.stderr).into_owned()))
    })
    .await?;
    let state = platform.rest.get(&format!("/api/v1/commands/{command}")).await?.expect(200)?["state"].clone();
    assert_eq!(state, "running", "only its cluster ends it");
    let removed = platform.rest.delete("/api/v1/tenants/shop/apps/waits").await?.expect(202)?;
    steps::wait_commands(platform, &removed["commands"], "succeeded", COMMAND_MAX).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_restore_of_a_clusters_etcd_heals_by_itself() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let mut site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    steps::create_tenant(&platform, "shop", &["alpha"]).await?;
    create_application(&platform, "old", 1).await?;
    create_application(&platform, "stays", 1).await?;
    wait_in_sync(&platform, &site).await?;
    site.cluster.back_up().await?;

    // Since the backup one application comes, one goes, one changes.
    create_application(&platform, "later", 1).await?;
    let removed = platform.rest.delete("/api/v1/tenants/shop/apps/old").await?.expect(202)?;
    steps::wait_commands(&platform, &removed["commands"], "succeeded", COMMAND_MAX).await?;
    let more = steps::web_application("stays", 2, &["alpha"]);
    let changed = platform.rest.put("/api/v1/tenants/shop/apps/stays", &more).await?.expect(202)?;
    steps::wait_commands(&platform, &changed["commands"], "succeeded", COMMAND_MAX).await?;
    wait_in_sync(&platform, &site).await?;
    steps::wait_billed(&platform).await?;
    let billed = ledger(&platform)?;
    assert!(!billed.is_empty(), "windows were billed before the restore");
    let running = running_application(&platform).await?;

    site.cluster.restore().await?;
    site.restart_other_controllers()?;
    poll::until("the listing to be compared", HEAL_MAX, || async {
        let body = sync_of(&platform, &site).await?;
        let findings = &body["exchange"]["findings"];
        let found = |name: &str| findings[name].as_i64().unwrap_or_default() > 0;
        let done = found("Missing") && found("Outdated") && found("Undeleted");
        Ok(Step::when(done, (), body.to_string()))
    })
    .await?;
    comes_back_while_it_runs(&platform, &site, &running).await?;
    wait_in_sync(&platform, &site).await?;
    steps::expect_no_open_commands(&platform)?;
    wait_pods(&site, "later", 1).await?;
    wait_pods(&site, "stays", 2).await?;
    wait_pods(&site, "old", 0).await?;
    let applications =
        site.cluster.kubectl_ok(&["get", "applications.core.oam.dev", "-n", "shop-apps", "-o", "name"])?;
    let mut applications: Vec<&str> = applications.lines().filter_map(|line| line.rsplit('/').next()).collect();
    applications.sort_unstable();
    assert_eq!(applications, ["later", "stays"]);
    wait_observed(&platform, "stays").await?;

    // What was billed stays as it was, and the cluster bills on.
    let known = billed.len();
    poll::until("a further window to be billed", HEAL_MAX, || async {
        let now = ledger(&platform)?;
        Ok(Step::when(now.len() > known, (), format!("{} rows", now.len())))
    })
    .await?;
    let now = ledger(&platform)?;
    for row in &billed {
        assert!(now.contains(row), "a billed row has changed: {row}");
    }
    let twice = "select count(*) from (select 1 from ledger group by cluster_id, tenant_id, window_start having count(*) > 1) x";
    let twice = platform.postgres.query("kubenova", twice).context("count windows that are billed twice")?;
    assert_eq!(twice.trim(), "0", "windows are billed twice");
    Ok(())
}
