//! A death right after each hop of a command and of a usage window: everything completes, each once.
//!
//! The failpoints are the processes' own (debug builds, `KUBENOVA_FAILPOINT`): they abort as `kill -9` would. A hop that
//! is not reached fails the test, so a renamed failpoint cannot make it empty.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{OPERATOR, Site};
use kubenova_scenarios::story;

const COMPONENTS_MAX: Duration = Duration::from_secs(240);
const ORDER_MAX: Duration = Duration::from_secs(120);
const VARIABLE: &str = "KUBENOVA_FAILPOINT";
const IMAGE: &str = "kubenova/operator";

/// Hops of a command in the Manager, then in the Operator.
const MANAGER_HOPS: [&str; 3] = ["relay.marked-sent", "relay.published", "ingest.outcome-committed"];
const OPERATOR_HOPS: [&str; 5] =
    ["inbound.verified", "inbound.stored", "dispatch.applied", "dispatch.noted", "outbound.outcome"];
/// Hops of a usage window in the Manager; they come by themselves.
const USAGE_HOPS: [&str; 3] = ["usage.ingest.before-commit", "usage.ingest.after-commit", "billing.published"];

/// Orders a fresh application; returns its name and its commands.
async fn order(platform: &Platform, hop: &str) -> Result<(String, serde_json::Value)> {
    let name = format!("after-{}", hop.replace('.', "-"));
    let body = story::web_application(&name, 1, &["alpha"]);
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
    poll::until(format!("the Manager to die at {hop}"), ORDER_MAX, || {
        let ended = platform.manager.process().is_some_and(|process| process.ended().is_some());
        std::future::ready(Ok(Step::when(ended, (), "it still runs")))
    })
    .await?;
    serve_with(platform, "")?;
    platform.wait_ready().await
}

fn deaths(site: &Site) -> Result<usize> {
    let pod = site.cluster.pods().labelled(OPERATOR).into_iter().next().context("the Operator's pod")?;
    Ok(pod.log("operator")?.matches("dying at a failpoint").count())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_hops_a_death_after_each() -> Result<()> {
    let mut platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let tenant = story::create_tenant(&platform, "acme", &["alpha"]).await?;
    story::wait_commands(&platform, &tenant["commands"], "succeeded", ORDER_MAX).await?;
    let mut ordered = Vec::new();

    for hop in MANAGER_HOPS {
        serve_with(&mut platform, hop)?;
        platform.wait_ready().await?;
        let (name, commands) = order(&platform, hop).await?;
        died_and_back(&mut platform, hop).await?;
        story::wait_commands(&platform, &commands, "succeeded", ORDER_MAX).await.with_context(|| hop.to_owned())?;
        ordered.push(name);
    }
    for hop in OPERATOR_HOPS {
        let before = deaths(&site)?;
        site.cluster.pods().set_variable(IMAGE, VARIABLE, Some(hop));
        site.cluster.pods().kill9(OPERATOR);
        let (name, commands) = order(&platform, hop).await?;
        poll::until(format!("the Operator to die at {hop}"), ORDER_MAX, || async {
            let now = deaths(&site)?;
            Ok(Step::when(now > before, (), format!("{now} deaths")))
        })
        .await?;
        site.cluster.pods().set_variable(IMAGE, VARIABLE, None);
        site.cluster.pods().kill9(OPERATOR);
        story::wait_commands(&platform, &commands, "succeeded", ORDER_MAX).await.with_context(|| hop.to_owned())?;
        ordered.push(name);
    }
    for hop in USAGE_HOPS {
        serve_with(&mut platform, hop)?;
        died_and_back(&mut platform, hop).await?;
    }

    for name in &ordered {
        assert_eq!(story::ready_pods(&site, "acme", name)?, 1, "{name}");
    }
    let open = platform.postgres.query("kubenova", "select count(*) from commands where finished_at is null")?;
    assert_eq!(open.trim(), "0", "commands still open");
    let nats = platform.nats()?;
    poll::until("one billing event a ledger row, by id", ORDER_MAX, || async {
        let waiting =
            platform.postgres.query("kubenova", "select count(*) from billing_outbox where published_at is null")?;
        let info = nats.run(&["stream", "info", "KN_BILL", "--json"])?;
        Ok(Step::when(waiting.trim() == "0", (), format!("{} wait; {info}", waiting.trim())))
    })
    .await?;
    let twice = platform.postgres.query(
        "kubenova",
        "select (select count(*) from ledger) - (select count(distinct event_id) from billing_outbox)",
    )?;
    assert_eq!(twice.trim(), "0", "ledger rows without exactly one event id");
    Ok(())
}
