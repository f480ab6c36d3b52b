//! What an application says of itself: ready only while it runs as it was ordered last and its tenant is ready; else the first thing that
//! keeps it, in words that users understand, since when, and that it is stalled once it takes too long.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use serde_json::{Value, json};

const APPS: &str = "/api/v1/tenants/acme/apps";
const NAMESPACE: &str = "acme-apps";
/// Only it and the Operator may write Applications there.
const AS_KUBEVELA: &str = "--as=system:serviceaccount:vela-system:kubevela-vela-core";
/// Applications that are not ready are looked at every minute; and the time of a busy machine.
const LOOKED_AT: Duration = Duration::from_secs(150);

/// The namespace of the tenant does not get its label back.
const NO_LABEL: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-label}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [UPDATE], resources: [namespaces], resourceNames: [acme-apps]}
  validations:
  - expression: "'kubenova.io/tenant-id' in oldObject.metadata.labels || !('kubenova.io/tenant-id' in object.metadata.labels)"
    message: the site takes no label
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-label}
spec: {policyName: no-label, validationActions: [Deny]}
"#;

/// A status, and one of its conditions.
struct Seen {
    ready: bool,
    all: Value,
}

impl Seen {
    fn condition(&self, kind: &str) -> Option<&Value> {
        let conditions = self.all.pointer("/clusters/0/observed/conditions")?.as_array()?;
        conditions.iter().find(|condition| condition["type"] == kind)
    }
}

async fn look(platform: &Platform, name: &str) -> Result<Seen> {
    let all = platform.rest.get(&format!("{APPS}/{name}/status")).await?.expect(200)?;
    Ok(Seen { ready: all["ready"] == true, all })
}

/// Also when its cluster has said no more yet than that the command succeeded, it counts as ready.
async fn wait_ready(platform: &Platform, name: &str) -> Result<Seen> {
    poll::until(format!("{name} to be ready"), LOOKED_AT, || async {
        let seen = look(platform, name).await?;
        let (shown, is_observed) = (seen.all.to_string(), seen.condition("Ready").is_some());
        Ok(Step::when(seen.ready && is_observed, seen, shown))
    })
    .await
}

/// Waits until a condition has this status, reason and words; the application is not ready all the time.
async fn wait_not_ready(platform: &Platform, name: &str, kind: &str, reason: &str, words: &[&str]) -> Result<()> {
    poll::until(format!("{kind} of {name} with {reason}"), LOOKED_AT, || async {
        let seen = look(platform, name).await?;
        let found = seen.condition(kind).is_some_and(|condition| {
            let message = condition["message"].as_str().unwrap_or_default();
            condition["reason"] == reason && words.iter().all(|word| message.contains(word))
        });
        Ok(Step::when(found && !seen.ready, (), seen.all.to_string()))
    })
    .await
}

async fn order(platform: &Platform, name: &str, components: &Value) -> Result<()> {
    let application = json!({
        "apiVersion": "core.oam.dev/v1beta1", "kind": "Application",
        "metadata": { "name": name }, "spec": { "components": components },
    });
    platform.rest.post(APPS, &json!({ "application": application, "clusters": ["alpha"] })).await?.expect(202).map(drop)
}

fn component(name: &str, kind: &str) -> Value {
    json!([{ "name": name, "type": kind, "properties": { "image": "shop/web:1", "cpu": "100m", "memory": "64Mi" } }])
}

/// At most so many pods in the namespace, as soon as the API server counts them.
async fn set_quota(site: &Site, pods: u32) -> Result<()> {
    let hard = json!({ "pods": pods.to_string() });
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": { "name": "site", "namespace": NAMESPACE }, "spec": { "hard": hard },
    });
    site.cluster.applier().apply_yaml(&quota.to_string()).await?;
    poll::until(format!("a quota of {pods} pods"), COMMAND_MAX, || async {
        let found = site.get(&["resourcequota", "site", "-n", NAMESPACE])?;
        let is_counted = found["status"]["hard"] == hard && found["status"]["used"]["pods"].is_string();
        Ok(Step::when(is_counted, (), found["status"].to_string()))
    })
    .await
}

