//! A sovereign cluster that joins: a real control plane, and the Operator's chart installed by the real helm with one
//! token.
//!
//! Guarantees: nothing else is put into the cluster; Capsule and KubeVela come from the Operator alone.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kubenova_env::cluster::{Cluster, ClusterOptions};
use kubenova_env::pod_runner::PodHandle;
use kubenova_env::poll::{self, Step};
use kubenova_env::repository;
use kubenova_env::sandbox::HUB_ADDRESS;
use kubenova_env::servers;
use serde_json::Value;

use crate::leaf_node::LeafNode;
use crate::platform::{self, Platform, WINDOW_SECONDS};

/// The namespace of the Operator.
pub const NAMESPACE: &str = "kubenova-system";
/// The release that is installed unless a scenario names another.
pub const RELEASE: &str = "kubenova-operator";
/// The label of the Operator's pods.
pub const OPERATOR: &str = "app.kubernetes.io/name=kubenova-operator";

/// The Operator's image; what runs is the program that was built here.
pub const OPERATOR_IMAGE: &str = "kubenova/operator";

/// Names the rule that debug builds break.
const MUTANT: &str = "KUBENOVA_MUTANT";

/// Labels of the pods beside it that watch the API server.
const OTHER_CONTROLLERS: [&str; 2] = ["app.kubernetes.io/name=capsule", "app.kubernetes.io/name=vela-core"];

/// A cluster and what the Manager knows it as.
#[derive(Debug)]
pub struct Site {
    /// The real cluster.
    pub cluster: Cluster,
    /// Its id at the Manager.
    pub id: String,
    /// Its name at the Manager.
    pub name: String,
    /// Its leaf node, where it reaches the broker by one.
    leaf: Option<LeafNode>,
}

impl Site {
    /// Starts a cluster, makes it at the Manager, installs the Operator with the token of the answer.
    pub async fn join(platform: &Platform, name: &str, index: u8) -> Result<Self> {
        let (site, token) = Self::prepare(platform, name, index).await?;
        site.install_operator(&token)?;
        Ok(site)
    }

    /// Starts a cluster and makes it at the Manager; returns it with the token to install the Operator with. The
    /// Operator will record its metering steps (debug builds).
    pub async fn prepare(platform: &Platform, name: &str, index: u8) -> Result<(Self, String)> {
        let created = platform.create_cluster(name).await?;
        let cluster = Cluster::start(ClusterOptions::new(name, index)).await?;
        cluster.pods().set_variable(OPERATOR_IMAGE, "KUBENOVA_STEPS_FILE", Some("/debug/steps"));
        // A rule that is broken is broken in clusters, too: the Manager inherits it.
        if let Ok(mutant) = std::env::var(MUTANT) {
            cluster.pods().set_variable(OPERATOR_IMAGE, MUTANT, Some(&mutant));
        }
        let site = Self::new(cluster, &created)?;
        Ok((site, text(&created, "/enrollment/token")?))
    }

    /// A cluster as the Manager made it, by the transport of this run.
    pub fn new(cluster: Cluster, created: &Value) -> Result<Self> {
        let mut site = Self::without_leaf_node(cluster, created)?;
        if platform::transport() == "leaf" {
            site.leaf = Some(site.start_leaf_node()?);
        }
        Ok(site)
    }

    /// A cluster as the Manager made it, whose transport the scenario itself decides.
    pub fn without_leaf_node(cluster: Cluster, created: &Value) -> Result<Self> {
        Ok(Self { cluster, id: text(created, "/id")?, name: text(created, "/name")?, leaf: None })
    }

    /// A leaf node in its datacenter, which serves once the Operator has written the files.
    pub fn start_leaf_node(&self) -> Result<LeafNode> {
        LeafNode::start(self.cluster.kube_client(), NAMESPACE, &self.name, self.leaf_address()?.into())
    }

