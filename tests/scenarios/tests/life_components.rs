//! The life of components under a running tenant, from REST to the cluster: upgrade to other values by a rollout, a broken image that
//! stops a rollout and its rollback, drift, a pause, off and on again, and an adoption. What the tenant runs is never touched.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use serde_json::{Value, json};

/// For a change of one component: a Deployment that rolls, and waits of the Operator of up to a minute before it looks again.
const CHANGE_MAX: Duration = Duration::from_secs(180);

const ROLLOUTS: &str = "/api/v1/rollouts";
const CAPSULE: [&str; 4] = ["deployment", "capsule-controller-manager", "-n", "capsule-system"];
const KUBEVELA: [&str; 4] = ["deployment", "kubevela-vela-core", "-n", "vela-system"];

/// A Manager, a cluster that has joined, and a tenant that runs an application there.
struct World {
    platform: Platform,
    site: Site,
}

#[tokio::test(flavor = "multi_thread")]
async fn life_components_under_a_running_tenant() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    assert_eq!(site.get(&["nova", "default"])?["status"]["componentsReady"], "2/2");
    assert_eq!(condition(&site, "TenantEndpointKnown")?["reason"], "ProxyDisabled");
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    let shop = steps::web_application("shop", 2, &["alpha"]);
    let created = platform.rest.post("/api/v1/tenants/acme/apps", &shop).await?.expect(202)?;
    steps::wait_commands(&platform, &created["commands"], "succeeded", COMMAND_MAX).await?;
    let pods = tenants_pods(&site)?;

    let world = World { platform, site };
    world.a_rollout_brings_other_values().await?;
    world.a_broken_image_stops_a_rollout_and_the_former_version_serves().await?;
    world.drift_is_repaired_unless_paused().await?;
    world.off_and_on_again(&pods).await?;
    world.an_installation_is_adopted().await?;
    assert_eq!(tenants_pods(&world.site)?, pods, "the tenant's pods ran through all of it");
    Ok(())
}

impl World {
    async fn a_rollout_brings_other_values(&self) -> Result<()> {
        let site = &self.site;
        let limits = json!({ "cpu": "1", "memory": "1Gi" });
        let change = json!({ "replicas": 2, "resources": { "limits": limits }, "values": { "logLevel": "Debug" } });
        let rollout = self.begin_rollout(&change).await?;
        let rollout = self.wait_rollout(&rollout, "completed").await?;
        assert_eq!(rollout["clusters"][0]["state"], "succeeded", "{rollout}");
        let deployment = site.get(&CAPSULE)?;
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        assert!(container["args"].to_string().contains("--zap-log-level=debug"), "{container}");
        assert_eq!(container["resources"]["limits"], limits);
        assert_eq!(deployment["status"]["availableReplicas"], 2);
        let budgets = ["pdb", "-n", "capsule-system"];
        assert_eq!(site.list(&budgets)?.len(), 1, "two replicas have a disruption budget");
        self.configure(&json!({ "capsule": { "replicas": 1 } })).await?;
        settled(site, "capsule", "Healthy", CHANGE_MAX).await?;
        assert!(site.list(&budgets)?.is_empty(), "what is no longer rendered is pruned");
        let inventory = site.get(&["configmap", "kubenova-inventory-capsule", "-n", "kubenova-system"])?;
        let inventory = text(&inventory, "/data/objects")?;
        assert!(inventory.contains("apps/v1/Deployment/capsule-system/capsule-controller-manager"), "{inventory}");
        assert!(!inventory.contains("PodDisruptionBudget"), "{inventory}");
        Ok(())
    }

