//! Enrollment as an administrator sees it: a cluster that waits for approval, one that is rejected, a revoked token, and a token that many
//! installations show at once.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kubenova_env::cluster::{Cluster, ClusterOptions};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_simulator::enroll::enroll;
use serde_json::{Value, json};

const JOIN_MAX: Duration = Duration::from_secs(90);
/// A reason is shown within 30 s; the rest is for a busy machine.
const NAMED_WITHIN: Duration = Duration::from_secs(60);

/// Waits until the condition has this reason, and returns its message.
async fn wait_reason(site: &Site, condition: &str, reason: &str) -> Result<String> {
    poll::until(&format!("{condition} to have reason {reason}"), NAMED_WITHIN, || async {
        // The object is the Operator's to make.
        let conditions = match site.conditions() {
            Ok(conditions) => conditions,
            Err(error) => return Ok(Step::Waiting(format!("{error:#}"))),
        };
        let found = conditions.iter().find(|it| it.0 == condition);
        let message = found.map(|it| it.3.clone()).unwrap_or_default();
        Ok(Step::when(found.is_some_and(|it| it.2 == reason), message, format!("{found:?}")))
    })
    .await
}

/// A further token of the cluster, which replaces those before: its id and its text.
async fn next_token(platform: &Platform, site: &Site) -> Result<(String, String)> {
    let path = format!("/api/v1/clusters/{}/enrollments", site.id);
    let created = platform.rest.post(&path, &json!({ "replaces": true })).await?.expect(201)?;
    Ok((format!("{path}/{}", text(&created, "/id")?), text(&created, "/token")?))
}

#[tokio::test(flavor = "multi_thread")]
async fn life_enrollment_waits_for_an_administrator_and_says_so() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let body = json!({ "name": "alpha", "approval": "manual" });
    let created = platform.rest.post("/api/v1/clusters", &body).await?.expect(201)?;
    let cluster = Cluster::start(ClusterOptions::new("alpha", 1)).await?;
    let site = Site::new(cluster, &created)?;

    // A token that was revoked before it was used.
    let first = format!("/api/v1/clusters/{}/enrollments/{}", site.id, text(&created, "/enrollment/id")?);
    platform.rest.delete(&first).await?.expect(200)?;
    site.install_operator(&text(&created, "/enrollment/token")?)?;
    let message = wait_reason(&site, "TokenAccepted", "EnrollmentTokenRevoked").await?;
    ensure!(message.contains("create a new token"), "no remedy in {message:?}");

    // One that an administrator rejects.
    let (path, token) = next_token(&platform, &site).await?;
    site.set_value(&format!("enrollment.token={token}"))?;
    wait_reason(&site, "TokenAccepted", "ApprovalPending").await?;
    let reason = json!({ "reason": "the fingerprint was not confirmed" });
    platform.rest.post(&format!("{path}/reject"), &reason).await?.expect(200)?;
    let message = wait_reason(&site, "TokenAccepted", "EnrollmentRejected").await?;
    ensure!(message.contains("the fingerprint was not confirmed"), "no reason in {message:?}");

    // One that is approved for the fingerprint that the cluster shows.
    let (path, token) = next_token(&platform, &site).await?;
    site.set_value(&format!("enrollment.token={token}"))?;
    let message = wait_reason(&site, "TokenAccepted", "ApprovalPending").await?;
    let fingerprint = message.split_whitespace().find(|word| word.starts_with("sha256:")).context("no fingerprint")?;
    let shown = platform.rest.get(&path).await?.expect(200)?;
    assert_eq!((&shown["state"], &shown["request"]["fingerprint"]), (&json!("pendingApproval"), &json!(fingerprint)));
    assert_eq!(shown["request"]["nodes"], json!(site.list(&["nodes"])?.len()), "{shown}");
    assert!(message.contains(&format!("{path}/approve")), "{message:?}");
    let wrong = json!({ "fingerprint": fingerprint.replace(char::is_numeric, "a") });
    platform.rest.post(&format!("{path}/approve"), &wrong).await?.expect(409)?;
    let approved = json!({ "fingerprint": fingerprint });
    platform.rest.post(&format!("{path}/approve"), &approved).await?.expect(200)?;
    site.wait_condition("BusConnected", "True", JOIN_MAX).await?;
    site.wait_condition("TokenAccepted", "True", JOIN_MAX).await?;
    assert_eq!(platform.rest.get(&path).await?.expect(200)?["state"], "used");
    Ok(())
}

/// Installations race for one token with keys of their own: one gets the identity, every other one is raised.
#[tokio::test(flavor = "multi_thread")]
async fn life_enrollment_of_twenty_uses_of_a_token_one_wins() -> Result<()> {
    const AT_ONCE: usize = 20;
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let created = platform.create_cluster("alpha").await?;
    let token = text(&created, "/enrollment/token")?;
    let answers = futures::future::join_all((0..AT_ONCE).map(|_| enroll(&token))).await;
    let won = answers.iter().filter(|answer| answer.is_ok()).count();
    let refused: Vec<String> = answers.iter().filter_map(|it| it.as_ref().err()).map(|it| format!("{it:#}")).collect();
    ensure!(won == 1, "{won} of {AT_ONCE} won; the others: {refused:?}");
    ensure!(refused.iter().all(|it| it.contains("EnrollmentTokenUsed")), "{refused:?}");

    let cluster = platform.rest.get("/api/v1/clusters/alpha").await?.expect(200)?;
    assert_eq!(cluster["credentials"]["incarnation"], "1");
    assert_eq!(cluster["secondUses"]["count"], json!((AT_ONCE - 1).to_string()), "{cluster}");
    let attempts = cluster["enrollments"][0]["attempts"].as_array().context("attempts")?;
    let used = |it: &&Value| it["outcome"] == "ENROLLMENT_TOKEN_USED";
    assert_eq!(attempts.iter().filter(used).count(), AT_ONCE - 1, "{cluster}");
    let records =
        "select action || ' ' || count(*) from (select action from audit union all select action from audit_pending) a
                   where action like 'enrollment/%' group by action order by action";
    let written = platform.postgres.query("kubenova", records)?;
    for expected in ["enrollment/accepted 1", "enrollment/secondUse 19"] {
        ensure!(written.contains(expected), "{written:?}");
    }
    Ok(())
}
