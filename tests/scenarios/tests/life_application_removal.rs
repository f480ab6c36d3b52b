//! "Gone" means that nothing of an application is left: pods of Jobs, which KubeVela leaves running, claims of StatefulSets, which
//! Kubernetes keeps, budgets, and what a policy has KubeVela leave. What other applications made stays, also under names like these.

use anyhow::Result;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::Site;
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use serde_json::{Value, json};

const APPS: &str = "/api/v1/tenants/acme/apps";
/// Everything that costs something, or makes something that does.
const KINDS: &str =
    "pods,persistentvolumeclaims,poddisruptionbudgets,jobs,cronjobs,statefulsets,deployments,replicasets";

fn pod(name: &str, restart: &str) -> Value {
    json!({
        "metadata": { "labels": { "example": name } },
        "spec": { "restartPolicy": restart, "containers": [{ "name": "main", "image": "shop/main:1" }] },
    })
}

fn stateful_set(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": name },
        "spec": {
            "replicas": replicas, "serviceName": name,
            "selector": { "matchLabels": { "example": name } },
            "template": pod(name, "Always"),
            "volumeClaimTemplates": [{
                "metadata": { "name": "data" },
                "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
            }],
        },
    })
}

fn claim(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
    })
}

/// One of each that outlives what made it.
fn shop() -> Value {
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "loose" },
        "spec": { "template": pod("loose", "Never") },
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "kept" },
        "spec": { "selector": { "matchLabels": { "example": "kept" } }, "template": pod("kept", "Always") },
    });
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "own" },
        "spec": {
            "maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": { "matchLabels": { "app.oam.dev/component": "own" } },
        },
    });
    let task = json!({ "image": "shop/task:1", "count": 2, "cpu": "100m", "memory": "64Mi" });
    application(
        "shop",
        &json!({
            "components": [
                { "name": "once", "type": "task", "properties": task },
                objects("own", &[stateful_set("db", 2), budget, job, deployment]),
            ],
            "policies": [{
                "name": "keep", "type": "garbage-collect",
                "properties": { "rules": [{ "selector": { "resourceTypes": ["Deployment", "PodDisruptionBudget"] }, "strategy": "never" }] },
            }],
        }),
    )
}

fn objects(name: &str, objects: &[Value]) -> Value {
    json!({ "name": name, "type": "k8s-objects", "properties": { "objects": objects } })
}

fn application(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "core.oam.dev/v1beta1", "kind": "Application", "metadata": { "name": name }, "spec": spec })
}

/// What stands in the tenant's namespace, `<kind>/<name>`.
fn standing(site: &Site) -> Result<Vec<String>> {
    let printed = site.cluster.kubectl_ok(&["get", KINDS, "-n", "acme-apps", "-o", "name"])?;
    let mut names: Vec<String> = printed.lines().map(str::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

fn is_running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
}

async fn wait_running(site: &Site, wanted: usize) -> Result<()> {
    poll::until(format!("{wanted} pods to run"), COMMAND_MAX, || async {
        let pods = site.list(&["pods", "-n", "acme-apps"])?;
        let running = pods.iter().filter(|pod| is_running(pod)).count();
        Ok(Step::when(running == wanted, (), format!("{:?}", standing(site)?)))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn life_application_removal_leaves_nothing_of_it() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    // With a claim that is named as one of the other's StatefulSet.
    let neighbour = objects("own", &[stateful_set("other-db", 1), claim("data-db-7")]);
    order(&platform, &application("cart", &json!({ "components": [neighbour] }))).await?;
    wait_running(&site, 1).await?;
    let before = standing(&site)?;

    order(&platform, &shop()).await?;
    wait_running(&site, 7).await?;
    let with_shop = standing(&site)?;
    assert!(with_shop.contains(&"persistentvolumeclaim/data-db-1".to_owned()), "{with_shop:?}");

    let removed = platform.rest.delete(&format!("{APPS}/shop")).await?.expect(202)?;
    steps::wait_commands(&platform, &removed["commands"], "succeeded", COMMAND_MAX).await?;
    assert_eq!(standing(&site)?, before, "the moment it is said to be gone");
    assert_eq!(platform.rest.get(&format!("{APPS}/shop")).await?.status, 404);
    steps::wait_no_open_commands(&platform, COMMAND_MAX).await
}

async fn order(platform: &Platform, application: &Value) -> Result<()> {
    let body = json!({ "application": application, "clusters": ["alpha"] });
    platform.rest.post(APPS, &body).await?.expect(202).map(drop)
}
