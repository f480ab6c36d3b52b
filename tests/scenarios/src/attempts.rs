//! A cluster with the Operator's chart and no Operator, and requests to its API server with the tokens of whoever has some: what the
//! attempts of `tests/attacks/cluster` come to, with the chart's policies and without.
//!
//! Guarantees: nothing is changed, for each request is a dry run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::DynamicObject;
use kubenova_crds::tenant::{NovaTenant, TenantSpec};
use kubenova_env::apply;
use kubenova_env::cluster::{Cluster, ClusterOptions};
use kubenova_env::poll::{self, Step};
use kubenova_env::repository;
use kubenova_env::servers::Servers;
use kubenova_operator_core::tenant::limits::{self, SiteLimits};
use kubenova_operator_core::tenant::{DesiredTenant, build};
use kubenova_test_attacks::cluster::{Attempt, FIXTURE, Impersonated, Source, VALUES, allowed};
use serde_json::{Value, json};

use crate::site::NAMESPACE;

/// Within which the API server knows what was applied: roles, kinds and policies.
const KNOWN_MAX: Duration = Duration::from_secs(60);
/// Within which the control plane has made the accounts and counted the quota of a namespace.
const CONTROLLED_MAX: Duration = Duration::from_secs(60);
/// The tenants: their names and ids.
const TENANTS: [(&str, &str); 2] = [("acme", "id-1"), ("globex", "id-2")];
/// Whose tokens are used, and the accounts.
const ACCOUNTS: [(&str, &str, &str); 6] = [
    ("operator", NAMESPACE, "kubenova-operator"),
    ("capsule", "capsule-system", "capsule"),
    ("capsule-proxy", "capsule-proxy-system", "capsule-proxy"),
    ("kubevela", "vela-system", "kubevela-vela-core"),
    ("owner", "acme-owner", "owner"),
    ("readonly", "acme-apps", "readonly"),
];
/// Who else is spoken for by the administrator. The Operator speaks for a deployer in this way, too.
const SPOKEN_FOR: [(&str, &str); 3] = [
    ("deployer", "system:serviceaccount:acme-owner:kubenova-deployer"),
    ("pods", "system:serviceaccount:kube-system:replicaset-controller"),
    ("daemon-sets", "system:serviceaccount:kube-system:daemon-set-controller"),
];

/// A cluster that is attacked.
pub struct Attacked {
    cluster: Cluster,
    clients: BTreeMap<&'static str, Client>,
    /// The bindings of the chart's policies.
    bindings: Vec<DynamicObject>,
    /// The names of the chart's policies.
    policies: BTreeSet<String>,
}

impl std::fmt::Debug for Attacked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attacked").field("policies", &self.policies).finish_non_exhaustive()
    }
}

impl Attacked {
    /// Starts a cluster with the chart, two tenants as the Operator makes them, and the fixture.
    pub async fn start(name: &str) -> Result<Self> {
        let cluster = Cluster::start(ClusterOptions::new(name, 1)).await?;
        let charts = Servers::find()?;
        for chart in ["capsule", "vela-core"] {
            let crds = charts.chart(chart)?.join("crds");
            let crds = crds.to_str().context("the chart's path is not text")?;
            cluster.kubectl_ok(&["apply", "--server-side", "-f", crds])?;
        }
        cluster.kubectl_ok(&["wait", "--for=condition=established", "crd", "--all", "--timeout=60s"])?;
        cluster.kubectl_ok(&["create", "namespace", NAMESPACE])?;
        let (bindings, objects): (Vec<DynamicObject>, Vec<DynamicObject>) = rendered(&cluster)?
            .into_iter()
            .filter(|object| kind(object) != "Deployment")
            .partition(|object| kind(object) == "ValidatingAdmissionPolicyBinding");
        let named = objects.iter().filter(|object| kind(object) == "ValidatingAdmissionPolicy");
        let policies = named.filter_map(|object| object.metadata.name.clone()).collect();
        apply_in_order(&cluster, "chart", &serde_json::to_value(objects)?)?;
        apply_in_order(&cluster, "tenants", &Value::Array(TENANTS.iter().flat_map(tenant).collect()))?;
        apply_in_order(&cluster, "fixture", &serde_json::to_value(apply::documents(FIXTURE)?)?)?;
        let mut attacked = Self { cluster, clients: BTreeMap::new(), bindings, policies };
        attacked.wait_controlled().await?;
        for (who, namespace, account) in ACCOUNTS {
            let client = attacked.with_token_of(namespace, account).await?;
            attacked.clients.insert(who, client);
        }
        Ok(attacked)
    }

    /// The names of the chart's policies.
    #[must_use]
    pub const fn policies(&self) -> &BTreeSet<String> {
        &self.policies
    }