/// Has a pod of the application as a kubelet shows one whose container does not start, and KubeVela look at it.
async fn break_pod(site: &Site, name: &str, reason: &str) -> Result<()> {
    let selector = format!("app.oam.dev/name={name}");
    let pods = site.list(&["pods", "-n", NAMESPACE, "-l", &selector])?;
    let mut pod = pods.into_iter().next().context("it has no pod")?;
    let (named, status) = (text(&pod, "/metadata/name")?, &mut pod["status"]);
    for condition in status["conditions"].as_array_mut().context("a pod has conditions")? {
        if condition["type"] == "Ready" || condition["type"] == "ContainersReady" {
            condition["status"] = json!("False");
        }
    }
    let container = &mut status["containerStatuses"][0];
    container["ready"] = json!(false);
    container["state"] = json!({ "waiting": { "reason": reason, "message": "the registry does not know it" } });
    container["lastState"] = json!({ "terminated": { "exitCode": 3 } });
    // Not the whole pod: another client may have written to it meanwhile.
    let patch =
        json!({ "status": { "conditions": status["conditions"], "containerStatuses": status["containerStatuses"] } });
    let pod = ["pod", named.as_str(), "-n", NAMESPACE];
    site.cluster.kubectl_ok(
        &[&["patch", "--subresource=status", "--type=merge", "-p", &patch.to_string()], &pod[..]].concat(),
    )?;
    wait_unavailable(site, name, 1).await?;
    poke_kubevela(site, name, reason)
}

async fn wait_unavailable(site: &Site, deployment: &str, pods: u32) -> Result<()> {
    poll::until(format!("the Deployment {deployment} to lack {pods} pods"), COMMAND_MAX, || async {
        let status = site.get(&["deployment", deployment, "-n", NAMESPACE])?["status"].clone();
        let lacking = status["unavailableReplicas"].as_u64().unwrap_or_default();
        Ok(Step::when(lacking == u64::from(pods), (), status.to_string()))
    })
    .await
}

