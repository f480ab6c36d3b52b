//! A record that a policy of the site refuses: its command says what is in the way and waits, all others go on.

use anyhow::{Context as _, Result};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};

/// Refuses records about applications that are called `stuck`, as a site's own policy might.
const POLICY: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: site-refuses-stuck}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - {apiGroups: [kubenova.io], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: [novacommands]}
  validations:
  - {expression: "!object.spec.key.endsWith('/stuck')", message: "the site takes nothing that is stuck"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: site-refuses-stuck}
spec: {policyName: site-refuses-stuck, validationActions: [Deny]}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn fault_parked_what_the_site_refuses_waits_and_holds_nothing_up() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    let file = platform.sandbox.folder("policy")?.join("policy.yaml");
    std::fs::write(&file, POLICY)?;
    let file = file.to_str().context("the folder's name is not text")?;
    site.cluster.kubectl_ok(&["apply", "-f", file])?;
    // Policies take effect a moment after they are stored.
    poll::until("the policy to take effect", COMMAND_MAX, || async {
        let tried =
            site.cluster.kubectl(&["create", "--dry-run=server", "-n", "kubenova-system", "-f", &probe(&platform)?])?;
        let said = String::from_utf8_lossy(&tried.stderr).into_owned();
        Ok(Step::when(said.contains("takes nothing"), (), said))
    })
    .await?;

    let create = async |name: &str| {
        let body = steps::web_application(name, 1, &["alpha"]);
        platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)
    };
    let stuck = create("stuck").await?;
    let id = text(&stuck, "/commands/0/id")?;
    poll::until("the command to say what it waits for", COMMAND_MAX, || async {
        let shown = platform.rest.get(&format!("/api/v1/commands/{id}")).await?.expect(200)?;
        let message = shown["message"].as_str().unwrap_or_default();
        let says = shown["waitingFor"] == "RecordRefused" && message.contains("the site takes nothing that is stuck");
        Ok(Step::when(says && shown["state"] == "sent", (), shown.to_string()))
    })
    .await?;
    let other = create("shop").await?;
    steps::wait_commands(&platform, &other["commands"], "succeeded", COMMAND_MAX).await?;

    site.cluster.kubectl_ok(&["delete", "-f", file])?;
    steps::wait_commands(&platform, &stuck["commands"], "succeeded", COMMAND_MAX).await?;
    steps::expect_no_open_commands(&platform)
}

/// A record that the policy refuses.
fn probe(platform: &Platform) -> Result<String> {
    let file = platform.sandbox.folder("policy")?.join("probe.yaml");
    let record = "apiVersion: kubenova.io/v1alpha1\nkind: NovaCommand\nmetadata: {name: probe}\nspec: {body: \"\", signature: \"\", \
                  commandId: a, epoch: 1, revision: 1, kind: a, key: a/stuck, commandSha256: a, storedAt: a}\n";
    std::fs::write(&file, record)?;
    Ok(file.to_str().context("the folder's name is not text")?.to_owned())
}
