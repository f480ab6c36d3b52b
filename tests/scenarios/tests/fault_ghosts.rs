//! Applications that vanish while no Operator runs, in a cluster that has more objects than one report holds: REST says that they are
//! gone as soon as the cluster is in session again, and says nothing else of the others.

use anyhow::Result;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::operators;
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::Site;
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use serde_json::{Value, json};

/// With the tenant and the cluster's configuration more than one report holds.
const APPLICATIONS: usize = 60;
/// Their keys are in both parts of the snapshot, the first and the last of them at the edges of a part.
const VANISH: [usize; 4] = [0, 7, 49, 59];

/// What is wanted is written again, so that it would be back in a moment.
const POLICY: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-new-applications}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - {apiGroups: [core.oam.dev], apiVersions: ["*"], operations: [CREATE], resources: [applications]}
  validations:
  - {expression: "false", message: "the site takes no new applications"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-new-applications}
spec: {policyName: no-new-applications, validationActions: [Deny]}
"#;

fn name(number: usize) -> String {
    format!("app-{number:02}")
}

/// An application without a pod.
fn application(name: &str) -> Value {
    json!({ "clusters": ["alpha"], "application": {
        "apiVersion": "core.oam.dev/v1beta1",
        "kind": "Application",
        "metadata": { "name": name },
        "spec": { "components": [{
            "name": name,
            "type": "webservice",
            "properties": { "image": "shop/web:1", "cpu": "1m", "memory": "1Mi" },
            "traits": [{ "type": "scaler", "properties": { "replicas": 0 } }],
        }] },
    } })
}

/// Whether REST calls each application absent on its cluster; none of what the cluster has not reported.
async fn absent(platform: &Platform) -> Result<Vec<Option<bool>>> {
    let mut absent = Vec::new();
    for number in 0..APPLICATIONS {
        let path = format!("/api/v1/tenants/acme/apps/{}/status", name(number));
        let shown = platform.rest.get(&path).await?.expect(200)?;
        let cluster = &shown["clusters"][0];
        let is_absent = cluster["observed"]["absent"].as_bool();
        assert!(is_absent != Some(true) || cluster["ready"] == false, "ready without being there: {shown}");
        absent.push(is_absent);
    }
    Ok(absent)
}

/// No application is created any more: tried until it is so.
async fn refuse_new(site: &Site, platform: &Platform) -> Result<()> {
    site.cluster.applier().apply_yaml(POLICY).await?;
    let file = platform.sandbox.folder("policy")?.join("probe.json");
    let probe = json!({ "apiVersion": "core.oam.dev/v1beta1", "kind": "Application",
        "metadata": { "name": "probe", "namespace": "default" }, "spec": { "components": [] } });
    std::fs::write(&file, probe.to_string())?;
    poll::until("the policy to take effect", COMMAND_MAX, || async {
        let tried = site.cluster.kubectl(&["create", "--dry-run=server", "-f", &file.to_string_lossy()])?;
        let said = String::from_utf8_lossy(&tried.stderr).into_owned();
        Ok(Step::when(said.contains("takes no new applications"), (), said))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_ghosts_that_vanished_unseen_are_absent_once_the_operator_is_back() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    let mut accepted = Vec::new();
    for number in 0..APPLICATIONS {
        let body = application(&name(number));
        accepted.push(platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)?);
    }
    for answer in &accepted {
        steps::wait_commands(&platform, &answer["commands"], "succeeded", COMPONENTS_MAX).await?;
    }
    poll::until("every application to be reported", COMMAND_MAX, || async {
        let absent = absent(&platform).await?;
        Ok(Step::when(absent.iter().all(|absent| *absent == Some(false)), (), format!("{absent:?}")))
    })
    .await?;

    operators::scale_and_wait(&site, 0).await?;
    refuse_new(&site, &platform).await?;
    for number in VANISH {
        let name = name(number);
        site.cluster.kubectl_ok(&["delete", "applications.core.oam.dev", &name, "-n", "acme-apps"])?;
    }
    operators::scale_and_wait(&site, 1).await?;
    let expected: Vec<Option<bool>> = (0..APPLICATIONS).map(|number| Some(VANISH.contains(&number))).collect();
    poll::until("exactly what vanished to be absent", COMMAND_MAX, || async {
        let absent = absent(&platform).await?;
        Ok(Step::when(absent == expected, (), format!("{absent:?}")))
    })
    .await
}
