//! The life of components under a running tenant, in a cluster that has no Manager: install, upgrade to other values, a broken image
//! and its rollback, drift, a pause, off and on again, and an adoption. What the tenant runs is never touched.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kubenova_env::cluster::{Cluster, ClusterOptions};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::site::Site;
use kubenova_scenarios::steps::COMPONENTS_MAX;
use kubenova_schema::token::EnrollmentToken;
use serde_json::{Value, json};

/// For a change of one component: a Deployment that rolls, and waits of the Operator of up to a minute before it looks again.
const CHANGE_MAX: Duration = Duration::from_secs(180);

const CAPSULE: [&str; 4] = ["deployment", "capsule-controller-manager", "-n", "capsule-system"];
const KUBEVELA: [&str; 4] = ["deployment", "kubevela-vela-core", "-n", "vela-system"];

const TENANT: &str = r#"{"apiVersion": "kubenova.io/v1alpha1", "kind": "NovaTenant",
    "metadata": {"name": "acme", "labels": {"kubenova.io/tenant-id": "0193d6a8-0000-7000-8000-000000000001"}},
    "spec": {"tenantId": "0193d6a8-0000-7000-8000-000000000001", "quota": {"cpu": "4", "memory": "4Gi", "pods": 20}}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn life_components_under_a_running_tenant() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::new("alpha", 1)).await?;
    let site = Site::without_leaf_node(cluster, &json!({ "id": "calpha", "name": "alpha" }))?;
    site.install_operator(&token_of_no_manager())?;
    site.wait_condition("CapsuleReady", "Unknown", COMPONENTS_MAX).await?;
    configure(&site, &json!({ "capsule": { "enabled": true }, "kubevela": { "enabled": true } }))?;
    settled(&site, "capsule", "Healthy", COMPONENTS_MAX).await?;
    settled(&site, "kubevela", "Healthy", COMPONENTS_MAX).await?;
    assert_eq!(site.get(&["nova", "default"])?["status"]["componentsReady"], "2/2");
    assert_eq!(condition(&site, "TenantEndpointKnown")?["reason"], "ProxyDisabled");

    site.cluster.applier().apply_yaml(TENANT).await?;
    site.cluster.kubectl_ok(&["wait", "novat/acme", "--for=condition=Ready", "--timeout=180s"])?;
    site.cluster.kubectl_ok(&[
        "create",
        "deployment",
        "web",
        "-n",
        "acme-apps",
        "--image=shop/web:1",
        "--replicas=2",
    ])?;
    site.cluster.kubectl_ok(&[
        "wait",
        "deployment/web",
        "-n",
        "acme-apps",
        "--for=condition=Available",
        "--timeout=120s",
    ])?;
    let pods = tenants_pods(&site)?;

    upgraded_to_other_values(&site).await?;
    a_broken_image_leaves_the_former_version_serving(&site).await?;
    drift_is_repaired_unless_paused(&site).await?;
    off_and_on_again(&site, &pods).await?;
    an_installation_is_adopted(&site).await?;
    assert_eq!(tenants_pods(&site)?, pods, "the tenant's pods ran through all of it");
    Ok(())
}

async fn upgraded_to_other_values(site: &Site) -> Result<()> {
    let limits = json!({ "cpu": "1", "memory": "1Gi" });
    let capsule = json!({ "replicas": 2, "resources": { "limits": limits }, "values": { "logLevel": "Debug" } });
    configure(site, &json!({ "capsule": capsule }))?;
    settled(site, "capsule", "Healthy", CHANGE_MAX).await?;
    let deployment = site.get(&CAPSULE)?;
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert!(container["args"].to_string().contains("--zap-log-level=debug"), "{container}");
    assert_eq!(container["resources"]["limits"], limits);
    assert_eq!(deployment["status"]["availableReplicas"], 2);
    let budgets = ["pdb", "-n", "capsule-system"];
    assert_eq!(site.list(&budgets)?.len(), 1, "two replicas have a disruption budget");
    configure(site, &json!({ "capsule": { "replicas": 1 } }))?;
    settled(site, "capsule", "Healthy", CHANGE_MAX).await?;
    assert!(site.list(&budgets)?.is_empty(), "what is no longer rendered is pruned");
    let inventory = site.get(&["configmap", "kubenova-inventory-capsule", "-n", "kubenova-system"])?;
    let inventory = inventory["data"]["objects"].as_str().context("an inventory")?.to_owned();
    assert!(inventory.contains("apps/v1/Deployment/capsule-system/capsule-controller-manager"), "{inventory}");
    assert!(!inventory.contains("PodDisruptionBudget"), "{inventory}");
    Ok(())
}

