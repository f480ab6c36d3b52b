//! A death right after each hop of a command and of a usage window: everything completes, each once, and then the cluster comes to
//! rest.
//!
//! The failpoints are the processes' own (debug builds, `KUBENOVA_FAILPOINT`): they abort as `kill -9` would. A hop that
//! is not reached fails the test, so a renamed failpoint cannot make it empty.

use anyhow::{Context as _, Result, ensure};
use kubenova_scenarios::failpoints;
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::quiescence;
use kubenova_scenarios::rest::Answer;
use kubenova_scenarios::site::Site;
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};

/// Hops of a command in the Manager, then in the Operator.
const MANAGER_HOPS: [&str; 3] = ["relay.marked-sent", "relay.published", "ingest.outcome-committed"];
const OPERATOR_HOPS: [&str; 5] =
    ["inbound.verified", "inbound.stored", "dispatch.applied", "dispatch.noted", "outbound.outcome"];
/// Hops of a usage window in the Manager; they come by themselves.
const USAGE_HOPS: [&str; 3] = ["usage.ingest.before-commit", "usage.ingest.after-commit", "billing.published"];

/// The name of the application that is requested before a death at this hop.
fn named_after(hop: &str) -> String {
    format!("after-{}", hop.replace('.', "-"))
}

/// Requests that application, with a key: the process may die before it has answered, and then the request is made again.
async fn request_application(platform: &Platform, hop: &str) -> Result<Answer> {
    let body = steps::web_application(&named_after(hop), 1, &["alpha"]).to_string().into_bytes();
    let key = [("idempotency-key", hop)];
    platform.rest.post_raw("/api/v1/tenants/acme/apps", "application/json", body, &key).await
}

/// The Manager dies when a request is committed and not answered: repeated with its key it is answered as it would have been the first
/// time, and has had one effect.
async fn request_through_a_lost_answer(platform: &mut Platform, site: &Site) -> Result<String> {
    const HOP: &str = "api.committed";
    failpoints::serve_with(platform, HOP)?;
    platform.wait_ready().await?;
    let name = named_after(HOP);
    ensure!(request_application(platform, HOP).await.is_err(), "the Manager answered although it dies before");
    failpoints::manager_died_and_back(platform, HOP).await?;
    let again = request_application(platform, HOP).await?;
    assert_eq!(again.header("idempotency-replayed"), Some("true"), "the first request was not committed");
    let accepted = again.expect(202)?;
    assert_eq!(request_application(platform, HOP).await?.expect(202)?, accepted);
    steps::wait_commands(platform, &accepted["commands"], "succeeded", COMMAND_MAX).await.context(HOP)?;
    let sql = format!("select count(*) from commands where application_name = '{name}'");
    assert_eq!(platform.postgres.query("kubenova", &sql)?.trim(), "1", "one request, one command");
    let path = "jsonpath={.metadata.generation}";
    let generation =
        site.cluster.kubectl_ok(&["get", "applications.core.oam.dev", &name, "-n", "acme-apps", "-o", path])?;
    assert_eq!(generation.trim(), "1", "written once");
    Ok(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_hops_a_death_after_each() -> Result<()> {
    let mut platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    let mut applications = vec![request_through_a_lost_answer(&mut platform, &site).await?];

    for hop in MANAGER_HOPS {
        failpoints::serve_with(&mut platform, hop)?;
        platform.wait_ready().await?;
        let requested = request_application(&platform, hop).await;
        failpoints::manager_died_and_back(&mut platform, hop).await?;
        let answer = match requested {
            Ok(answer) => answer,
            // It was committed, and the relay was faster than the answer.
            Err(_) => request_application(&platform, hop).await?,
        };
        let commands = &answer.expect(202)?["commands"];
        steps::wait_commands(&platform, commands, "succeeded", COMMAND_MAX).await.with_context(|| hop.to_owned())?;
        applications.push(named_after(hop));
    }
    for hop in OPERATOR_HOPS {
        let before = failpoints::start_operator_with(&site, hop)?;
        let commands = &request_application(&platform, hop).await?.expect(202)?["commands"];
        failpoints::operator_died_and_back(&site, hop, before).await?;
        steps::wait_commands(&platform, commands, "succeeded", COMMAND_MAX).await.with_context(|| hop.to_owned())?;
        applications.push(named_after(hop));
    }
    for hop in USAGE_HOPS {
        failpoints::serve_with(&mut platform, hop)?;
        failpoints::manager_died_and_back(&mut platform, hop).await?;
    }

    for name in &applications {
        assert_eq!(steps::ready_pods(&site, "acme", name)?, 1, "{name}");
    }
    steps::expect_no_open_commands(&platform)?;
    steps::wait_billed(&platform).await?;
    quiescence::wait_quiet(&site).await
}
