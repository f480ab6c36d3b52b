//! The chart as a site meets it: as a dependency of its own chart, with a preflight that ends an install which cannot work, `helm test` over
//! the whole way from the Manager, the doctor, and an upgrade that takes away a policy which the chart has no more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kubenova_env::{repository, servers};
use kubenova_scenarios::platform::{Platform, PlatformOptions, WINDOW_SECONDS};
use kubenova_scenarios::site::{NAMESPACE, Site};
use kubenova_schema::token::EnrollmentToken;
use serde_json::json;

const RELEASE: &str = "site";
const TOKEN_SECRET: &str = "kubenova-token";
const OPERATOR: &str = "system:serviceaccount:kubenova-system:kubenova-operator";
/// A policy that an earlier chart had.
const OLD_POLICY: &str = "kubenova-old";

/// A site's own chart with the Operator's as a dependency.
struct SiteChart {
    folder: tempfile::TempDir,
}

impl SiteChart {
    fn write() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let chart = Self { folder };
        fs::create_dir(chart.path().join("charts"))?;
        let copied = Command::new("cp")
            .arg("-r")
            .arg(repository::root()?.join("deploy/helm/operator"))
            .arg(chart.operator())
            .status()?;
        ensure!(copied.success(), "could not copy the chart");
        let dependency = json!({
            "name": "kubenova-operator", "version": "0.1.0", "repository": "", "condition": "kubenova-operator.enabled",
        });
        let manifest = json!({"apiVersion": "v2", "name": RELEASE, "version": "1.0.0", "dependencies": [dependency]});
        fs::write(chart.path().join("Chart.yaml"), manifest.to_string())?;
        let values = json!({"kubenova-operator": {
            "enabled": true,
            "enrollment": {"existingSecret": TOKEN_SECRET},
            "usage": {"windowSeconds": WINDOW_SECONDS},
            "heartbeatSeconds": 2,
            "nats": {"pingSeconds": 2},
        }});
        fs::write(chart.path().join("values.yaml"), values.to_string())?;
        Ok(chart)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn operator(&self) -> PathBuf {
        self.path().join("charts/kubenova-operator")
    }

    /// As if a chart before this one had had one more policy.
    fn drop_policy(&self) -> Result<()> {
        let file = self.operator().join("files/policies.yaml");
        let names = fs::read_to_string(&file)?;
        let dropped = names.replace("dropped: []", &format!("dropped: [{OLD_POLICY}]"));
        ensure!(dropped != names, "files/policies.yaml does not say that none was dropped");
        fs::write(file, dropped).context("could not write the names of policies")
    }
}

/// Puts a token where the values say that it is.
fn set_token(site: &Site, token: &str) -> Result<()> {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": TOKEN_SECRET, "namespace": NAMESPACE},
        "stringData": {"token": token},
    });
    let file = site.cluster.folder().join("token.json");
    fs::write(&file, secret.to_string())?;
    let file = file.to_str().context("a path is text")?;
    site.cluster.kubectl_ok(&["apply", "-f", file]).map(drop)
}

/// Runs the doctor with a kubeconfig.
fn doctor(kubeconfig: &Path) -> Result<Output> {
    let mut doctor = Command::new(servers::own_binary("kubenova-operator")?);
    doctor.args(["doctor", "--quiet"]).env("KUBECONFIG", kubeconfig).output().context("could not start the doctor")
}

/// A kubeconfig of the Operator's ServiceAccount.
fn operators_kubeconfig(site: &Site) -> Result<PathBuf> {
    let file = site.cluster.folder().join("operator.kubeconfig");
    fs::copy(site.cluster.kubeconfig(), &file)?;
    let path = file.to_str().context("a path is text")?;
    let token = site.cluster.kubectl_ok(&["-n", NAMESPACE, "create", "token", "kubenova-operator"])?;
    let token = format!("--token={}", token.trim());
    site.cluster.kubectl_ok(&["config", "set-credentials", "operator", &token, "--kubeconfig", path])?;
    site.cluster.kubectl_ok(&["config", "set-context", "--current", "--user=operator", "--kubeconfig", path])?;
    let user = site.cluster.kubectl_ok(&[
        "auth",
        "whoami",
        "-o",
        "jsonpath={.status.userInfo.username}",
        "--kubeconfig",
        path,
    ])?;
    ensure!(user == OPERATOR, "the kubeconfig is of {user}");
    Ok(file)
}

