//! The label by which namespaces, Capsule Tenant and TenantOwners belong to a tenant is taken away: it is written again, what runs is
//! billed as before, and the tenant can be deleted. What others made under the same names is left alone, and REST says so.

use std::time::Duration;

use anyhow::Result;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use kubenova_scenarios::{integral, operators};
use serde_json::Value;

/// Within which a label is back.
const REPAIRED_MAX: Duration = Duration::from_secs(120);

/// What belongs to a tenant by its label.
const OBJECTS: [[&str; 2]; 5] = [
    ["namespace", "acme-owner"],
    ["namespace", "acme-apps"],
    ["tenants.capsule.clastix.io", "acme"],
    ["tenantowners.capsule.clastix.io", "acme-owner"],
    ["tenantowners.capsule.clastix.io", "acme-readonly"],
];

/// It holds up the deletion of the tenant until its finalizer is taken away.
const CLAIM: &str = r#"{"apiVersion": "v1", "kind": "PersistentVolumeClaim",
    "metadata": {"name": "data", "namespace": "acme-apps", "finalizers": ["example.com/hold"]},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}"#;

/// Objects of the site under names that tenants will want.
const FOREIGN: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: globex-apps, labels: {example.com/team: theirs}}
---
apiVersion: capsule.clastix.io/v1beta2
kind: TenantOwner
metadata: {name: initech-owner}
spec: {kind: User, name: someone}
---
apiVersion: capsule.clastix.io/v1beta2
kind: Tenant
metadata: {name: umbrella}
spec: {owners: [{kind: User, name: someone}]}
"#;

/// Takes the labels with the tenant's id and name away from everything of the tenant.
fn strip(site: &Site) -> Result<()> {
    for object in OBJECTS {
        site.cluster
            .kubectl_ok(&[&["label"], &object[..], &["kubenova.io/tenant-id-", "kubenova.io/tenant-"]].concat())?;
    }
    Ok(())
}

/// UIDs of everything of the tenant, once all have both labels.
async fn labelled(site: &Site, tenant_id: &str) -> Result<Vec<String>> {
    poll::until("both labels on everything of the tenant", REPAIRED_MAX, || async {
        let mut uids = Vec::new();
        for object in OBJECTS {
            let live = site.get(&object)?;
            let labels = &live["metadata"]["labels"];
            if labels["kubenova.io/tenant-id"] != tenant_id || labels["kubenova.io/tenant"] != "acme" {
                return Ok(Step::Waiting(format!("{object:?}: {labels}")));
            }
            uids.push(text(&live, "/metadata/uid")?);
        }
        Ok(Step::Done(uids))
    })
    .await
}

/// How often each event was seen that says that an object of the tenant has its label again.
fn repairs(site: &Site) -> Result<Vec<u64>> {
    let mut events = site.list(&["events.events.k8s.io", "-A", "--field-selector", "reason=LabelRepaired"])?;
    events.retain(|event| event["regarding"]["kind"] == "NovaTenant" && event["regarding"]["name"] == "acme");
    Ok(events.iter().map(|event| event.pointer("/series/count").and_then(Value::as_u64).unwrap_or(1)).collect())
}

/// What of the tenant is there.
fn left(site: &Site) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for object in OBJECTS {
        let found = site.cluster.kubectl_ok(&[&["get", "--ignore-not-found", "-o", "name"], &object[..]].concat())?;
        left.extend(found.lines().map(str::to_owned));
    }
    let tenants = site.cluster.kubectl_ok(&["get", "novatenants.kubenova.io", "-o", "name"])?;
    left.extend(tenants.lines().map(str::to_owned));
    Ok(left)
}