    /// Each attempt is stopped by what it names and nothing else; then, without the policies, those that a policy stopped succeed.
    pub async fn try_all(&self, source: Source) -> Result<()> {
        let attempts = attempts(source);
        self.bind(&attempts).await?;
        let mut wrong = Vec::new();
        for (attacker, attempt) in &attempts {
            let answer = self.attempt(attacker, attempt).await?;
            if !is_stopped(attempt, &answer) {
                wrong.push(format!("{} is stopped by {} with {:?}: {answer:?}", attempt.id, attempt.by, attempt.says));
            }
        }
        ensure!(wrong.is_empty(), "with the policies:\n{}", wrong.join("\n"));
        for party in allowed() {
            for deed in &party.does {
                let answer = self.request(&party.party, &deed.request, deed.body.as_ref(), deed.impersonated.as_ref());
                if let Err(refusal) = answer.await? {
                    wrong.push(format!("{} {}: {refusal}", party.party, deed.tries));
                }
            }
        }
        ensure!(wrong.is_empty(), "rightful and refused:\n{}", wrong.join("\n"));
        self.unbind(&attempts).await?;
        for (attacker, attempt) in attempts.iter().filter(|(_, attempt)| attempt.policy().is_some()) {
            if let Err(refusal) = self.attempt(attacker, attempt).await? {
                wrong.push(format!("{} is stopped by {} and by another: {refusal}", attempt.id, attempt.by));
            }
        }
        ensure!(wrong.is_empty(), "without the policies:\n{}", wrong.join("\n"));
        Ok(())
    }

    /// Binds the policies and waits until one attempt at each is stopped.
    async fn bind(&self, attempts: &[(String, Attempt)]) -> Result<()> {
        apply_in_order(&self.cluster, "bindings", &serde_json::to_value(&self.bindings)?)?;
        for (attacker, attempt) in first_of_each_policy(attempts) {
            poll::until(format!("{} to be stopped by {}", attempt.id, attempt.by), KNOWN_MAX, || async {
                let answer = self.attempt(attacker, attempt).await?;
                Ok(Step::when(is_stopped(attempt, &answer), (), format!("{answer:?}")))
            })
            .await?;
        }
        Ok(())
    }

    async fn unbind(&self, attempts: &[(String, Attempt)]) -> Result<()> {
        self.cluster.kubectl_ok(&["delete", "validatingadmissionpolicybindings", "--all"])?;
        for (attacker, attempt) in first_of_each_policy(attempts) {
            poll::until(format!("{} no longer to be stopped", attempt.id), KNOWN_MAX, || async {
                let answer = self.attempt(attacker, attempt).await?;
                Ok(Step::when(answer.is_ok(), (), format!("{answer:?}")))
            })
            .await?;
        }
        Ok(())
    }

    async fn attempt(&self, attacker: &str, attempt: &Attempt) -> Result<Result<(), String>> {
        self.request(attacker, &attempt.request, attempt.body.as_ref(), attempt.impersonated.as_ref()).await
    }

    /// One request, as a dry run; the inner error is what the API server answered.
    async fn request(
        &self,
        who: &str,
        request: &str,
        body: Option<&Value>,
        impersonated: Option<&Impersonated>,
    ) -> Result<Result<(), String>> {
        let (verb, path) = request.split_once(' ').with_context(|| format!("{request:?} is no verb and path"))?;
        let (method, content, query) = match verb {
            "get" => ("GET", "application/json", ""),
            "create" => ("POST", "application/json", "?dryRun=All"),
            "delete" => ("DELETE", "application/json", "?dryRun=All"),
            "merge" => ("PATCH", "application/merge-patch+json", "?dryRun=All"),
            "apply" => ("PATCH", "application/apply-patch+yaml", "?dryRun=All&fieldManager=attacker&force=true"),
            other => bail!("{other:?} is no verb"),
        };
        let body = body.map(|body| complete(verb, path, body)).map_or_else(Vec::new, |body| body.to_string().into());
        let mut request =
            http::Request::builder().method(method).uri(format!("{path}{query}")).header("Content-Type", content);
        let spoken_for = SPOKEN_FOR.iter().find(|(name, _)| *name == who).map(|(_, user)| *user);
        if let Some(user) = spoken_for.or_else(|| who.strip_prefix("user ")) {
            request = request.header("Impersonate-User", user);
        }
        if let Some(Impersonated { user, groups }) = impersonated {
            request = request.header("Impersonate-User", user);
            for group in groups {
                request = request.header("Impersonate-Group", group);
            }
        }
        let client = match self.clients.get(who) {
            Some(client) => client.clone(),
            None => self.cluster.kube_client(),
        };
        match client.request_text(request.body(body).context("no request")?).await {
            Ok(_) => Ok(Ok(())),
            Err(kube::Error::Api(status)) => Ok(Err(status.message.clone())),
            Err(error) => Err(error).context("the API server did not answer"),
        }
    }