#[tokio::test(flavor = "multi_thread")]
async fn life_chart_as_a_dependency_with_preflight_test_doctor_and_upgrade() -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let (site, token) = Site::prepare(&platform, "alpha", 1).await?;
    let chart = SiteChart::write()?;
    let path = chart.path().to_str().context("a path is text")?;
    let install = ["upgrade", "--install", RELEASE, path, "-n", NAMESPACE];

    // A Manager that cannot be reached: nothing is installed, and the Job says why.
    site.cluster.kubectl_ok(&["create", "namespace", NAMESPACE])?;
    let good = EnrollmentToken::decode(&token)?;
    let closed = EnrollmentToken { endpoints: vec!["https://127.0.0.1:1".to_owned()], ..good };
    set_token(&site, &closed.encode())?;
    let refused = site.cluster.helm(&install)?;
    ensure!(!refused.status.success(), "an install that cannot work was let through");
    assert!(site.cluster.kubectl_ok(&["get", "deployments", "-n", NAMESPACE, "-o", "name"])?.is_empty());
    let preflight = site.cluster.pods().labelled("app.kubernetes.io/name=kubenova-preflight");
    let verdict = preflight.first().context("its pod is gone")?.log("preflight")?;
    assert!(verdict.contains("FAIL  EndpointReachable") && verdict.contains("ok    enrollment token"), "{verdict}");

    set_token(&site, &token)?;
    site.cluster.helm_ok(&install)?;
    site.wait_condition("BusConnected", "True", Duration::from_secs(90)).await?;
    site.cluster.helm_ok(&["test", RELEASE, "-n", NAMESPACE])?;

    // What is in order is in order for an administrator and for the Operator itself.
    site.wait_condition("Ready", "True", Duration::from_secs(90)).await?;
    let operator = operators_kubeconfig(&site)?;
    for kubeconfig in [site.cluster.kubeconfig(), &operator] {
        let said = doctor(kubeconfig)?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(
            said.status.success() && text.contains("\n0 do not work") | text.starts_with("0 do not work"),
            "{text}"
        );
    }
    site.cluster.kubectl_ok(&["delete", "validatingadmissionpolicybinding", "kubenova-pods"])?;
    let said = doctor(&operator)?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(!said.status.success() && text.contains("FAIL  policy kubenova-pods"), "{text}");

    // An upgrade repairs that, and takes away what an earlier chart had.
    let old = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": OLD_POLICY, "labels": {"app.kubernetes.io/part-of": "kubenova"}},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["events"],
            }]},
            "validations": [{"expression": "true"}],
        },
    });
    let file = site.cluster.folder().join("old-policy.json");
    fs::write(&file, old.to_string())?;
    site.cluster.kubectl_ok(&["apply", "-f", file.to_str().context("a path is text")?])?;
    let said = doctor(&operator)?;
    assert!(String::from_utf8_lossy(&said.stdout).contains("WARN  policy kubenova-old"), "{said:?}");
    chart.drop_policy()?;
    site.cluster.kubectl_ok(&["delete", "secret", TOKEN_SECRET, "-n", NAMESPACE])?;
    site.cluster
        .helm_ok(&[&install[..], &["--reset-then-reuse-values", "--set", "kubenova-operator.replicas=2"]].concat())?;
    let policies = site.cluster.kubectl_ok(&["get", "validatingadmissionpolicies", "-o", "name"])?;
    assert!(!policies.contains(OLD_POLICY) && policies.contains("kubenova-pods"), "{policies}");
    // Both replicas become ready, the one that waits for the Lease as well.
    let rollout = ["rollout", "status", "deployment/kubenova-operator", "-n", NAMESPACE, "--timeout=60s"];
    site.cluster.kubectl_ok(&rollout)?;
    site.wait_condition("BusConnected", "True", Duration::from_secs(60)).await?;
    let said = doctor(&operator)?;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
    Ok(())
}
