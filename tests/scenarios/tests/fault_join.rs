//! Joining that cannot work: each cause has its own named condition within 30 s, and the Manager shows the attempts it
//! could see.

use std::time::Duration;

use anyhow::{Context as _, Result};
use data_encoding::BASE64URL_NOPAD;
use kubenova_env::cluster::{Cluster, ClusterOptions};
use kubenova_env::network::Cut;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{NAMESPACE, Site, text};
use serde_json::Value;

/// The promise.
const NAMED_WITHIN: Duration = Duration::from_secs(30);

/// The token with one field changed.
fn altered(token: &str, field: &str, value: &str) -> Result<String> {
    let packed = token.strip_prefix("kn1.").context("a token")?;
    let mut json: Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(packed.as_bytes())?)?;
    json[field] = Value::String(value.to_owned());
    Ok(format!("kn1.{}", BASE64URL_NOPAD.encode(&serde_json::to_vec(&json)?)))
}

/// Installs with this token and waits for the reason; then takes the Operator away with what it stored.
async fn reason_of(site: &Site, token: &str, condition: &str) -> Result<String> {
    site.install_operator(token)?;
    let reason = site.wait_condition(condition, "False", NAMED_WITHIN).await?;
    poll::until(format!("kubectl describe to show an event {reason}"), NAMED_WITHIN, || async {
        let described = site.cluster.kubectl_ok(&["describe", "nova", "default"])?;
        let (_, events) = described.split_once("\nEvents:").context("kubectl describe shows events")?;
        Ok(Step::when(events.contains(&reason), (), events.to_owned()))
    })
    .await?;
    forget(site).await?;
    Ok(reason)
}

/// Makes the cluster one that never had an Operator. Its pod must be gone before its Lease is: with the roles, which helm
/// removes first, goes its right to let go of it.
async fn forget(site: &Site) -> Result<()> {
    let kubectl = |args: &[&str]| site.cluster.kubectl_ok(args);
    site.cluster.helm_ok(&["uninstall", "kubenova-operator", "-n", NAMESPACE, "--wait"])?;
    poll::until("the Operator's pod to be gone", NAMED_WITHIN, || async {
        let left = kubectl(&["get", "pods", "-n", NAMESPACE, "-o", "name"])?;
        Ok(Step::when(left.trim().is_empty(), (), left))
    })
    .await?;
    kubectl(&["delete", "secret", "kubenova-identity", "-n", NAMESPACE, "--ignore-not-found"])?;
    kubectl(&["delete", "lease", "kubenova-operator", "-n", NAMESPACE, "--ignore-not-found"])?;
    kubectl(&["delete", "novaclusterconfig", "default", "--ignore-not-found"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_join_each_cause_has_its_name() -> Result<()> {
    let platform = Platform::start(&PlatformOptions { token_seconds: Some(600), ..PlatformOptions::default() }).await?;
    let created = platform.create_cluster("alpha").await?;
    let token = text(&created, "/enrollment/token")?;
    let cluster = Cluster::start(ClusterOptions::new("alpha", 1)).await?;
    let site = Site::new(cluster, &created)?;

    let wrong = altered(&token, "secret", &BASE64URL_NOPAD.encode(&[7; 32]))?;
    assert_eq!(reason_of(&site, &wrong, "TokenAccepted").await?, "EnrollmentTokenUnknown");
    let pin = altered(&token, "caSpkiSha256", &"ab".repeat(32))?;
    assert_eq!(reason_of(&site, &pin, "TLSVerified").await?, "PinMismatch");
    site.cluster.cut(Cut::Silent)?;
    assert_eq!(reason_of(&site, &token, "EndpointReachable").await?, "NoRoute");
    site.cluster.heal()?;

    platform.postgres.query("kubenova", "update enrollments set expires_at = now() - interval '1 minute'")?;
    assert_eq!(reason_of(&site, &token, "TokenAccepted").await?, "EnrollmentTokenExpired");
    platform.postgres.query("kubenova", "update enrollments set expires_at = now() + interval '1 hour'")?;

    // The good token joins; shown again with other keys it is a second use.
    site.install_operator(&token)?;
    site.wait_condition("BusConnected", "True", Duration::from_secs(60)).await?;
    forget(&site).await?;
    assert_eq!(reason_of(&site, &token, "TokenAccepted").await?, "EnrollmentTokenUsed");

    let seen = platform.rest.get(&format!("/api/v1/clusters/{}", site.id)).await?.expect(200)?.to_string();
    for outcome in ["ENROLLMENT_TOKEN_EXPIRED", "ENROLLMENT_TOKEN_USED", "accepted"] {
        assert!(seen.contains(outcome), "the Manager shows attempt {outcome}: {seen}");
    }
    Ok(())
}
