//! The Manager's database is restored to an earlier point: a cluster that holds more is left alone, a person lists what it holds
//! and adopts it, everything runs on, what was deleted stays deleted, and every window is counted once.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kubenova_env::poll::{self, Step};
use kubenova_env::repository;
use kubenova_scenarios::document;
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use serde_json::Value;

/// For sessions to end and to begin, on a busy machine.
const HEAL_MAX: Duration = Duration::from_secs(180);

async fn wait_sync(platform: &Platform, site: &Site, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    poll::until(format!("{} to be {what}", site.name), HEAL_MAX, || async {
        // Right after its restart Postgres may be too slow for a request: 503, to be tried again.
        let answer = platform.rest.get(&format!("/api/v1/clusters/{}/sync", site.id)).await?;
        let seen = format!("{} {}", answer.status, answer.body);
        Ok(Step::when(answer.status == 200 && is_so(&answer.body), answer.body, seen))
    })
    .await
}

async fn create_application(platform: &Platform, tenant: &str, name: &str) -> Result<Value> {
    let body = steps::web_application(name, 1, &["alpha"]);
    platform.rest.post(&format!("/api/v1/tenants/{tenant}/apps"), &body).await?.expect(202)
}

async fn succeeded(platform: &Platform, accepted: &Value) -> Result<()> {
    steps::wait_commands(platform, &accepted["commands"], "succeeded", COMMAND_MAX).await
}

async fn wait_pods(site: &Site, tenant: &str, application: &str, wanted: usize) -> Result<()> {
    poll::until(format!("{wanted} pods of {application}"), HEAL_MAX, || async {
        let found = steps::ready_pods(site, tenant, application)?;
        Ok(Step::when(found == wanted, (), format!("{found} pods")))
    })
    .await
}

/// Pods of all tenants by uid.
fn pods(site: &Site) -> Result<BTreeSet<String>> {
    let path = "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}/{.metadata.uid}{\"\\n\"}{end}";
    let printed = site.cluster.kubectl_ok(&["get", "pods", "-A", "-l", "app.oam.dev/name", "-o", path])?;
    Ok(printed.lines().map(str::to_owned).collect())
}

/// What was counted: tenant, window and hash of the record.
fn counted(platform: &Platform) -> Result<BTreeSet<String>> {
    let sql = "select tenant_id || ' ' || window_start || ' ' || payload_sha256 from ledger";
    Ok(platform.postgres.query("kubenova", sql)?.lines().map(str::to_owned).collect())
}