    /// Where its leaf node listens, when it has one.
    pub fn leaf_address(&self) -> Result<SocketAddrV4> {
        let hub = HUB_ADDRESS.parse().context("the hub's address")?;
        Ok(SocketAddrV4::new(hub, platform::leaf_port(self.cluster.network().index())))
    }

    /// The Operator's pod.
    pub fn operator(&self) -> Result<PodHandle> {
        self.cluster.pods().labelled(OPERATOR).into_iter().next().context("no Operator runs")
    }

    /// The metering steps that the Operator recorded, one JSON object a line.
    pub fn steps(&self) -> Result<String> {
        std::fs::read_to_string(self.operator()?.debug().join("steps")).context("the Operator recorded no steps")
    }

    /// `helm install` with one token, as the README says.
    pub fn install_operator(&self, token: &str) -> Result<()> {
        self.install_operator_with(token, &[])
    }

    /// `helm install` with one token under another release name, which takes over what the former release has left.
    pub fn install_operator_as(&self, release: &str, token: &str) -> Result<()> {
        self.install_release(release, token, &["--take-ownership"])
    }

    /// `helm install` with one token and more values.
    pub fn install_operator_with(&self, token: &str, values: &[&str]) -> Result<()> {
        let more: Vec<&str> = values.iter().flat_map(|value| ["--set", *value]).collect();
        self.install_release(RELEASE, token, &more)
    }

    fn install_release(&self, release: &str, token: &str, more: &[&str]) -> Result<()> {
        let token = format!("enrollment.token={token}");
        let window = format!("usage.windowSeconds={WINDOW_SECONDS}");
        let usual = [
            "--install",
            "--create-namespace",
            "--set-string",
            &token,
            "--set",
            &window,
            "--set",
            "heartbeatSeconds=2",
            "--set",
            "nats.pingSeconds=2",
            // `life_chart` runs it; here it would take two seconds of each scenario.
            "--set",
            "preflight.enabled=false",
        ];
        let leaf = format!("transport=leaf,leaf.url=tls://{}", self.leaf_address()?);
        let by = if self.leaf.is_some() { vec!["--set", &leaf] } else { Vec::new() };
        self.upgrade_operator(release, &[&usual[..], &by, more].concat())
    }

    /// `helm upgrade` that changes one value.
    pub fn set_value(&self, value: &str) -> Result<()> {
        self.upgrade_operator(RELEASE, &["--reset-then-reuse-values", "--set", value])
    }

    /// `helm uninstall`, until the Operator has ended.
    pub fn uninstall_operator(&self, release: &str) -> Result<()> {
        self.cluster.helm_ok(&["uninstall", release, "--namespace", NAMESPACE, "--wait", "--timeout", "60s"])?;
        let gone = ["wait", "--for=delete", "pods", "-l", OPERATOR, "-n", NAMESPACE, "--timeout=60s"];
        self.cluster.kubectl_ok(&gone).map(drop)
    }

    /// The Operator's program, run by the cluster's administrator.
    pub fn operator_program(&self, arguments: &[&str]) -> Result<Output> {
        let mut program = Command::new(servers::own_binary("kubenova-operator")?);
        program.args(arguments).env("KUBECONFIG", self.cluster.kubeconfig());
        program.output().context("could not start kubenova-operator")
    }

    fn upgrade_operator(&self, release: &str, arguments: &[&str]) -> Result<()> {
        let chart = repository::root()?.join("deploy/helm/operator");
        let chart = chart.to_str().context("the chart's path is not text")?;
        let release = ["upgrade", release, chart, "--namespace", NAMESPACE];
        self.cluster.helm_ok(&[&release, arguments].concat()).map(drop)
    }

    /// The epoch below which the cluster refuses commands, as it is stored.
    pub fn fence_epoch(&self) -> Result<String> {
        let path = "jsonpath={.data.epoch}";
        self.cluster.kubectl_ok(&["get", "configmap", "kubenova-state", "-n", NAMESPACE, "-o", path])
    }