async fn a_broken_image_leaves_the_former_version_serving(site: &Site) -> Result<()> {
    let missing = format!("sha256:{}", "0".repeat(64));
    configure(site, &json!({ "capsule": { "images": { "digest": missing } } }))?;
    let message = refused(site, "CapsuleReady", "NotAvailable").await?;
    for part in [missing.as_str(), "version 0.14.0 goes on serving with 1 replicas", "spec.components.capsule"] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    let entry = entry(site, "capsule")?;
    assert_eq!((&entry["health"], &entry["version"]), (&json!("Progressing"), &json!("0.14.0")));
    assert_eq!(entry["lastError"], message);
    // Its webhooks answer, or no pod could be labeled.
    site.cluster.kubectl_ok(&["annotate", "namespace", "acme-apps", "example.com/served=yes", "--overwrite"])?;
    let events = site.list(&["events", "-A", "--field-selector", "reason=NotAvailable"])?;
    assert!(events.iter().any(|event| event.to_string().contains("goes on serving")), "{events:?}");
    configure(site, &json!({ "capsule": { "images": { "digest": null } } }))?;
    settled(site, "capsule", "Healthy", CHANGE_MAX).await?;
    assert_eq!(condition(site, "Stalled")?["status"], "False");
    assert!(entry_error(site, "capsule")?.is_empty(), "an error that is over is forgotten");
    Ok(())
}

async fn drift_is_repaired_unless_paused(site: &Site) -> Result<()> {
    let scale = [&["scale"], &KUBEVELA[..], &["--replicas=0"]].concat();
    site.cluster.kubectl_ok(&scale)?;
    replicas(site, 1).await?;
    settled(site, "kubevela", "Healthy", CHANGE_MAX).await?;
    configure(site, &json!({ "kubevela": { "paused": true } }))?;
    settled(site, "kubevela", "Paused", CHANGE_MAX).await?;
    site.cluster.kubectl_ok(&scale)?;
    refused(site, "KubeVelaReady", "Paused").await?;
    assert_eq!(site.get(&KUBEVELA)?["spec"]["replicas"], 0, "what is paused is left as it is");
    configure(site, &json!({ "kubevela": { "paused": false } }))?;
    replicas(site, 1).await?;
    settled(site, "kubevela", "Healthy", CHANGE_MAX).await
}

async fn off_and_on_again(site: &Site, pods: &[String]) -> Result<()> {
    configure(site, &json!({ "capsule": { "enabled": false }, "kubevela": { "enabled": false } }))?;
    settled(site, "capsule", "Disabled", CHANGE_MAX).await?;
    settled(site, "kubevela", "Disabled", CHANGE_MAX).await?;
    assert_eq!(site.get(&["nova", "default"])?["status"]["componentsReady"], "0/0");
    for kind in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        let left = site.list(&[kind])?;
        assert!(left.is_empty(), "a webhook that nothing answers freezes the cluster: {left:?}");
    }
    for deployment in [CAPSULE, KUBEVELA] {
        assert!(!site.cluster.kubectl(&[&["get"], &deployment[..]].concat())?.status.success(), "{deployment:?} runs");
    }
    for kind in ["networkpolicy", "resourcequota", "limitrange", "rolebinding"] {
        assert!(!site.list(&[kind, "-n", "acme-apps"])?.is_empty(), "the tenant has no {kind} any more");
    }
    assert!(!site.list(&["traitdefinitions", "-n", "vela-system"])?.is_empty(), "objects of its kinds stay");
    assert_eq!(tenants_pods(site)?, pods);
    site.cluster.kubectl_ok(&["annotate", "deployment", "web", "-n", "acme-apps", "example.com/written=yes"])?;
    configure(site, &json!({ "capsule": { "enabled": true }, "kubevela": { "enabled": true } }))?;
    settled(site, "capsule", "Healthy", COMPONENTS_MAX).await?;
    settled(site, "kubevela", "Healthy", COMPONENTS_MAX).await
}

/// The site's own Capsule, as far as it counts here: a Secret of cert-manager's type, users, and a binding to everything.
async fn an_installation_is_adopted(site: &Site) -> Result<()> {
    configure(site, &json!({ "capsule": { "enabled": false } }))?;
    settled(site, "capsule", "Disabled", CHANGE_MAX).await?;
    site.cluster.kubectl_ok(&["delete", "secret", "capsule-tls", "-n", "capsule-system"])?;
    site.cluster.applier().apply_yaml(SECRET).await?;
    let users = r#"{"spec": {"users": [{"kind": "Group", "name": "oil"}]}}"#;
    site.cluster.kubectl_ok(&["patch", "capsuleconfiguration", "default", "--type=merge", "-p", users])?;
    let binding = ["clusterrolebinding", "capsule-manager-rolebinding"];
    let to_everything = ["--clusterrole=cluster-admin", "--serviceaccount=capsule-system:capsule"];
    site.cluster.kubectl_ok(&[&["create"], &binding[..], &to_everything].concat())?;
    configure(site, &json!({ "capsule": { "enabled": true, "adopt": true } }))?;
    let message = refused(site, "CapsuleReady", "AdoptionRefused").await?;
    assert!(message.contains("Secret capsule-system/capsule-tls has type kubernetes.io/tls"), "{message}");
    assert_eq!(condition(site, "Stalled")?["status"], "True", "a person must act");
    assert!(!site.cluster.kubectl(&[&["get"], &CAPSULE[..]].concat())?.status.success(), "nothing was changed");

    site.cluster.kubectl_ok(&["delete", "secret", "capsule-tls", "-n", "capsule-system"])?;
    let message = refused(site, "CapsuleReady", "OrphansFound").await?;
    assert!(message.contains("ClusterRoleBinding capsule-manager-rolebinding (to cluster-admin)"), "{message}");
    let configuration = site.get(&["capsuleconfiguration", "default"])?;
    assert_eq!(configuration["spec"]["users"], json!([{ "kind": "Group", "name": "oil" }]), "the site's users stay");
    site.cluster.kubectl_ok(&[&["delete"], &binding[..]].concat())?;
    settled(site, "capsule", "Healthy", CHANGE_MAX).await
}

