//! A death right after each hop of a command and of a usage window: everything completes, each once.
//!
//! The failpoints are the processes' own (debug builds, `KUBENOVA_FAILPOINT`): they abort as `kill -9` would. A hop that
//! is not reached fails the test, so a renamed failpoint cannot make it empty.

use anyhow::{Context as _, Result};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{OPERATOR, Site};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};

const VARIABLE: &str = "KUBENOVA_FAILPOINT";
const IMAGE: &str = "kubenova/operator";

/// Hops of a command in the Manager, then in the Operator.
const MANAGER_HOPS: [&str; 3] = ["relay.marked-sent", "relay.published", "ingest.outcome-committed"];
const OPERATOR_HOPS: [&str; 5] =
    ["inbound.verified", "inbound.stored", "dispatch.applied", "dispatch.noted", "outbound.outcome"];
/// Hops of a usage window in the Manager; they come by themselves.
const USAGE_HOPS: [&str; 3] = ["usage.ingest.before-commit", "usage.ingest.after-commit", "billing.published"];

/// Requests a new application; returns its name and its commands.
async fn create_application(platform: &Platform, hop: &str) -> Result<(String, serde_json::Value)> {
    let name = format!("after-{}", hop.replace('.', "-"));
    let body = steps::web_application(&name, 1, &["alpha"]);
    let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)?;
    Ok((name, accepted["commands"].clone()))
}

/// Starts the Manager with a failpoint (or none).
fn serve_with(platform: &mut Platform, failpoint: &str) -> Result<()> {
    platform.manager.kill();
    platform.manager.set_variable(VARIABLE, failpoint);
    platform.manager.serve()
}

/// Waits until the Manager has died at its failpoint, then starts it without one.
async fn died_and_back(platform: &mut Platform, hop: &str) -> Result<()> {
    poll::until(format!("the Manager to die at {hop}"), COMMAND_MAX, || {
        let ended = platform.manager.process().is_some_and(|process| process.ended().is_some());
        std::future::ready(Ok(Step::when(ended, (), "it still runs")))
    })
    .await?;
    serve_with(platform, "")?;
    platform.wait_ready().await
}

fn deaths(site: &Site) -> Result<usize> {
    let pod = site.cluster.pods().labelled(OPERATOR).into_iter().next().context("the Operator's pod")?;
    Ok(pod.log("operator")?.matches("aborting at a failpoint").count())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_hops_a_death_after_each() -> Result<()> {
    let mut platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    let mut applications = Vec::new();

    for hop in MANAGER_HOPS {
        serve_with(&mut platform, hop)?;
        platform.wait_ready().await?;
        let (name, commands) = create_application(&platform, hop).await?;
        died_and_back(&mut platform, hop).await?;
        steps::wait_commands(&platform, &commands, "succeeded", COMMAND_MAX).await.with_context(|| hop.to_owned())?;
        applications.push(name);
    }
    for hop in OPERATOR_HOPS {
        let before = deaths(&site)?;
        site.cluster.pods().set_variable(IMAGE, VARIABLE, Some(hop));
        site.cluster.pods().kill9(OPERATOR);
        let (name, commands) = create_application(&platform, hop).await?;
        poll::until(format!("the Operator to die at {hop}"), COMMAND_MAX, || async {
            let now = deaths(&site)?;
            Ok(Step::when(now > before, (), format!("{now} deaths")))
        })
        .await?;
        site.cluster.pods().set_variable(IMAGE, VARIABLE, None);
        site.cluster.pods().kill9(OPERATOR);
        steps::wait_commands(&platform, &commands, "succeeded", COMMAND_MAX).await.with_context(|| hop.to_owned())?;
        applications.push(name);
    }
    for hop in USAGE_HOPS {
        serve_with(&mut platform, hop)?;
        died_and_back(&mut platform, hop).await?;
    }

    for name in &applications {
        assert_eq!(steps::ready_pods(&site, "acme", name)?, 1, "{name}");
    }
    steps::expect_no_open_commands(&platform)?;
    steps::wait_billed(&platform).await
}
