//! A cluster keeps its identity without a person: its credentials are renewed under load, again and again, and after a cut that
//! outlasted them; a changed token file enrolls it again while its pod goes on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use kubenova_env::network::Cut;
use kubenova_env::poll::{self, Step};
use kubenova_runtime::clock;
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX};
use kubenova_scenarios::writers::Writer;
use kubenova_scenarios::{failpoints, oracle};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Life of the credentials, the shortest that the Manager's settings allow.
const LIFE: Duration = Duration::from_secs(60);
const RENEWALS: usize = 10;
const JOIN_MAX: Duration = Duration::from_secs(90);
/// Renewals begin after five twelfths of the life at the latest; the rest is for a busy machine.
const RENEWED_WITHIN: Duration = Duration::from_secs(45);

async fn credentials(platform: &Platform, site: &Site) -> Result<Value> {
    let cluster = platform.rest.get(&format!("/api/v1/clusters/{}", site.id)).await?.expect(200)?;
    cluster.get("credentials").cloned().with_context(|| format!("no credentials in {cluster}"))
}

async fn wait_renewed(platform: &Platform, site: &Site, since: &str, within: Duration) -> Result<String> {
    poll::until("the credentials to be renewed", within, || async {
        let issued = text(&credentials(platform, site).await?, "/issuedAt")?;
        Ok(Step::when(issued != since, issued.clone(), format!("still those of {issued}")))
    })
    .await
}

async fn wait_reason(site: &Site, kind: &str, reason: &str) -> Result<()> {
    poll::until(format!("{kind} is False with {reason}"), JOIN_MAX, || async {
        let found = site.conditions()?.into_iter().find(|(name, ..)| name == kind);
        let (_, status, now, message) = found.with_context(|| format!("there is a condition {kind}"))?;
        Ok(Step::when(status == "False" && now == reason, (), format!("{status} {now}: {message}")))
    })
    .await
}

fn seconds_left(credentials: &Value) -> Result<i64> {
    let expires: Timestamp = text(credentials, "/expiresAt")?.parse()?;
    Ok(expires.duration_since(clock::now()).as_secs())
}

#[tokio::test(flavor = "multi_thread")]
async fn life_renewal_under_load_and_after_a_cut_that_outlasts_the_credentials() -> Result<()> {
    let seconds = u32::try_from(LIFE.as_secs())?;
    let mut platform =
        Platform::start(&PlatformOptions { credentials_seconds: Some(seconds), ..PlatformOptions::default() }).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("BusConnected", "True", JOIN_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", Duration::from_secs(240)).await?;
    // The policy's twenty deletes an hour would defer most of what the clients delete.
    site.set_value("sovereignPolicy.deletesPerHour=100000")?;
    let first = credentials(&platform, &site).await?;

    let (stop, stopped) = watch::channel(false);
    let writer = Writer::new(&platform.rest, "acme", vec!["alpha".to_owned()], 5, 1);
    let writing = tokio::spawn(writer.run(stopped));
    // A kill right after the answer, and one right after it is stored.
    failpoints::operator_dies_at_each(&site, &["renew.answered", "renew.stored"], async || Ok(())).await?;
    let mut issued = text(&credentials(&platform, &site).await?, "/issuedAt")?;
    let mut pids = Vec::new();
    for renewal in 1..=RENEWALS {
        issued = wait_renewed(&platform, &site, &issued, RENEWED_WITHIN)
            .await
            .with_context(|| format!("renewal {renewal}"))?;
        let left = seconds_left(&credentials(&platform, &site).await?)?;
        ensure!(left > i64::from(seconds) / 2, "renewal {renewal} left {left} s");
        if renewal == 1 {
            // The Operator that has come back after the kills.
            pids = site.operator()?.pids();
        }
    }
    site.wait_condition("BusConnected", "True", JOIN_MAX).await?;

    site.cluster.cut(Cut::Silent)?;
    let (begun, cut) = (Instant::now(), credentials(&platform, &site).await?);
    poll::until("the credentials to expire during the cut", LIFE * 2, || async {
        let left = seconds_left(&cut)?;
        Ok(Step::when(left < -10, (), format!("{left} s are left")))
    })
    .await?;
    // What a person sees there meanwhile: not that all is well.
    let reason = site.wait_condition("IdentityIssued", "False", Duration::from_secs(30)).await?;
    eprintln!("cut for {:?}; IdentityIssued is False: {reason}", begun.elapsed());
    let unchanged = text(&credentials(&platform, &site).await?, "/issuedAt")?;
    ensure!(unchanged == text(&cut, "/issuedAt")?, "renewed across the cut");
    // The broker can be reached again and the Manager cannot: with what has expired the cluster is not let in, and it has nothing else.
    platform.manager.kill();
    site.cluster.heal()?;
    wait_reason(&site, "BusConnected", "CredentialsExpired").await?;
    platform.restart_manager().await?;
    wait_renewed(&platform, &site, &unchanged, JOIN_MAX).await?;
    site.wait_condition("IdentityIssued", "True", JOIN_MAX).await?;
    site.wait_condition("BusConnected", "True", JOIN_MAX).await?;

    stop.send_replace(true);
    let accepted = writing.await??;
    steps::wait_no_open_commands(&platform, COMMAND_MAX).await?;
    oracle::check_real(&site, "acme", &accepted)?;
    oracle::expect_none(&oracle::commands(&platform.rest, &accepted).await?)?;
    let last = credentials(&platform, &site).await?;
    assert_eq!(last["incarnation"], first["incarnation"], "a renewal is no enrollment");
    assert_eq!(site.operator()?.pids(), pids, "the process never ended");
    steps::wait_billed(&platform).await
}

#[tokio::test(flavor = "multi_thread")]
async fn life_renewal_a_changed_token_file_enrolls_again_without_touching_the_pod() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("BusConnected", "True", JOIN_MAX).await?;
    let (pids, first) = (site.operator()?.pids(), credentials(&platform, &site).await?);

    // That of another cluster changes nothing but a condition that says why, and harms the other cluster no more.
    let other = platform.create_cluster("beta").await?;
    let token = text(&other, "/enrollment/token")?;
    set_token(&site, &token)?;
    let reason = site.wait_condition("TokenAccepted", "False", JOIN_MAX).await?;
    assert_eq!(reason, "OtherCluster");
    let beta = platform.rest.get("/api/v1/clusters/beta").await?.expect(200)?;
    assert_eq!(beta["state"], "pendingBootstrap", "{beta}");
    assert_eq!(credentials(&platform, &site).await?["incarnation"], first["incarnation"]);

    let path = format!("/api/v1/clusters/{}/enrollments", site.id);
    let again = platform.rest.post(&path, &json!({})).await?.expect(201)?;
    set_token(&site, &text(&again, "/token")?)?;
    poll::until("another incarnation", JOIN_MAX, || async {
        let now = credentials(&platform, &site).await?;
        Ok(Step::when(now["incarnation"] != first["incarnation"], (), format!("{now}")))
    })
    .await?;
    for condition in ["TokenAccepted", "IdentityIssued", "BusConnected"] {
        site.wait_condition(condition, "True", JOIN_MAX).await?;
    }
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", Duration::from_secs(240)).await?;
    assert_eq!(site.operator()?.pids(), pids, "the process never ended");
    Ok(())
}

/// What `helm upgrade` with another token changes: the Secret that is mounted as the token file.
fn set_token(site: &Site, token: &str) -> Result<()> {
    site.set_value(&format!("enrollment.token={token}"))
}
