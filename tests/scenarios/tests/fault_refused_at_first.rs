//! What a cluster refuses at first runs as soon as it may: an application that was ordered before KubeVela stands waits and
//! then succeeds; one that a quota or a policy of the site denies is tried again within a minute.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use serde_json::{Value, json};

/// The longest pause between two attempts, with its jitter, and the time of a busy machine.
const SOON: Duration = Duration::from_secs(120);
const NAMESPACE: &str = "acme-apps";

/// KubeVela's kinds are served, and nothing answers for them.
const NO_KUBEVELA: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-kubevela}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}
  validations:
  - {expression: "request.namespace != 'vela-system'", message: "KubeVela may not start yet"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-kubevela}
spec: {policyName: no-kubevela, validationActions: [Deny]}
"#;

/// A site that wants a cost center on every application.
const COST_CENTER: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: cost-center}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - {apiGroups: [core.oam.dev], apiVersions: ["*"], operations: [CREATE], resources: [applications]}
  validations:
  - {expression: "object.metadata.name != 'shop'", message: "an application needs a cost center"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: cost-center}
spec: {policyName: cost-center, validationActions: [Deny]}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn fault_refused_at_first_runs_as_soon_as_it_may() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let (site, token) = Site::prepare(&platform, "alpha", 1).await?;
    site.cluster.applier().apply_yaml(NO_KUBEVELA).await?;
    site.install_operator(&token)?;
    site.wait_condition("CapsuleReady", "True", COMPONENTS_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;

    let early = order(&platform, "early").await?;
    steps::wait_commands(&platform, &early, "running", COMMAND_MAX).await?;
    wait_reason(&platform, &early, "KubeVelaNotReady").await?;
    assert_eq!(site.list(&["applications.core.oam.dev", "-n", NAMESPACE])?, [] as [Value; 0]);
    site.cluster.kubectl_ok(&["delete", "validatingadmissionpolicybinding", "no-kubevela"])?;
    // The controller of the ReplicaSet waits minutes by now; a new one tries at once.
    site.cluster.kubectl_ok(&["delete", "replicasets", "-n", "vela-system", "--all"])?;
    steps::wait_commands(&platform, &early, "succeeded", COMPONENTS_MAX).await?;

    need_cost_center(&site).await?;
    set_quota(&site, 1).await?;
    for (name, cause) in [("shop", "needs a cost center"), ("cart", "exceeded quota")] {
        let commands = order(&platform, name).await?;
        steps::wait_commands(&platform, &commands, "failed", COMMAND_MAX).await?;
        let command = command(&platform, &commands).await?;
        assert_eq!(command["reason"], "Denied", "{command}");
        assert!(command["message"].to_string().contains(cause), "{command}");
    }
    site.cluster.kubectl_ok(&["delete", "validatingadmissionpolicybinding", "cost-center"])?;
    set_quota(&site, 3).await?;
    for name in ["shop", "cart"] {
        let path = format!("/api/v1/tenants/acme/apps/{name}/status");
        poll::until(format!("{name} to run"), SOON, || async {
            let status = platform.rest.get(&path).await?.expect(200)?;
            Ok(Step::when(status["ready"] == true, (), status.to_string()))
        })
        .await?;
    }
    Ok(())
}

async fn order(platform: &Platform, name: &str) -> Result<Value> {
    let body = steps::web_application(name, 1, &["alpha"]);
    Ok(platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)?["commands"].clone())
}

async fn command(platform: &Platform, commands: &Value) -> Result<Value> {
    let id = text(&commands[0], "/id")?;
    platform.rest.get(&format!("/api/v1/commands/{id}")).await?.expect(200)
}

async fn wait_reason(platform: &Platform, commands: &Value, reason: &str) -> Result<()> {
    poll::until(format!("a command with reason {reason}"), COMMAND_MAX, || async {
        let command = command(platform, commands).await?;
        Ok(Step::when(command["reason"] == reason, (), command.to_string()))
    })
    .await
}

/// Has the site's policy take effect, which is some time after it is written.
async fn need_cost_center(site: &Site) -> Result<()> {
    site.cluster.applier().apply_yaml(COST_CENTER).await?;
    let probe = site.cluster.folder().join("probe.json");
    let application = json!({
        "apiVersion": "core.oam.dev/v1beta1", "kind": "Application",
        "metadata": { "name": "shop", "namespace": "default" },
        "spec": { "components": [] },
    });
    std::fs::write(&probe, application.to_string())?;
    let probe = probe.to_str().context("the folder's name is not text")?;
    poll::until("the policy to refuse applications", COMMAND_MAX, || async {
        let tried = site.cluster.kubectl(&["create", "--dry-run=server", "-f", probe])?;
        let said = String::from_utf8_lossy(&tried.stderr).into_owned();
        Ok(Step::when(said.contains("needs a cost center"), (), said))
    })
    .await
}

/// At most so many Applications in the namespace, as soon as the API server counts them.
async fn set_quota(site: &Site, count: u32) -> Result<()> {
    let (key, wanted) = ("count/applications.core.oam.dev", count.to_string());
    let attempts = AtomicU32::new(0);
    poll::until(format!("a quota of {count}"), COMMAND_MAX, || async {
        let status = site.get(&["resourcequota", "site", "-n", NAMESPACE, "--ignore-not-found"]).unwrap_or_default();
        let status = &status["status"];
        if status["hard"][key] == wanted && status["used"][key].is_string() {
            return Ok(Step::Done(()));
        }
        // Kubernetes counts objects of a new kind some time after it is served, and looks at a quota again only when it is another one.
        let other = attempts.fetch_add(1, Ordering::Relaxed).to_string();
        let quota = json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "site", "namespace": NAMESPACE },
            "spec": { "hard": { key: wanted, "count/leases.coordination.k8s.io": other } },
        });
        site.cluster.applier().apply_yaml(&quota.to_string()).await?;
        Ok(Step::Waiting(status.to_string()))
    })
    .await
}
