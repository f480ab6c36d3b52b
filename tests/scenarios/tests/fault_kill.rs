//! Deaths in the middle: the story completes, each effect once.

use std::time::Duration;

use anyhow::Result;
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::Site;
use kubenova_scenarios::story;

const COMPONENTS_MAX: Duration = Duration::from_secs(240);
const ORDER_MAX: Duration = Duration::from_secs(120);
const OPERATOR: &str = "app.kubernetes.io/name=kubenova-operator";

/// One cluster that has joined and has its components.
async fn joined() -> Result<(Platform, Site)> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    story::wait_all_succeeded(&platform, &site, ORDER_MAX).await?;
    Ok((platform, site))
}

/// Pods of the application and nothing twice: one Application, one Deployment, the wanted pods, one row a revision.
fn each_once(platform: &Platform, site: &Site, application: &str, pods: usize) -> Result<()> {
    assert_eq!(story::ready_pods(site, "acme", application)?, pods);
    let of = |kind: &str| site.cluster.kubectl_ok(&["get", kind, "-n", "acme-apps", "-o", "name"]);
    for kind in ["applications.core.oam.dev", "deployments"] {
        let found = of(kind)?.lines().filter(|line| line.ends_with(&format!("/{application}"))).count();
        assert_eq!(found, 1, "{kind} named {application}");
    }
    let open = platform.postgres.query("kubenova", "select count(*) from commands where finished_at is null")?;
    assert_eq!(open.trim(), "0", "commands still open");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_kill_manager_and_operator_in_the_middle() -> Result<()> {
    let (mut platform, site) = joined().await?;
    let tenant = story::create_tenant(&platform, "acme", &["alpha"]).await?;
    platform.restart_manager().await?;
    story::wait_commands(&platform, &tenant["commands"], "succeeded", ORDER_MAX).await?;

    for (name, replicas) in [("shop", 2), ("cart", 1)] {
        let body = story::web_application(name, replicas, &["alpha"]);
        let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)?;
        assert!(site.cluster.pods().kill9(OPERATOR) > 0, "an Operator was there to kill");
        platform.restart_manager().await?;
        story::wait_commands(&platform, &accepted["commands"], "succeeded", ORDER_MAX).await?;
        each_once(&platform, &site, name, usize::try_from(replicas)?)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_kill_broker_and_lose_its_store() -> Result<()> {
    let (mut platform, site) = joined().await?;
    let tenant = story::create_tenant(&platform, "acme", &["alpha"]).await?;
    platform.lose_broker_store().await?;
    story::wait_commands(&platform, &tenant["commands"], "succeeded", ORDER_MAX).await?;

    platform.hub.kill();
    let body = story::web_application("shop", 2, &["alpha"]);
    let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)?;
    platform.lose_broker_store().await?;
    story::wait_commands(&platform, &accepted["commands"], "succeeded", ORDER_MAX).await?;
    each_once(&platform, &site, "shop", 2)
}