/// KubeVela looks at an application that ran once every five minutes only.
fn poke_kubevela(site: &Site, name: &str, why: &str) -> Result<()> {
    // KubeVela copies it to the Service, where no policy refuses an annotation without a domain.
    let annotation = format!("looked-at={why}");
    let application = ["applications.core.oam.dev", name, "-n", NAMESPACE];
    site.cluster
        .kubectl_ok(&[&["annotate"], &application[..], &[&annotation, "--overwrite", AS_KUBEVELA]].concat())
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn life_application_health_is_told_as_it_is() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    let form = steps::web_application("shop", 1, &["alpha"]);
    let created = platform.rest.post(APPS, &form).await?.expect(202)?;
    steps::wait_commands(&platform, &created["commands"], "succeeded", COMMAND_MAX).await?;
    let seen = wait_ready(&platform, "shop").await?;
    for kind in ["Reconciled", "Healthy", "Ready"] {
        let condition = seen.condition(kind).with_context(|| format!("no condition {kind}: {}", seen.all))?;
        assert!(text(condition, "/since")?.parse::<jiff::Timestamp>().is_ok(), "{condition}");
    }

    for reason in ["ImagePullBackOff", "CrashLoopBackOff"] {
        break_pod(&site, "shop", reason).await?;
        wait_not_ready(&platform, "shop", "Ready", reason, &["Pod shop-", "the registry does not know it", "code 3"])
            .await?;
    }
    site.cluster.kubectl_ok(&["delete", "pods", "--all", "-n", NAMESPACE])?;
    wait_unavailable(&site, "shop", 0).await?;
    poke_kubevela(&site, "shop", "replaced")?;
    wait_ready(&platform, "shop").await?;

    // Its pods run for ever.
    order(&platform, "batch", &component("batch", "task")).await?;
    wait_not_ready(&platform, "batch", "Ready", "JobRunning", &[]).await?;

    set_quota(&site, 1).await?;
    for (name, kind, workload) in [
        ("db", "statefulset", "StatefulSet db"),
        ("agent", "daemon", "DaemonSet agent"),
        ("once", "task", "Job once-once"),
    ] {
        order(&platform, name, &component(name, kind)).await?;
        wait_not_ready(&platform, name, "Ready", "FailedCreate", &[workload, "exceeded quota"]).await?;
    }
    // The update needs another pod, so the version before goes on running.
    let mut update = form.clone();
    update["image"] = json!("shop/web:2");
    platform.rest.put(&format!("{APPS}/shop"), &update).await?.expect(202)?;
    poll::until("the update to lack a pod", LOOKED_AT, || async {
        let seen = look(&platform, "shop").await?;
        ensure!(!seen.ready, "the version before is not what was ordered: {}", seen.all);
        let said = seen.condition("Ready").map(ToString::to_string).unwrap_or_default();
        Ok(Step::when(said.contains("Deployment shop") && said.contains("exceeded quota"), (), seen.all.to_string()))
    })
    .await?;

    // Nothing may make a role; KubeVela shows the whole value in CUE.
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "own" }, "rules": [],
    });
    let objects = json!([{ "name": "own", "type": "k8s-objects", "properties": { "objects": [role] } }]);
    order(&platform, "role", &objects).await?;
    poll::until("KubeVela to show the value in CUE", LOOKED_AT, || async {
        let live = site.find(&["applications.core.oam.dev", "role", "-n", NAMESPACE])?;
        let shown = live.map(|live| live.to_string()).unwrap_or_default();
        Ok(Step::when(shown.contains(" (value: "), (), shown))
    })
    .await?;
    poll::until("the error of the role", LOOKED_AT, || async {
        let seen = look(&platform, "role").await?.all.to_string();
        Ok(Step::when(seen.contains("forbidden") && !seen.contains(" (value: "), (), seen))
    })
    .await?;

    site.set_value("progressDeadlineSeconds=5")?;
    for (name, workload) in [("db", "StatefulSet db"), ("agent", "DaemonSet agent"), ("once", "Job once-once")] {
        wait_not_ready(&platform, name, "Stalled", "FailedCreate", &["for more than 5 s", workload]).await?;
    }
    let batch = look(&platform, "batch").await?;
    assert!(batch.condition("Stalled").is_none(), "a job takes its time: {}", batch.all);
    site.cluster.kubectl_ok(&["delete", "resourcequota", "site", "-n", NAMESPACE])?;
    // Their controller waits minutes by now; new ones try at once.
    site.cluster.kubectl_ok(&["delete", "replicasets", "--all", "-n", NAMESPACE])?;
    let seen = wait_ready(&platform, "shop").await?;
    assert!(seen.condition("Stalled").is_none(), "{}", seen.all);

    site.cluster.applier().apply_yaml(NO_LABEL).await?;
    poll::until("the application of a tenant whose label cannot be repaired", LOOKED_AT, || async {
        // The Operator writes it again until the policy takes effect.
        site.cluster.kubectl_ok(&["label", "namespace", NAMESPACE, "kubenova.io/tenant-id-"])?;
        let seen = look(&platform, "shop").await?;
        let said = seen.condition("Ready").filter(|ready| ready["reason"] == "TenantNotReady").map(ToString::to_string);
        let is_refused = said.is_some_and(|said| said.contains("the site takes no label") && said.contains(NAMESPACE));
        Ok(Step::when(is_refused && !seen.ready, (), seen.all.to_string()))
    })
    .await?;
    site.cluster.kubectl_ok(&["delete", "validatingadmissionpolicybinding", "no-label"])?;
    wait_ready(&platform, "shop").await?;
    Ok(())
}
