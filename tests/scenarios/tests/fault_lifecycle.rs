//! A death of the Operator at each step of what it does beside commands: it joins, makes and removes a tenant, answers what it does
//! not store, and keeps its inbox. Where one step follows another it dies at each in turn, without a healthy run in between.

use anyhow::{Result, ensure};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::failpoints;
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{NAMESPACE, Site};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use serde_json::json;

/// Until the first session: its epoch is the first that the cluster learns of.
const JOIN: [&str; 3] = ["join.keys-stored", "join.answered", "inbound.epoch-written"];
const TENANT: [&str; 3] = ["tenant.capsule-applied", "tenant.namespaces-applied", "tenant.identities-applied"];
/// A new epoch begins; a record is forgotten.
const UPKEEP: [&str; 2] = ["inbound.epoch-written", "inbound.fence-written"];
/// Before the first step, and after it.
const REMOVAL: [&str; 2] = ["tenant.removal-step", "tenant.removal-step:2"];

/// Incarnation and epoch of the cluster at the Manager.
fn enrolled(platform: &Platform) -> Result<String> {
    let sql = "select incarnation || ' ' || epoch from clusters where name = 'alpha'";
    Ok(platform.postgres.query("kubenova", sql)?.trim().to_owned())
}

/// Records of operations in the inbox.
fn operations(site: &Site) -> Result<usize> {
    let records = site.list(&["novacommands", "-n", NAMESPACE])?;
    Ok(records.iter().filter(|record| record["spec"]["kind"] == "restart-workflow").count())
}

async fn scale(platform: &Platform, replicas: u32) -> Result<()> {
    let body = steps::web_application("shop", replicas, &["alpha"]);
    let accepted = platform.rest.put("/api/v1/tenants/acme/apps/shop", &body).await?.expect(202)?;
    steps::wait_commands(platform, &accepted["commands"], "succeeded", COMMAND_MAX).await
}

async fn join(platform: &Platform) -> Result<Site> {
    let (site, token) = Site::prepare(platform, "alpha", 1).await?;
    failpoints::operator_dies_at_each(&site, &JOIN, async || site.install_operator(&token)).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    assert_eq!(enrolled(platform)?, "1 1", "the same keys get the same answer");
    Ok(site)
}

async fn create_tenant(platform: &Platform, site: &Site) -> Result<()> {
    let create = async || steps::create_tenant(platform, "acme", &["alpha"]).await;
    let tenant = failpoints::operator_dies_at_each(site, &TENANT, create).await?;
    steps::wait_commands(platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    let shop = steps::web_application("shop", 1, &["alpha"]);
    let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &shop).await?.expect(202)?;
    steps::wait_commands(platform, &accepted["commands"], "succeeded", COMMAND_MAX).await
}

/// An operation ends, a change comes after it, and the epoch rises, as by a recovery: it is written with the floor, below which the
/// record of the operation is forgotten at the next start.
async fn raise_epoch(platform: &Platform, site: &Site) -> Result<()> {
    let raise = async || {
        let deadline = json!({ "deadlineSeconds": 600 });
        let restart = platform.rest.post("/api/v1/tenants/acme/apps/shop/restart", &deadline).await?.expect(202)?;
        steps::wait_commands(platform, &restart["commands"], "succeeded", COMMAND_MAX).await?;
        assert_eq!(operations(site)?, 1);
        scale(platform, 2).await?;
        // The next heartbeat is of no open session, so the cluster is asked for a hello.
        let sql = "with raised as (update clusters set epoch = epoch + 1 returning id)
                   update sessions set session = session + 1 where cluster_id in (select id from raised)";
        platform.postgres.query("kubenova", sql).map(drop)
    };
    failpoints::operator_dies_at_each(site, &UPKEEP, raise).await?;
    poll::until("the record of the operation to be forgotten", COMMAND_MAX, || async {
        let left = operations(site)?;
        Ok(Step::when(left == 0, (), format!("{left} are left")))
    })
    .await?;
    scale(platform, 1).await?;
    assert_eq!(enrolled(platform)?, "1 2");
    assert_eq!(site.fence_epoch()?, "2");
    Ok(())
}

async fn remove_tenant(platform: &Platform, site: &Site) -> Result<()> {
    failpoints::operator_dies_at_each(site, &REMOVAL, async || steps::delete_tenants(platform, "%")).await?;
    poll::until("the delete of the tenant to have succeeded", COMMAND_MAX, || async {
        let sql = "select state || ' ' || message from commands where kind = 'delete-tenant'";
        let state = platform.postgres.query("kubenova", sql)?;
        Ok(Step::when(state.starts_with("succeeded"), (), state))
    })
    .await?;
    let left = site.cluster.kubectl_ok(&["get", "novatenants,tenants.capsule.clastix.io,namespaces", "-o", "name"])?;
    ensure!(!left.contains("acme"), "something of the tenant is left: {left}");
    Ok(())
}

/// The sovereign policy refuses a command: it is not stored, and the Manager learns of it all the same.
async fn refuse(platform: &Platform, site: &Site) -> Result<()> {
    site.set_value("sovereignPolicy.allowedCommandKinds={apply-application}")?;
    let create = async || steps::create_tenant(platform, "unwanted", &["alpha"]).await;
    let tenant = failpoints::operator_dies_at_each(site, &["inbound.answer"], create).await?;
    steps::wait_commands(platform, &tenant["commands"], "refused", COMMAND_MAX).await?;
    let made = site.cluster.kubectl_ok(&["get", "novatenants", "-o", "name"])?;
    ensure!(made.trim().is_empty(), "a refused tenant was made: {made}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_lifecycle_a_death_at_each_step() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Box::pin(join(&platform)).await?;
    Box::pin(create_tenant(&platform, &site)).await?;
    Box::pin(raise_epoch(&platform, &site)).await?;
    Box::pin(remove_tenant(&platform, &site)).await?;
    Box::pin(refuse(&platform, &site)).await?;
    steps::expect_no_open_commands(&platform)
}