    async fn a_broken_image_stops_a_rollout_and_the_former_version_serves(&self) -> Result<()> {
        let site = &self.site;
        let missing = format!("sha256:{}", "0".repeat(64));
        let id = self.begin_rollout(&json!({ "images": { "digest": missing } })).await?;
        let words = [missing.as_str(), "version 0.14.0 goes on serving with 1 replicas", "spec.components.capsule"];
        let message = refused(site, "CapsuleReady", "NotAvailable", &words).await?;
        let entry = entry(site, "capsule")?;
        assert_eq!((&entry["health"], &entry["version"]), (&json!("Progressing"), &json!("0.14.0")));
        assert!(entry["lastError"].as_str().is_some_and(|error| error.contains(&missing)), "{entry}: {message}");
        // Its webhooks answer, or no object of the namespace could be written.
        site.cluster.kubectl_ok(&["annotate", "namespace", "acme-apps", "example.com/served=yes", "--overwrite"])?;
        let events = site.list(&["events.events.k8s.io", "-A", "--field-selector", "reason=NotAvailable"])?;
        assert!(events.iter().any(|event| event.to_string().contains("goes on serving")), "{events:?}");
        let rollout = self.wait_rollout(&id, "stopped").await?;
        let failed = &rollout["clusters"][0];
        assert_eq!(
            (&failed["state"], &failed["reason"]),
            (&json!("failed"), &json!("ProgressDeadlineExceeded")),
            "{rollout}"
        );
        let back = self.platform.rest.post(&format!("{ROLLOUTS}/{id}/rollback"), &json!({})).await?.accepted()?;
        self.wait_rollout(&text(&back, "/id")?, "completed").await?;
        settled(site, "capsule", "Healthy", CHANGE_MAX).await?;
        assert_eq!(condition(site, "Stalled")?["status"], "False");
        assert!(entry_error(site, "capsule")?.is_empty(), "an error that is over is forgotten");
        Ok(())
    }

    async fn drift_is_repaired_unless_paused(&self) -> Result<()> {
        let site = &self.site;
        let scale = [&["scale"], &KUBEVELA[..], &["--replicas=0"]].concat();
        site.cluster.kubectl_ok(&scale)?;
        replicas(site, 1).await?;
        settled(site, "kubevela", "Healthy", CHANGE_MAX).await?;
        self.configure(&json!({ "kubevela": { "paused": true } })).await?;
        settled(site, "kubevela", "Paused", CHANGE_MAX).await?;
        site.cluster.kubectl_ok(&scale)?;
        refused(site, "KubeVelaReady", "Paused", &[]).await?;
        assert_eq!(site.get(&KUBEVELA)?["spec"]["replicas"], 0, "what is paused is left as it is");
        self.configure(&json!({ "kubevela": { "paused": false } })).await?;
        replicas(site, 1).await?;
        settled(site, "kubevela", "Healthy", CHANGE_MAX).await
    }

