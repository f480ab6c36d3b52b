//! KubeVela lets an Application go and leaves its ResourceTracker, with everything that it names: as after a restart of the API
//! server, when its informer has not seen the tracker yet. The deletes of the application and of its tenant end all the same.

use anyhow::Result;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::Site;
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};

/// KubeVela may not put its finalizer on Applications, so they are gone as soon as they are deleted.
const POLICY: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-finalizers}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - {apiGroups: [core.oam.dev], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: [applications]}
  validations:
  - {expression: "!has(object.metadata.finalizers) || object.metadata.finalizers == []", message: "finalizers are refused"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-finalizers}
spec: {policyName: no-finalizers, validationActions: [Deny]}
"#;

const NAMESPACE: &str = "acme-apps";
/// Only it and the Operator may write Applications there.
const AS_KUBEVELA: &str = "--as=system:serviceaccount:vela-system:kubevela-vela-core";

#[tokio::test(flavor = "multi_thread")]
async fn fault_left_behind_trackers_hold_up_no_delete() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    for name in ["shop", "cart"] {
        let body = steps::web_application(name, 1, &["alpha"]);
        let created = platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)?;
        steps::wait_commands(&platform, &created["commands"], "succeeded", COMMAND_MAX).await?;
    }
    refuse_finalizers(&site).await?;

    let removed = platform.rest.delete("/api/v1/tenants/acme/apps/shop").await?.expect(202)?;
    steps::wait_commands(&platform, &removed["commands"], "succeeded", COMMAND_MAX).await?;
    let left = left_behind(&site)?;
    assert!(
        left.iter().all(|name| name.contains("cart")) && !left.is_empty(),
        "only the other application's: {left:?}"
    );

    steps::delete_tenants(&platform, "acme")?;
    poll::until("the tenant to be gone", COMMAND_MAX, || async {
        let tenants = site.cluster.kubectl_ok(&["get", "novatenants.kubenova.io", "-o", "yaml"])?;
        Ok(Step::when(!tenants.contains("name: acme"), (), tenants))
    })
    .await?;
    assert_eq!(left_behind(&site)?, [""; 0]);
    steps::wait_no_open_commands(&platform, COMMAND_MAX).await
}

/// Has the Applications without finalizers from now on.
async fn refuse_finalizers(site: &Site) -> Result<()> {
    site.cluster.applier().apply_yaml(POLICY).await?;
    for name in ["shop", "cart"] {
        let application = ["applications.core.oam.dev", name, "-n", NAMESPACE];
        // Before the policy takes effect, KubeVela puts them back.
        poll::until(format!("{name} without finalizers"), COMMAND_MAX, || async {
            let none = r#"{"metadata": {"finalizers": null}}"#;
            site.cluster
                .kubectl_ok(&[&["patch"], &application[..], &[AS_KUBEVELA, "--type=merge", "-p", none]].concat())?;
            let probe = r#"{"metadata": {"finalizers": ["kubenova.io/probe"]}}"#;
            let tried = site.cluster.kubectl(
                &[&["patch"], &application[..], &[AS_KUBEVELA, "--type=merge", "--dry-run=server", "-p", probe]]
                    .concat(),
            )?;
            let said = String::from_utf8_lossy(&tried.stderr).into_owned();
            let shown = site
                .cluster
                .kubectl_ok(&[&["get"], &application[..], &["-o", "jsonpath={.metadata.finalizers}"]].concat())?;
            Ok(Step::when(said.contains("are refused") && shown.is_empty(), (), format!("{said} {shown}")))
        })
        .await?;
    }
    Ok(())
}

/// Trackers, and Deployments in the tenant's namespace, by name.
fn left_behind(site: &Site) -> Result<Vec<String>> {
    let trackers = site.cluster.kubectl_ok(&["get", "resourcetrackers.core.oam.dev", "-o", "name"])?;
    let deployments = site.cluster.kubectl_ok(&["get", "deployments", "-n", NAMESPACE, "-o", "name"])?;
    Ok(trackers.lines().chain(deployments.lines()).map(str::to_owned).collect())
}