/// The ledger's newest row is of a window that began after now, and every row is what the audit log says.
async fn billed_without_a_hole(platform: &Platform, site: &Site, tenant_id: &str) -> Result<()> {
    let now = platform.postgres.query("kubenova", "select (extract(epoch from now()) * 1000)::bigint")?;
    let now_ms: i64 = now.trim().parse()?;
    poll::until("a ledger row of a window that began after the repair", COMMAND_MAX, || async {
        let newest = integral::compare_newest(platform, tenant_id, site).await?;
        Ok(Step::when(newest.start_ms > now_ms && newest.ledger > 0, (), newest.to_string()))
    })
    .await?;
    for comparison in integral::compare_all(platform, tenant_id, site).await? {
        assert!(comparison.holds() && comparison.removals == 0, "{comparison}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_label_is_written_again_and_what_runs_is_billed_meanwhile() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    let tenant_id = text(&tenant, "/id")?;
    let body = steps::web_application("shop", 2, &["alpha"]);
    let created = platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)?;
    steps::wait_commands(&platform, &created["commands"], "succeeded", COMMAND_MAX).await?;
    let before = labelled(&site, &tenant_id).await?;

    strip(&site)?;
    assert_eq!(labelled(&site, &tenant_id).await?, before, "the same objects");
    // Once more: after a pause it is written again, and what is said about it is counted.
    strip(&site)?;
    assert_eq!(labelled(&site, &tenant_id).await?, before, "the same objects");
    poll::until("one event for each object, that was seen twice", COMMAND_MAX, || async {
        let counts = repairs(&site)?;
        Ok(Step::when(counts == [2; OBJECTS.len()], (), format!("{counts:?}")))
    })
    .await?;
    billed_without_a_hole(&platform, &site, &tenant_id).await?;

    // While no Operator runs.
    operators::scale_and_wait(&site, 0).await?;
    strip(&site)?;
    operators::scale_and_wait(&site, 1).await?;
    assert_eq!(labelled(&site, &tenant_id).await?, before, "the same objects");
    billed_without_a_hole(&platform, &site, &tenant_id).await?;

    // In the middle of the tenant's deletion, which does not write the labels again.
    site.cluster.applier().apply_yaml(CLAIM).await?;
    steps::delete_tenants(&platform, "acme")?;
    poll::until("the deletion to wait for the claim", COMMAND_MAX, || async {
        let shown = site.get(&["novatenant", "acme"])?;
        Ok(Step::when(shown.to_string().contains("PersistentVolumeClaim/data"), (), shown.to_string()))
    })
    .await?;
    strip(&site)?;
    let release = r#"{"metadata": {"finalizers": null}}"#;
    site.cluster.kubectl_ok(&["patch", "pvc", "data", "-n", "acme-apps", "--type=merge", "-p", release])?;
    poll::until("everything of the tenant to be gone", COMMAND_MAX, || async {
        let left = left(&site)?;
        Ok(Step::when(left.is_empty(), (), format!("{left:?}")))
    })
    .await?;
    steps::wait_no_open_commands(&platform, COMMAND_MAX).await
}

/// The condition Ready of a tenant on its one cluster, as REST shows it.
async fn shown(platform: &Platform, tenant: &str) -> Result<Value> {
    let placements = platform.rest.get(&format!("/api/v1/tenants/{tenant}/placements")).await?.expect(200)?;
    let observed = &placements["items"][0]["observed"];
    let conditions = observed["conditions"].as_array().cloned().unwrap_or_default();
    let mut ready = conditions.into_iter().find(|condition| condition["type"] == "Ready").unwrap_or_default();
    ready["isReady"] = observed["ready"].clone();
    Ok(ready)
}

/// What of an object is its maker's: all but what the API server and Capsule add.
fn content(site: &Site, object: [&str; 2]) -> Result<Value> {
    let live = site.get(&[&["--show-managed-fields"], &object[..]].concat())?;
    let metadata = &live["metadata"];
    let managers = metadata["managedFields"].as_array().cloned().unwrap_or_default();
    let is_ours = managers.iter().any(|entry| entry["manager"] == "kubenova");
    Ok(serde_json::json!({
        "uid": metadata["uid"], "labels": metadata["labels"], "annotations": metadata["annotations"], "spec": live["spec"],
        "isOurs": is_ours, "isGoing": metadata["deletionTimestamp"],
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_label_objects_of_others_are_left_alone_and_rest_says_what_is_in_the_way() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    site.cluster.applier().apply_yaml(FOREIGN).await?;
    let foreign = [
        ("globex", "NamespaceTaken", ["namespace", "globex-apps"]),
        ("initech", "NameTaken", ["tenantowners.capsule.clastix.io", "initech-owner"]),
        ("umbrella", "NameTaken", ["tenants.capsule.clastix.io", "umbrella"]),
    ];
    let before = foreign.map(|(_, _, object)| content(&site, object));
    for (tenant, _, _) in foreign {
        steps::create_tenant(&platform, tenant, &["alpha"]).await?;
    }
    for ((tenant, reason, object), before) in foreign.into_iter().zip(before) {
        poll::until(format!("REST to say what is in {tenant}'s way"), COMMAND_MAX, || async {
            let shown = shown(&platform, tenant).await?;
            let message = shown["message"].as_str().unwrap_or_default();
            let says = shown["status"] == "False" && shown["reason"] == reason && message.contains(object[1]);
            Ok(Step::when(says && shown["isReady"] == false, (), shown.to_string()))
        })
        .await?;
        assert_eq!(content(&site, object)?, before?, "{object:?} was changed");
    }

    // A tenant whose name is taken is deleted without what has the name.
    let umbrella = content(&site, ["tenants.capsule.clastix.io", "umbrella"])?;
    steps::delete_tenants(&platform, "umbrella")?;
    poll::until("the NovaTenant of umbrella to be gone", COMMAND_MAX, || async {
        let left = site.cluster.kubectl_ok(&["get", "novatenants.kubenova.io", "-o", "name"])?;
        Ok(Step::when(!left.contains("umbrella"), (), left))
    })
    .await?;
    assert_eq!(content(&site, ["tenants.capsule.clastix.io", "umbrella"])?, umbrella);

    site.cluster.kubectl_ok(&["delete", "namespace", "globex-apps"])?;
    site.cluster.kubectl_ok(&["delete", "tenantowners.capsule.clastix.io", "initech-owner"])?;
    for tenant in ["globex", "initech"] {
        poll::until(format!("{tenant} to be ready once its names are free"), COMMAND_MAX, || async {
            let shown = shown(&platform, tenant).await?;
            Ok(Step::when(shown["isReady"] == true, (), shown.to_string()))
        })
        .await?;
    }
    Ok(())
}
