//! Many deletes of tenants at once: both sides hold what is beyond five, the Manager's word is not enough where the site names a
//! person's key, and that person's word is.

use anyhow::{Context as _, Result};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use serde_json::{Value, json};

const TENANTS: usize = 7;

/// The deletes in this state that wait for this.
async fn deletes(platform: &Platform, state: &str, waiting_for: &str) -> Result<Vec<Value>> {
    let all = platform.rest.get(&format!("/api/v1/commands?limit=100&state={state}")).await?.expect(200)?;
    let is =
        |one: &&Value| one["kind"] == "delete-tenant" && one["waitingFor"].as_str().unwrap_or_default() == waiting_for;
    Ok(all["items"].as_array().context("a list")?.iter().filter(is).cloned().collect())
}

async fn wait_for(platform: &Platform, count: usize, state: &str, waiting_for: &str) -> Result<Vec<Value>> {
    poll::until(format!("{count} deletes {state} {waiting_for}"), COMMAND_MAX, || async {
        let found = deletes(platform, state, waiting_for).await?;
        let seen = format!("{} are", found.len());
        Ok(Step::when(found.len() == count, found, seen))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn access_deletions_beyond_the_limit_need_the_person_whom_the_site_names() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let key = platform.sandbox.folder("person")?.join("key");
    let key = key.to_str().context("the folder's name is not text")?;
    let public = platform.manager.run(&["confirm-deletions", "--new-key", "--key", key])?;
    site.set_value(&format!("sovereignPolicy.deletionConfirmationKeys={{{}}}", public.trim()))?;
    for number in 0..TENANTS {
        let tenant = steps::create_tenant(&platform, &format!("acme-{number}"), &["alpha"]).await?;
        steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    }

    steps::delete_tenants(&platform, "%")?;
    wait_for(&platform, 5, "succeeded", "").await?;
    let waiting = wait_for(&platform, TENANTS - 5, "queued", "DeletionConfirmation").await?;
    let tenants: Vec<String> = waiting.iter().map(|one| text(one, "/tenantId")).collect::<Result<_>>()?;

    // The Manager's word passes the Manager, and not the cluster.
    let path = "/api/v1/clusters/alpha/deletion-confirmations";
    platform.rest.post(path, &json!({ "tenants": tenants })).await?.expect(201)?;
    let deferred = wait_for(&platform, TENANTS - 5, "sent", "DeletionConfirmation").await?;
    assert!(deferred.iter().all(|one| one["message"].to_string().contains("signed by no key")), "{deferred:?}");

    let uid = site.cluster.kubectl_ok(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"])?;
    let mut arguments =
        vec!["confirm-deletions", "--key", key, "--by", "ann", "--cluster", &site.id, "--cluster-uid", &uid];
    arguments.extend(tenants.iter().flat_map(|tenant| ["--tenant", tenant.as_str()]));
    let printed = platform.manager.run(&arguments)?;
    let line = printed.lines().find(|line| line.starts_with('{')).context("it prints a body")?;
    let confirmed = platform.rest.post(path, &serde_json::from_str(line)?).await?.expect(201)?;
    assert_eq!((&confirmed["confirmedBy"], &confirmed["released"]), (&json!("ann"), &json!("2")));
    wait_for(&platform, TENANTS, "succeeded", "").await?;
    steps::expect_no_open_commands(&platform)
}
