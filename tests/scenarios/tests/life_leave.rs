//! A cluster is left, joined again, and left for good. Tenants run and are isolated without the Operator; its administrator is not
//! trapped; the next release takes over what is there; with everything removed nothing is left but what the documentation names.

use std::process::Output;

use anyhow::{Result, ensure};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{RELEASE, Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};

/// The deployer of a tenant, as whom applications are written.
const DEPLOYER: &str = "--as=system:serviceaccount:acme-owner:kubenova-deployer";
/// The account behind a tenant's kubeconfig.
const OWNER: &str = "--as=system:serviceaccount:acme-owner:owner";
/// Objects of Kubernetes that follow from others.
const DERIVED: [&str; 4] = ["events", "endpoints", "endpointslices", "pods"];

/// Kind, name and uid of what a tenant runs.
fn possessions(site: &Site, tenant: &str) -> Result<Vec<String>> {
    let path = "jsonpath={range .items[*]}{.kind}/{.metadata.name}/{.metadata.uid}{\"\\n\"}{end}";
    let (apps, field) = (format!("{tenant}-apps"), format!("kubenova.io/tenant={tenant}"));
    let kinds = "pods,deployments,applications.core.oam.dev,serviceaccounts";
    let inside = site.cluster.kubectl_ok(&["get", kinds, "-n", &apps, "-o", path])?;
    let namespaces = site.cluster.kubectl_ok(&["get", "namespaces", "-l", &field, "-o", path])?;
    Ok(inside.lines().chain(namespaces.lines()).map(str::to_owned).collect())
}