/// What a person types, as the page says.
fn recover(platform: &Platform) -> Result<()> {
    let page = std::fs::read_to_string(repository::root()?.join("docs/operations/restore.md"))?;
    let program = platform.manager.binary();
    let programs = [program.parent().unwrap_or(program)];
    let variables = [("KUBENOVA_MANAGER_CONFIG", platform.manager.config())];
    let ran = document::check(&page, platform.sandbox.run(), &programs, &variables)?;
    ensure!(ran == 4, "{ran} commands");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_recover_adopts_what_a_restored_database_lost() -> Result<()> {
    let mut platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let shop = steps::create_tenant(&platform, "shop", &["alpha"]).await?;
    succeeded(&platform, &shop).await?;
    for name in ["old", "stays"] {
        succeeded(&platform, &create_application(&platform, "shop", name).await?).await?;
    }
    wait_sync(&platform, &site, "in sync", |body| body["state"] == "inSync").await?;
    platform.postgres.back_up().await?;
    platform.wait_ready().await?;

    // Since the backup a tenant and its application come, an application changes, one goes.
    let lost = steps::create_tenant(&platform, "lost", &["alpha"]).await?;
    succeeded(&platform, &lost).await?;
    succeeded(&platform, &create_application(&platform, "lost", "web").await?).await?;
    let more = steps::web_application("stays", 2, &["alpha"]);
    succeeded(&platform, &platform.rest.put("/api/v1/tenants/shop/apps/stays", &more).await?.expect(202)?).await?;
    succeeded(&platform, &platform.rest.delete("/api/v1/tenants/shop/apps/old").await?.expect(202)?).await?;
    wait_pods(&site, "shop", "stays", 2).await?;
    wait_pods(&site, "shop", "old", 0).await?;
    let lost_id = text(&lost, "/id")?;
    poll::until("usage of the tenant", COMMAND_MAX, || async {
        let rows = counted(&platform)?;
        Ok(Step::when(rows.iter().any(|row| row.starts_with(&lost_id)), (), format!("{rows:?}")))
    })
    .await?;
    steps::wait_billed(&platform).await?;
    let (before, running) = (counted(&platform)?, pods(&site)?);

    platform.postgres.restore().await?;
    platform.wait_ready().await?;
    let after = create_application(&platform, "shop", "after").await?;
    let diverged = wait_sync(&platform, &site, "diverged, with all that it holds", |body| {
        let found = &body["divergence"];
        body["state"] == "diverged" && found["objects"].as_i64() >= Some(4) && found["objectsMissing"] == 0
    })
    .await?;
    let remedy = text(&diverged, "/divergence/remedy")?;
    assert_eq!(remedy, "kubenova-manager recover list --cluster alpha");
    site.wait_condition("BusConnected", "False", HEAL_MAX).await?;
    let conditions = site.conditions()?;
    let told = |(kind, _, reason, message): &(String, String, String, String)| {
        kind == "BusConnected" && reason == "Diverged" && message.contains("kubenova-manager recover list")
    };
    assert!(conditions.iter().any(told), "{conditions:?}");
    wait_sync(&platform, &site, "reporting usage of the forgotten tenant", |body| {
        body["unclaimedUsage"]["records"].as_i64() > Some(0)
    })
    .await?;
    let unclaimed = "select tenant_id || ' ' || window_start || ' ' || payload_sha256 from unclaimed_usage";
    let unclaimed = platform.postgres.query("kubenova", unclaimed)?;
    let command = text(&after, "/commands/0/id")?;
    let waiting = platform.rest.get(&format!("/api/v1/commands/{command}")).await?.expect(200)?;
    assert_eq!(waiting["state"], "queued", "nothing is sent: {waiting}");
    assert_eq!(pods(&site)?, running, "everything runs on");

    let shown = platform.manager.run(&["recover", "adopt", "--cluster", "alpha"]);
    assert!(shown.is_err_and(|error| format!("{error:#}").contains("--yes")), "it only shows without --yes");
    recover(&platform)?;

    wait_sync(&platform, &site, "in sync", |body| body["state"] == "inSync").await?;
    site.wait_condition("BusConnected", "True", HEAL_MAX).await?;
    steps::wait_command(&platform, &command, "succeeded", COMMAND_MAX).await?;
    let still = pods(&site)?;
    assert!(running.is_subset(&still), "a pod was replaced: {running:?} {still:?}");
    wait_pods(&site, "shop", "after", 1).await?;
    wait_pods(&site, "shop", "old", 0).await?;
    platform.rest.get("/api/v1/tenants/shop/apps/old").await?.expect(404)?;
    let stays = platform.rest.get("/api/v1/tenants/shop/apps/stays").await?.expect(200)?;
    assert!(stays.to_string().contains("\"replicas\":2"), "{stays}");
    let tenant = platform.rest.get("/api/v1/tenants/lost").await?.expect(200)?;
    assert_eq!(tenant["id"], lost_id.as_str(), "{tenant}");
    // A new change goes the usual way.
    let more = steps::web_application("web", 2, &["alpha"]);
    succeeded(&platform, &platform.rest.put("/api/v1/tenants/lost/apps/web", &more).await?.expect(202)?).await?;
    wait_pods(&site, "lost", "web", 2).await?;
    steps::expect_no_open_commands(&platform)?;

    // What was counted before is in the ledger again, and what came for the forgotten tenant is in there too, each once.
    let wanted: BTreeSet<String> = before.into_iter().chain(unclaimed.lines().map(str::to_owned)).collect();
    poll::until("all usage to be counted", HEAL_MAX, || async {
        let missing: Vec<String> = wanted.difference(&counted(&platform)?).cloned().collect();
        Ok(Step::when(missing.is_empty(), (), format!("missing {missing:?}")))
    })
    .await?;
    let left = platform.postgres.query("kubenova", "select count(*) from unclaimed_usage")?;
    assert_eq!(left.trim(), "0", "unclaimed usage is left");
    let twice = "select count(*) from (select 1 from ledger group by cluster_id, tenant_id, window_start having count(*) > 1) x";
    let twice = platform.postgres.query("kubenova", twice).context("count windows that are billed twice")?;
    assert_eq!(twice.trim(), "0", "windows are billed twice");
    steps::wait_billed(&platform).await
}
