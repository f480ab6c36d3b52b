//! Joining: one `helm install` with one token, outbound connections only, up to `BusConnected`.

use std::time::Duration;

use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::Site;

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
