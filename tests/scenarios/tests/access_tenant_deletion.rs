//! Whoever may delete NovaTenants, or write NovaCommands, deletes no tenant: what it has stays, and the tenant heals by itself. The
//! Manager's command deletes it, with its volumes.

use anyhow::Result;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{NAMESPACE, Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use serde_json::{Value, json};

const CLAIM: &str = r#"{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "acme-apps"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}"#;

/// Everything of the tenant that must not go, by uid.
fn possessions(site: &Site) -> Result<Vec<String>> {
    let path = "jsonpath={range .items[*]}{.kind}/{.metadata.name}/{.metadata.uid}/{.metadata.deletionTimestamp}{\"\\n\"}{end}";
    let mut all: Vec<String> = Vec::new();
    for scope in [
        [
            "persistentvolumeclaims,pods,deployments,applications.core.oam.dev,serviceaccounts,services",
            "-n",
            "acme-apps",
        ],
        ["serviceaccounts", "-n", "acme-owner"],
        ["namespaces", "-l", "kubenova.io/tenant-id"],
        ["tenants.capsule.clastix.io", "-l", "kubenova.io/tenant-id"],
    ] {
        let printed = site.cluster.kubectl_ok(&[&["get", "-o", path], &scope[..]].concat())?;
        all.extend(printed.lines().map(str::to_owned));
    }
    all.sort_unstable();
    Ok(all)
}

/// The uid of the NovaTenant once it is ready and another one than before.
async fn written_again(site: &Site, before: &str) -> Result<String> {
    poll::until("the NovaTenant to be written again, and ready", COMMAND_MAX, || async {
        let tenant = site.list(&["novatenants.kubenova.io"])?.into_iter().next().unwrap_or_default();
        let uid = tenant["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let conditions = tenant.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let ready = conditions.iter().any(|it| it["type"] == "Ready" && it["status"] == "True");
        Ok(Step::when(!uid.is_empty() && uid != before && ready, uid, tenant.to_string()))
    })
    .await
}

/// Deletes the NovaTenant as a person or a prune does; its uid.
fn delete_tenant(site: &Site) -> Result<String> {
    let uid = text(&site.get(&["novatenant", "acme"])?, "/metadata/uid")?;
    site.cluster.kubectl_ok(&["delete", "novatenant", "acme", "--wait=false"])?;
    Ok(uid)
}

async fn wait_event(site: &Site, reason: &str, about: &str) -> Result<()> {
    poll::until(format!("an event {reason}"), COMMAND_MAX, || async {
        let field = format!("reason={reason}");
        let events = site.list(&["events.events.k8s.io", "-A", "--field-selector", &field])?;
        let found = events.iter().any(|event| event["note"].as_str().unwrap_or_default().contains(about));
        Ok(Step::when(found, (), format!("{events:?}")))
    })
    .await
}

/// The tenant's record says that it is to be deleted, over the bytes that the Manager signed for something else.
fn forge_delete(site: &Site, tenant_id: &str, command_id: &str) -> Result<()> {
    let name = format!("tenant.{tenant_id}");
    let record = site.get(&["novacommand", &name, "-n", NAMESPACE])?;
    let id = text(&record, "/spec/commandId")?;
    let body = text(&record, "/spec/body")?.replace("apply-tenant", "delete-tenant").replace(&id, command_id);
    let patch = json!({ "spec": { "body": body, "kind": "delete-tenant", "commandId": command_id } });
    let patch = ["patch", "novacommand", &name, "-n", NAMESPACE, "--type=merge", "-p", &patch.to_string()];
    site.cluster.kubectl_ok(&patch).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn access_tenant_deletion_is_the_managers_alone() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    let body = steps::web_application("shop", 2, &["alpha"]);
    let created = platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)?;
    steps::wait_commands(&platform, &created["commands"], "succeeded", COMMAND_MAX).await?;
    site.cluster.applier().apply_yaml(CLAIM).await?;
    let before = possessions(&site)?;
    assert!(before.iter().any(|one| one.starts_with("PersistentVolumeClaim/data/")), "{before:?}");

    let first = delete_tenant(&site)?;
    let second = written_again(&site, &first).await?;
    wait_event(&site, "DeletionNotOrdered", "which wants the tenant").await?;
    assert_eq!(possessions(&site)?, before, "a deleted NovaTenant took something with it");

    // With a record that says so, and that the Manager did not sign.
    let forged = "0198c7f2-5d5e-7c3a-9a55-0a4e7a1b2c3d";
    forge_delete(&site, &text(&tenant, "/id")?, forged)?;
    wait_event(&site, "RecordUnverified", "does not fit the message").await?;
    assert_eq!(text(&site.get(&["novatenant", "acme"])?, "/metadata/uid")?, second);
    assert_eq!(delete_tenant(&site)?, second);
    // The record of the tenant differs from what the Manager holds, so it is sent again, and then the tenant is wanted again.
    written_again(&site, &second).await?;
    assert_eq!(possessions(&site)?, before, "a forged record took something with it");
    poll::until("the forged command among the dead letters", COMMAND_MAX, || async {
        let letters = platform.rest.get("/api/v1/dead-letters?limit=100").await?.expect(200)?;
        Ok(Step::when(letters.to_string().contains(forged), (), letters.to_string()))
    })
    .await?;

    steps::wait_no_open_commands(&platform, COMMAND_MAX).await?;
    steps::delete_tenants(&platform, "acme")?;
    poll::until("the tenant to be gone", COMMAND_MAX, || async {
        let left = possessions(&site)?;
        Ok(Step::when(left.is_empty(), (), format!("{left:?}")))
    })
    .await?;
    steps::wait_no_open_commands(&platform, COMMAND_MAX).await
}