/// What kubectl says against it.
fn refused(site: &Site, arguments: &[&str]) -> Result<String> {
    let output = site.cluster.kubectl(arguments)?;
    ensure!(!output.status.success(), "`kubectl {}` was let through", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

/// `kubenova-operator leave`, which must succeed; what it printed.
fn leave(site: &Site, arguments: &[&str]) -> Result<String> {
    let output = site.operator_program(&[&["leave"], arguments].concat())?;
    ensure!(output.status.success(), "`leave {}` failed: {}", arguments.join(" "), said(&output));
    Ok(said(&output))
}

/// Tenants are isolated: from hosts, from each other, from whoever has one of their accounts.
fn expect_isolation(site: &Site) -> Result<()> {
    let overrides = r#"{"spec": {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}}"#;
    let pod = ["run", "host", "--image=x", "-n", "acme-apps", "--dry-run=server", "--overrides", overrides];
    let said = refused(site, &pod)?;
    ensure!(said.contains("PodSecurity") && said.contains("hostPath"), "{said}");
    let said = refused(site, &[OWNER, "get", "pods", "-n", "globex-apps"])?;
    ensure!(said.contains("cannot list"), "{said}");
    let service =
        ["create", "service", "nodeport", "door", "--tcp=80", "-n", "acme-apps", "--dry-run=server", DEPLOYER];
    let said = refused(site, &service)?;
    ensure!(said.contains("NodePort"), "{said}");
    let said = refused(site, &["label", "namespace", "acme-apps", "pod-security.kubernetes.io/enforce-"])?;
    ensure!(said.contains("pod-security.kubernetes.io/enforce"), "{said}");
    // Capsule's webhook answers.
    let said = refused(site, &["delete", "tenant", "acme", "--dry-run=server"])?;
    ensure!(said.contains("tenant"), "{said}");
    Ok(())
}

/// As the documentation says for a tenant that an administrator wants gone while no Operator runs.
fn break_glass(site: &Site) -> Result<()> {
    let kubectl = |arguments: &[&str]| site.cluster.kubectl_ok(arguments);
    let said = refused(site, &["delete", "namespace", "globex-apps", "--dry-run=server"])?;
    ensure!(said.contains("is deleted with the tenant"), "{said}");
    kubectl(&["delete", "applications.core.oam.dev", "--all", "-n", "globex-apps", "--timeout=60s"])?;
    kubectl(&["patch", "tenant", "globex", "--type", "merge", "-p", r#"{"spec": {"preventDeletion": false}}"#])?;
    kubectl(&["delete", "tenant", "globex", "--timeout=60s"])?;
    kubectl(&["delete", "novatenant", "globex", "--timeout=10s"])?;
    kubectl(&["wait", "--for=delete", "namespace/globex-apps", "namespace/globex-owner", "--timeout=60s"]).map(drop)
}

/// Everything in the cluster with a label of KubeNova, `<kind>/<name>`.
fn labelled(site: &Site) -> Result<Vec<String>> {
    let kinds = site.cluster.kubectl_ok(&["api-resources", "--verbs=list,delete", "-o", "name"])?;
    let kinds: Vec<&str> =
        kinds.lines().filter(|kind| !DERIVED.iter().any(|derived| kind.starts_with(derived))).collect();
    let mut found = Vec::new();
    for label in ["app.kubernetes.io/part-of=kubenova", "kubenova.io/component", "kubenova.io/tenant-id"] {
        let printed = site.cluster.kubectl_ok(&["get", &kinds.join(","), "-A", "-l", label, "-o", "name"])?;
        found.extend(printed.lines().map(str::to_owned));
    }
    Ok(found)
}

async fn failure_policies(site: &Site, wanted: &str) -> Result<()> {
    let path = "jsonpath={range .items[*].webhooks[*]}{.failurePolicy}{\"\\n\"}{end}";
    let configurations = "validatingwebhookconfigurations,mutatingwebhookconfigurations";
    poll::until(format!("failure policies {wanted}"), COMMAND_MAX, || async {
        let found = site.cluster.kubectl_ok(&["get", configurations, "-o", path])?;
        let is_so = match wanted {
            "Ignore" => !found.contains("Fail"),
            other => found.contains(other),
        };
        Ok(Step::when(is_so && !found.is_empty(), (), found))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn life_leave_and_come_back_and_leave_for_good() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    for tenant in ["acme", "globex"] {
        let created = steps::create_tenant(&platform, tenant, &["alpha"]).await?;
        let shop = steps::web_application("shop", 2, &["alpha"]);
        let accepted = platform.rest.post(&format!("/api/v1/tenants/{tenant}/apps"), &shop).await?.expect(202)?;
        steps::wait_commands(&platform, &created["commands"], "succeeded", COMPONENTS_MAX).await?;
        steps::wait_commands(&platform, &accepted["commands"], "succeeded", COMMAND_MAX).await?;
    }
    let finalizers =
        site.cluster.kubectl_ok(&["get", "novatenants", "-o", "jsonpath={.items[*].metadata.finalizers}"])?;
    assert_eq!(finalizers, "", "an uninstall would leave them behind");
    let before = possessions(&site, "acme")?;
    assert!(before.len() >= 6, "{before:?}");

    let while_running = site.operator_program(&["leave", "--yes"])?;
    assert!(
        !while_running.status.success() && said(&while_running).contains("the Operator still runs"),
        "{while_running:?}"
    );
    site.uninstall_operator(RELEASE)?;
    expect_isolation(&site)?;
    assert_eq!(possessions(&site, "acme")?, before);

    let shown = site.operator_program(&["leave"])?;
    assert!(!shown.status.success() && said(&shown).contains("nothing was changed"), "{shown:?}");
    failure_policies(&site, "Fail").await?;
    let printed = leave(&site, &["--yes"])?;
    assert!(printed.contains("tenant acme goes on running: 1 application"), "{printed}");
    failure_policies(&site, "Ignore").await?;
    let again = leave(&site, &["--yes"])?;
    assert!(again.contains("What changes:\n  - nothing"), "{again}");
    expect_isolation(&site)?;
    break_glass(&site)?;
    assert_eq!(possessions(&site, "acme")?, before);

    // The next release has another name. What was accepted before is still there, so nothing is carried out twice.
    let enrollments = format!("/api/v1/clusters/{}/enrollments", site.id);
    let enrollment = platform.rest.post(&enrollments, &serde_json::json!({})).await?.expect(201)?;
    site.install_operator_as("another", &text(&enrollment, "/token")?)?;
    site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
    failure_policies(&site, "Fail").await?;
    let cart = steps::web_application("cart", 1, &["alpha"]);
    let accepted = platform.rest.post("/api/v1/tenants/acme/apps", &cart).await?.expect(202)?;
    steps::wait_commands(&platform, &accepted["commands"], "succeeded", COMMAND_MAX).await?;
    let after = possessions(&site, "acme")?;
    for one in &before {
        assert!(after.contains(one), "{one} is not among {after:?}");
    }
    site.cluster.kubectl_ok(&["wait", "novatenant/acme", "--for=condition=Ready", "--timeout=30s"])?;

    site.uninstall_operator("another")?;
    let refused = site.operator_program(&["leave", "--remove-components", "--yes"])?;
    assert!(!refused.status.success() && said(&refused).contains("which are to stay"), "{refused:?}");
    let everything = ["--remove-tenants", "--remove-components", "--yes"];
    // Interrupted at once, and taken up again.
    let late = site.operator_program(&[&["leave", "--timeout-seconds=0"], &everything[..]].concat())?;
    assert!(!late.status.success() && said(&late).contains("run the same command again"), "{late:?}");
    leave(&site, &everything)?;
    let left = labelled(&site)?;
    let is_named = |one: &&String| one.starts_with("customresourcedefinition") && one.ends_with(".kubenova.io");
    let rest: Vec<&String> = left.iter().filter(|one| !is_named(one)).collect();
    assert!(rest.is_empty(), "{rest:?}");
    let namespaces = site.cluster.kubectl_ok(&["get", "namespaces", "-o", "name"])?;
    for gone in ["acme", "globex", "capsule-system", "vela-system"] {
        assert!(!namespaces.contains(gone), "{namespaces}");
    }
    site.cluster.kubectl_ok(&["delete", "namespace", "kubenova-system", "--timeout=60s"])?;
    site.cluster.kubectl_ok(&["delete", "crd", "-l", "app.kubernetes.io/part-of=kubenova", "--timeout=60s"])?;
    let definitions = site.cluster.kubectl_ok(&["get", "crd", "-o", "name"])?;
    assert_eq!(definitions, "", "a definition is left");
    let detach = serde_json::json!({ "cluster": site.name });
    platform.rest.post(&format!("/api/v1/clusters/{}/detach", site.id), &detach).await?.expect(202)?;
    Ok(())
}