    async fn off_and_on_again(&self, pods: &[String]) -> Result<()> {
        let site = &self.site;
        self.configure(&json!({ "capsule": { "enabled": false }, "kubevela": { "enabled": false } })).await?;
        settled(site, "capsule", "Disabled", CHANGE_MAX).await?;
        settled(site, "kubevela", "Disabled", CHANGE_MAX).await?;
        assert_eq!(site.get(&["nova", "default"])?["status"]["componentsReady"], "0/0");
        for kind in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
            let left = site.list(&[kind])?;
            assert!(left.is_empty(), "a webhook that nothing answers freezes the cluster: {left:?}");
        }
        for deployment in [CAPSULE, KUBEVELA] {
            assert!(
                !site.cluster.kubectl(&[&["get"], &deployment[..]].concat())?.status.success(),
                "{deployment:?} runs"
            );
        }
        for kind in ["networkpolicy", "resourcequota", "limitrange", "rolebinding"] {
            assert!(!site.list(&[kind, "-n", "acme-apps"])?.is_empty(), "the tenant has no {kind} any more");
        }
        assert!(!site.list(&["traitdefinitions", "-n", "vela-system"])?.is_empty(), "objects of its kinds stay");
        assert_eq!(tenants_pods(site)?, pods);
        site.cluster.kubectl_ok(&["annotate", "namespace", "acme-apps", "example.com/written=yes"])?;
        self.configure(&json!({ "capsule": { "enabled": true }, "kubevela": { "enabled": true } })).await?;
        settled(site, "capsule", "Healthy", COMPONENTS_MAX).await?;
        settled(site, "kubevela", "Healthy", COMPONENTS_MAX).await
    }

    /// The site's own Capsule, as far as it counts here: a Secret of cert-manager's type, users, and a binding to everything.
    async fn an_installation_is_adopted(&self) -> Result<()> {
        let site = &self.site;
        self.configure(&json!({ "capsule": { "enabled": false } })).await?;
        settled(site, "capsule", "Disabled", CHANGE_MAX).await?;
        site.cluster.kubectl_ok(&["delete", "secret", "capsule-tls", "-n", "capsule-system"])?;
        site.cluster.applier().apply_yaml(SECRET).await?;
        let users = r#"{"spec": {"users": [{"kind": "Group", "name": "oil"}]}}"#;
        site.cluster.kubectl_ok(&["patch", "capsuleconfiguration", "default", "--type=merge", "-p", users])?;
        let binding = ["clusterrolebinding", "capsule-manager-rolebinding"];
        let to_everything = ["--clusterrole=cluster-admin", "--serviceaccount=capsule-system:capsule"];
        site.cluster.kubectl_ok(&[&["create"], &binding[..], &to_everything].concat())?;
        self.configure(&json!({ "capsule": { "enabled": true, "adopt": true } })).await?;
        let secret = "Secret capsule-system/capsule-tls has type kubernetes.io/tls";
        refused(site, "CapsuleReady", "AdoptionRefused", &[secret]).await?;
        assert_eq!(condition(site, "Stalled")?["status"], "True", "a person must act");
        assert!(!site.cluster.kubectl(&[&["get"], &CAPSULE[..]].concat())?.status.success(), "nothing was changed");

        site.cluster.kubectl_ok(&["delete", "secret", "capsule-tls", "-n", "capsule-system"])?;
        let binding_left = "ClusterRoleBinding capsule-manager-rolebinding (to cluster-admin)";
        refused(site, "CapsuleReady", "OrphansFound", &[binding_left]).await?;
        let configuration = site.get(&["capsuleconfiguration", "default"])?;
        assert_eq!(
            configuration["spec"]["users"],
            json!([{ "kind": "Group", "name": "oil" }]),
            "the site's users stay"
        );
        site.cluster.kubectl_ok(&[&["delete"], &binding[..]].concat())?;
        settled(site, "capsule", "Healthy", CHANGE_MAX).await
    }

    /// Changes components by REST, until the cluster has the change.
    async fn configure(&self, components: &Value) -> Result<()> {
        let changed = self.platform.rest.patch("/api/v1/clusters/alpha", &json!({ "components": components })).await?;
        let id = text(&changed.expect(202)?, "/commands/0/id")?;
        poll::until(format!("the change {components}"), CHANGE_MAX, || async {
            let annotations = self.site.get(&["nova", "default"])?["metadata"]["annotations"].to_string();
            Ok(Step::when(annotations.contains(&id), (), annotations))
        })
        .await
    }

    /// Begins a rollout of a change of Capsule; returns its id.
    async fn begin_rollout(&self, change: &Value) -> Result<String> {
        let rollout = json!({
            "component": "capsule", "change": change, "clusters": { "names": ["alpha"] }, "canary": { "count": 1 },
            "progressDeadlineSeconds": 60,
        });
        text(&self.platform.rest.post(ROLLOUTS, &rollout).await?.accepted()?, "/id")
    }

    async fn wait_rollout(&self, id: &str, state: &str) -> Result<Value> {
        poll::until(format!("the rollout to be {state}"), CHANGE_MAX, || async {
            let rollout = self.platform.rest.get(&format!("{ROLLOUTS}/{id}")).await?.expect(200)?;
            let is_so = rollout["state"] == state;
            ensure!(is_so || rollout["endedAt"].is_null(), "it ended otherwise: {rollout}");
            let shown = rollout.to_string();
            Ok(Step::when(is_so, rollout, shown))
        })
        .await
    }
}

const SECRET: &str = r#"{"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
    "metadata": {"name": "capsule-tls", "namespace": "capsule-system"}, "data": {"tls.crt": "", "tls.key": ""}}"#;

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

/// Waits until a condition is False for this reason and its message has all these words; returns the message.
async fn refused(site: &Site, kind: &str, reason: &str, words: &[&str]) -> Result<String> {
    poll::until(format!("{kind} to be False ({reason})"), CHANGE_MAX, || async {
        let found = condition(site, kind)?;
        let message = found["message"].as_str().unwrap_or_default().to_owned();
        let says_so = words.iter().all(|word| message.contains(word));
        let holds = found["status"] == "False" && found["reason"] == reason && says_so;
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
    let pods = site.list(&["pods", "-n", "acme-apps", "-l", "app.oam.dev/name=shop"])?;
    let mut uids: Vec<String> = pods.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect();
    uids.sort();
    ensure!(uids.len() == 2, "the tenant has {} pods", uids.len());
    Ok(uids)
}