const SECRET: &str = r#"{"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
    "metadata": {"name": "capsule-tls", "namespace": "capsule-system"}, "data": {"tls.crt": "", "tls.key": ""}}"#;

/// Nothing answers there: the cluster never joins, so only this program writes its configuration.
fn token_of_no_manager() -> String {
    EnrollmentToken {
        cluster_id: "c01jdmxn0000000000000000000".to_owned(),
        endpoints: vec!["https://127.0.0.1:9".to_owned()],
        ca_spki_sha256: "0".repeat(64),
        secret: "A".repeat(43),
    }
    .encode()
}

fn configure(site: &Site, components: &Value) -> Result<()> {
    let patch = json!({ "spec": { "components": components } }).to_string();
    site.cluster.kubectl_ok(&["patch", "nova", "default", "--type=merge", "-p", &patch]).map(drop)
}

fn condition(site: &Site, kind: &str) -> Result<Value> {
    let config = site.get(&["nova", "default"])?;
    let mut conditions = config["status"]["conditions"].as_array().into_iter().flatten();
    conditions.find(|condition| condition["type"] == kind).cloned().with_context(|| format!("no condition {kind}"))
}

fn entry(site: &Site, component: &str) -> Result<Value> {
    let config = site.get(&["nova", "default"])?;
    let mut entries = config["status"]["components"].as_array().into_iter().flatten();
    entries.find(|entry| entry["name"] == component).cloned().with_context(|| format!("no entry of {component}"))
}

fn entry_error(site: &Site, component: &str) -> Result<String> {
    Ok(entry(site, component)?["lastError"].as_str().unwrap_or_default().to_owned())
}

/// Waits until a component's condition is about what is configured now, and it is like this.
async fn settled(site: &Site, component: &str, health: &str, within: Duration) -> Result<()> {
    let kind = if component == "capsule" { "CapsuleReady" } else { "KubeVelaReady" };
    poll::until(format!("{component} to be {health}"), within, || async {
        let config = site.get(&["nova", "default"])?;
        let (Ok(condition), Ok(entry)) = (condition(site, kind), entry(site, component)) else {
            return Ok(Step::Waiting("no status yet".to_owned()));
        };
        let is_about_this = condition["observedGeneration"] == config["metadata"]["generation"];
        let holds = is_about_this && condition["status"] == "True" && entry["health"] == health;
        Ok(Step::when(holds, (), format!("{condition}; {entry}")))
    })
    .await
}

/// Waits until a condition is False for this reason; returns its message.
async fn refused(site: &Site, kind: &str, reason: &str) -> Result<String> {
    poll::until(format!("{kind} to be False ({reason})"), CHANGE_MAX, || async {
        let found = condition(site, kind)?;
        let holds = found["status"] == "False" && found["reason"] == reason;
        let message = found["message"].as_str().unwrap_or_default().to_owned();
        Ok(Step::when(holds, message, found.to_string()))
    })
    .await
}

async fn replicas(site: &Site, count: u32) -> Result<()> {
    poll::until(format!("KubeVela to have {count} replicas"), CHANGE_MAX, || async {
        let deployment = site.get(&KUBEVELA)?;
        let (wanted, available) = (&deployment["spec"]["replicas"], &deployment["status"]["availableReplicas"]);
        Ok(Step::when(*wanted == count && *available == count, (), format!("{wanted} wanted, {available} available")))
    })
    .await
}

/// UIDs of the pods that the tenant runs.
fn tenants_pods(site: &Site) -> Result<Vec<String>> {
    let pods = site.list(&["pods", "-n", "acme-apps", "-l", "app=web"])?;
    let mut uids: Vec<String> = pods.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect();
    uids.sort();
    anyhow::ensure!(uids.len() == 2, "the tenant has {} pods", uids.len());
    Ok(uids)
}
