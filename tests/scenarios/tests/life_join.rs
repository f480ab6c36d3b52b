//! Joining: one `helm install` with one token, outbound connections only, up to `BusConnected`.

use std::time::Duration;

use kubenova_env::cluster::{Cluster, ClusterOptions};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps;

const JOIN_MAX: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn life_join_one_cluster_with_one_token() -> anyhow::Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("BusConnected", "True", JOIN_MAX).await?;
    let seen = platform.rest.get(&format!("/api/v1/clusters/{}", site.id)).await?.expect(200)?;
    assert_eq!(seen["connection"], "connected", "{seen}");
    Ok(())
}

/// Everything may be requested before the cluster exists: the commands wait in Postgres, visibly, and are carried out once
/// it joins.
#[tokio::test(flavor = "multi_thread")]
async fn life_join_carries_out_what_was_requested_before() -> anyhow::Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let created = platform.create_cluster("alpha").await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    let shop = steps::web_application("shop", 2, &["alpha"]);
    let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &shop).await?.expect(202)?;
    let first = text(&tenant, "/commands/0/id")?;
    let queued = platform.rest.get(&format!("/api/v1/commands/{first}")).await?.expect(200)?;
    assert_eq!(queued["state"], "queued", "{queued}");

    let cluster = Cluster::start(ClusterOptions::new("alpha", 1)).await?;
    let site = Site::new(cluster, &created)?;
    site.install_operator(&text(&created, "/enrollment/token")?)?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", Duration::from_secs(240)).await?;
    steps::wait_commands(&platform, &accepted["commands"], "succeeded", Duration::from_secs(120)).await?;
    assert_eq!(steps::ready_pods(&site, "acme", "shop")?, 2);
    Ok(())
}