    /// A client with a token of this account. Tokens of tenants' accounts are the Operator's to ask for.
    async fn with_token_of(&self, namespace: &str, account: &str) -> Result<Client> {
        let asking = match self.clients.get("operator") {
            Some(operator) if namespace.starts_with("acme-") => operator.clone(),
            _ => self.cluster.kube_client(),
        };
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let request = http::Request::post(format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"))
            .header("Content-Type", "application/json")
            .body(body.to_string().into_bytes())?;
        let answer: Value = asking.request(request).await.with_context(|| format!("no token of {account}"))?;
        let mut kubeconfig: Value = serde_json::from_str(&fs::read_to_string(self.cluster.kubeconfig())?)?;
        kubeconfig["users"][0]["user"] = json!({"token": answer["status"]["token"]});
        let kubeconfig = Kubeconfig::from_yaml(&kubeconfig.to_string())?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// The default accounts of the namespaces are there, and their quotas are counted.
    async fn wait_controlled(&self) -> Result<()> {
        poll::until("the control plane to act on the tenants' namespaces", CONTROLLED_MAX, || async {
            let path = "jsonpath={range .items[*]}{.status.used.pods}{\" \"}{end}";
            let used = self.cluster.kubectl_ok(&["get", "resourcequotas", "-A", "-o", path])?;
            let accounts = self.cluster.kubectl_ok(&["get", "serviceaccounts", "-A", "-o", "name"])?;
            let defaults = accounts.lines().filter(|line| line.ends_with("/default")).count();
            let holds = used.split_whitespace().count() == 2 * TENANTS.len() && defaults >= 2 * TENANTS.len() + 4;
            Ok(Step::when(holds, (), format!("used {used:?}, {defaults} default accounts")))
        })
        .await
    }
}

fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("", |types| &types.kind)
}

/// What a person's YAML need not say: version and name are in the path.
fn complete(verb: &str, path: &str, body: &Value) -> Value {
    let mut body = body.clone();
    let parts: Vec<&str> = path.split('/').collect();
    if body.get("kind").is_some_and(Value::is_string) {
        body["apiVersion"] = match parts[..] {
            ["", "api", version, ..] => version.into(),
            ["", "apis", group, version, ..] => format!("{group}/{version}").into(),
            _ => Value::Null,
        };
    }
    if verb == "apply" {
        body["metadata"]["name"] = parts.last().copied().into();
    }
    body
}

/// All attempts, with who attacks.
fn attempts(source: Source) -> Vec<(String, Attempt)> {
    let groups = source.groups().into_iter();
    let each = groups.flat_map(|group| group.tried.into_iter().map(move |attempt| (group.attacker.clone(), attempt)));
    each.map(|(attacker, attempt)| (attempt.attacker.clone().unwrap_or(attacker), attempt)).collect()
}

fn first_of_each_policy(attempts: &[(String, Attempt)]) -> impl Iterator<Item = (&str, &Attempt)> {
    let mut seen = BTreeSet::new();
    attempts
        .iter()
        .filter(move |(_, attempt)| attempt.policy().is_some_and(|policy| seen.insert(policy)))
        .map(|(attacker, attempt)| (attacker.as_str(), attempt))
}

fn is_stopped(attempt: &Attempt, answer: &Result<(), String>) -> bool {
    let Err(refusal) = answer else { return false };
    let by = attempt.policy().map(|policy| format!("ValidatingAdmissionPolicy '{policy}' with binding"));
    refusal.contains(&attempt.says) && by.is_none_or(|by| refusal.contains(&by))
}

fn rendered(cluster: &Cluster) -> Result<Vec<DynamicObject>> {
    let chart = repository::root()?.join("deploy/helm/operator");
    let values = cluster.folder().join("values.yaml");
    fs::write(&values, VALUES)?;
    let path = |path: &Path| path.to_str().map(str::to_owned).context("a path is not text");
    let (chart, values) = (path(&chart)?, path(&values)?);
    let text = cluster.helm_ok(&["template", "kubenova-operator", &chart, "-n", NAMESPACE, "-f", &values])?;
    apply::documents(&text)
}

/// What the Operator makes of a tenant, but for what needs Capsule.
fn tenant((name, id): &(&str, &str)) -> Vec<Value> {
    let tenant =
        DesiredTenant::of(&NovaTenant::new(name, TenantSpec { tenant_id: (*id).to_owned(), ..TenantSpec::default() }));
    let mut objects = build::namespaces(&tenant).to_vec();
    objects.extend(build::identities(&tenant, false));
    objects.extend(limits::limits(&tenant, &SiteLimits::default()));
    objects
}

/// Applies objects in this order, as the administrator. Only the API server checks them: kubectl misses fields that have a default.
fn apply_in_order(cluster: &Cluster, name: &str, objects: &Value) -> Result<()> {
    let file = cluster.folder().join(format!("{name}.json"));
    fs::write(&file, json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
    let file = file.to_str().context("the folder's name is not text")?;
    cluster.kubectl_ok(&["apply", "--server-side", "--force-conflicts", "--validate=false", "-f", file]).map(drop)
}