    /// Starts the pods again that watch the API server, as the documentation of a restore asks for. The Operator is not among them.
    pub fn restart_other_controllers(&self) -> Result<()> {
        for label in OTHER_CONTROLLERS {
            ensure!(self.cluster.pods().kill9(label) > 0, "no pod has the label {label}");
        }
        Ok(())
    }

    /// The object, or the list, that `kubectl get` shows.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let printed = self.cluster.kubectl_ok(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&printed).context("kubectl prints JSON")
    }

    /// The object that `kubectl get` shows, if it exists yet: a command that was accepted is carried out some time later.
    pub fn find(&self, arguments: &[&str]) -> Result<Option<Value>> {
        let printed = self.cluster.kubectl_ok(&[&["get", "-o", "json", "--ignore-not-found"], arguments].concat())?;
        if printed.is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&printed).map(Some).context("kubectl prints JSON")
    }

    /// The objects of a list that `kubectl get` shows.
    pub fn list(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        self.get(arguments)?["items"].as_array().cloned().context("a list has items")
    }

    /// The conditions of `novaclusterconfig/default`, by type: (status, reason, message).
    pub fn conditions(&self) -> Result<Vec<(String, String, String, String)>> {
        let object = self.get(&["novaclusterconfig", "default"])?;
        let list = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let word = |condition: &Value, key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        Ok(list
            .iter()
            .map(|it| (word(it, "type"), word(it, "status"), word(it, "reason"), word(it, "message")))
            .collect())
    }

    /// Versions of everything the product writes in a cluster, but Leases and usage reports: the resourceVersion; of
    /// Applications and Deployments, whose status KubeVela and Kubernetes go on writing after they are healthy, the
    /// generation and our own annotations.
    pub fn versions(&self) -> Result<BTreeMap<String, String>> {
        let kinds = "novacommands.kubenova.io,novatenants.kubenova.io,novaclusterconfigs.kubenova.io,\
                     applications.core.oam.dev,tenants.capsule.clastix.io,deployments.apps,namespaces,serviceaccounts";
        let items = self.list(&[kinds, "-A"])?;
        let word = |item: &Value, key: &str| item["metadata"][key].as_str().unwrap_or_default().to_owned();
        let version = |item: &Value| {
            let kind = item["kind"].as_str().unwrap_or_default();
            let version = match kind {
                "Application" | "Deployment" => format!("generation {}{}", item["metadata"]["generation"], ours(item)),
                _ => word(item, "resourceVersion"),
            };
            (format!("{kind}/{}/{}", word(item, "namespace"), word(item, "name")), version)
        };
        Ok(items.iter().map(version).collect())
    }

    /// Waits until a condition has this status; returns its reason.
    pub async fn wait_condition(&self, kind: &str, status: &str, within: Duration) -> Result<String> {
        poll::until(format!("{kind}={status} on cluster {}", self.name), within, || async {
            let all = match self.conditions() {
                Ok(all) => all,
                Err(error) => return Ok(Step::Waiting(format!("{error:#}"))),
            };
            let found = all.iter().find(|(name, now, _, _)| name == kind && now == status);
            Ok(match found {
                Some((_, _, reason, _)) => Step::Done(reason.clone()),
                None => Step::Waiting(
                    all.iter()
                        .map(|(name, now, reason, why)| format!("{name}={now} ({reason}: {why})"))
                        .collect::<Vec<_>>()
                        .join("; "),
                ),
            })
        })
        .await
    }
}

/// Annotations that only KubeNova writes.
fn ours(item: &Value) -> String {
    let annotations = item["metadata"]["annotations"].as_object().into_iter().flatten();
    annotations
        .filter(|(key, _)| key.starts_with("kubenova.io/"))
        .map(|(key, value)| format!(", {key} {value}"))
        .collect()
}

/// A text in a JSON answer.
pub fn text(value: &Value, pointer: &str) -> Result<String> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .with_context(|| format!("no text at {pointer} in {value}"))
}
