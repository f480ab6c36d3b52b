//! Capsule and KubeVela installed by hand, and one tenant's application: the fleet's self-test.
//!
//! The product installs them through the Operator. This shows that a cluster of the fleet can hold
//! them: rendered charts, our own certificates, waves. Nothing but the self-test and
//! `kubenova-up` uses it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use data_encoding::BASE64;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::apply::documents;
use crate::cluster::Cluster;
use crate::pki::{Authority, Identity};
use crate::poll::{self, Step};

/// Everything here takes seconds; a machine that compiles beside it takes ten times that.
const STEP_MAX: Duration = Duration::from_secs(90);
/// For a definition to reach the cache of KubeVela's webhook.
const DEFINITIONS_SEEN_MAX: Duration = Duration::from_secs(30);
/// The definitions the application needs, and two more for people; all 89 cost 2-3 s.
const DEFINITIONS: [&str; 5] = ["webservice", "worker", "scaler", "securitycontext", "podsecuritycontext"];
/// What an administrator of the test cluster is called.
const ADMIN: &str = "kubenova-test:admin";
/// The tenant's deployer.
const DEPLOYER: &str = "system:serviceaccount:acme-owner:kubenova-deployer";

/// What took how long, in order.
#[derive(Clone, Debug, Default)]
pub struct Timings {
    steps: Vec<(&'static str, Duration)>,
}

impl Timings {
    fn note(&mut self, step: &'static str, since: &mut Instant) {
        self.steps.push((step, since.elapsed()));
        *since = Instant::now();
    }
}

impl std::fmt::Display for Timings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let steps = self.steps.iter().map(|(step, took)| format!("{step} {:.1} s", took.as_secs_f32()));
        f.write_str(&steps.collect::<Vec<_>>().join(", "))
    }
}

/// Both charts, rendered with the certificates they will use.
struct Rendered {
    authority: Authority,
    crds: Vec<DynamicObject>,
    capsule: Vec<DynamicObject>,
    kubevela: Vec<DynamicObject>,
}

/// Installs Capsule and KubeVela and waits until their webhooks answer.
pub async fn install(cluster: &Cluster) -> Result<Timings> {
    let mut timings = Timings::default();
    let mut since = Instant::now();
    let rendered = render(cluster)?;
    timings.note("render", &mut since);

    let applier = cluster.applier();
    let namespaces = ["capsule-system", "vela-system"].map(|name| {
        json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
        })
    });
    for namespace in namespaces {
        applier.apply(&from_json(namespace)?).await?;
    }
    applier.apply_all(rendered.crds).await?;
    timings.note("crds", &mut since);

    applier.apply_all(certificates(&rendered.authority)?).await?;
    let (last_of_vela, first_of_vela): (Vec<_>, Vec<_>) =
        rendered.kubevela.into_iter().partition(|object| is_webhook(object) || is_definition(object));
    let (last_of_capsule, first_of_capsule): (Vec<_>, Vec<_>) =
        rendered.capsule.into_iter().partition(|object| kind(object) == "CapsuleConfiguration");
    applier.apply_all(last_of_capsule).await?;
    applier.apply_all(first_of_capsule).await?;
    applier.apply_all(first_of_vela).await?;
    timings.note("workloads", &mut since);

    wait_available(cluster, "capsule-system", "capsule-controller-manager").await?;
    wait_available(cluster, "vela-system", "kubevela-vela-core").await?;
    timings.note("available", &mut since);

    let (webhooks, definitions): (Vec<_>, Vec<_>) = last_of_vela.into_iter().partition(is_webhook);
    applier.apply_all(webhooks).await?;
    for definition in definitions.iter().filter(|object| DEFINITIONS.contains(&object.name_any().as_str())) {
        apply_definition(cluster, definition).await?;
    }
    timings.note("definitions", &mut since);
    Ok(timings)
}

/// Makes a tenant with its two namespaces and its deployer, applies an application as the deployer
/// and waits until it runs with three pods.
pub async fn run_application(cluster: &Cluster) -> Result<Timings> {
    let mut timings = Timings::default();
    let mut since = Instant::now();
    let applier = cluster.applier();
    let tenant = &documents(TENANT)?[0];
    eventually(cluster, "Capsule to accept the tenant", tenant).await?;
    for namespace in documents(NAMESPACES)? {
        eventually(cluster, "Capsule to accept the namespace", &namespace).await?;
    }
    applier.apply_yaml(DEPLOYER_RIGHTS).await?;
    timings.note("tenant", &mut since);

    let file = cluster.folder().join("application.yaml");
    fs::write(&file, APPLICATION).with_context(|| format!("could not write {}", file.display()))?;
    let path = file.display().to_string();
    // KubeVela's webhook refuses a component whose definition its cache has not seen yet.
    poll::until("KubeVela to accept the application", DEFINITIONS_SEEN_MAX, || async {
        Ok(Step::from_attempt(cluster.kubectl_ok(&["apply", "--server-side", "-f", &path, "--as", DEPLOYER]).map(drop)))
    })
    .await?;
    timings.note("apply", &mut since);
    wait_running(cluster).await?;
    timings.note("running", &mut since);
    Ok(timings)
}

fn render(cluster: &Cluster) -> Result<Rendered> {
    let authority = Authority::new("components by hand")?;
    let bundle = BASE64.encode(authority.certificate().as_bytes());
    let capsule_chart = cluster.servers().chart("capsule")?;
    let vela_chart = cluster.servers().chart("vela-core")?;
    let capsule_values = format!(
        "crds: {{install: false}}\n\
         certManager: {{generateCertificates: false}}\n\
         tls: {{create: false, enableController: false}}\n\
         webhooks: {{service: {{caBundle: {bundle}}}}}\n\
         manager: {{options: {{leaderElection: {{enabled: false}}, clientConnectionQPS: 1000, clientConnectionBurst: 2000}}}}\n"
    );
    let vela_values = "multicluster: {enabled: false}\n\
                       admissionWebhooks: {patch: {enabled: false}}\n\
                       authentication: {enabled: true}\n\
                       applicationRevisionLimit: 10\n\
                       featureGates: {zstdApplicationRevision: false, zstdResourceTracker: false}\n\
                       optimize: {markWithProb: 1.0}\n\
                       image: {tag: v1.10.9}\n";
    let capsule = template(cluster, "capsule", &capsule_chart, "capsule-system", &capsule_values)?;
    let kubevela = template(cluster, "kubevela", &vela_chart, "vela-system", vela_values)?;
    let mut crds = crds_in(&capsule_chart.join("crds"))?;
    crds.extend(crds_in(&vela_chart.join("crds"))?);
    Ok(Rendered {
        crds,
        capsule: capsule.into_iter().filter(|object| kind(object) != "Secret").map(as_administrator).collect(),
        kubevela: kubevela.into_iter().map(|object| for_one_process(object, &bundle)).collect(),
        authority,
    })
}

fn template(
    cluster: &Cluster,
    release: &str,
    chart: &Path,
    namespace: &str,
    values: &str,
) -> Result<Vec<DynamicObject>> {
    let file = cluster.folder().join(format!("{release}-values.yaml"));
    fs::write(&file, values).with_context(|| format!("could not write {}", file.display()))?;
    let text = cluster.helm_ok(&[
        "template",
        release,
        &chart.display().to_string(),
        "--namespace",
        namespace,
        "--no-hooks",
        "--kube-version",
        "1.36.3",
        "--values",
        &file.display().to_string(),
    ])?;
    let mut objects = documents(&text)?;
    for object in &mut objects {
        if object.metadata.namespace.is_none() && !is_cluster_scoped(object) {
            object.metadata.namespace = Some(namespace.to_owned());
        }
    }
    Ok(objects)
}

fn is_cluster_scoped(object: &DynamicObject) -> bool {
    let kind = kind(object);
    kind.starts_with("Cluster") || kind.ends_with("WebhookConfiguration") || kind == "CapsuleConfiguration"
}

fn crds_in(folder: &Path) -> Result<Vec<DynamicObject>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
            found.extend(documents(&text).with_context(|| format!("in {}", path.display()))?);
        }
    }
    Ok(found)
}

/// Capsule lets only tenants' owners and administrators make tenant namespaces.
fn as_administrator(mut object: DynamicObject) -> DynamicObject {
    if kind(&object) == "CapsuleConfiguration" {
        object.data["spec"]["administrators"] = json!([{"kind": "User", "name": ADMIN}]);
    }
    object
}

/// The chart has no values for these: no leader election (a restart would wait 17 s for the old
/// lease), and the authority of the webhooks' certificate.
fn for_one_process(mut object: DynamicObject, bundle: &str) -> DynamicObject {
    if kind(&object) == "Deployment" {
        let args = &mut object.data["spec"]["template"]["spec"]["containers"][0]["args"];
        if let Some(args) = args.as_array_mut() {
            args.retain(|arg| arg != "--enable-leader-election");
        }
    }
    if is_webhook(&object)
        && let Some(webhooks) = object.data["webhooks"].as_array_mut()
    {
        for webhook in webhooks {
            webhook["clientConfig"]["caBundle"] = json!(bundle);
        }
    }
    object
}

fn certificates(authority: &Authority) -> Result<Vec<DynamicObject>> {
    let capsule = authority.server(&["capsule-webhook-service.capsule-system.svc"], &[])?;
    let vela = authority.server(&["vela-core-webhook.vela-system.svc"], &[])?;
    let secret = |namespace: &str, name: &str, ca: &str, identity: &Identity| {
        from_json(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "stringData": {"tls.crt": identity.certificate, "tls.key": identity.key, ca: authority.certificate()},
        }))
    };
    Ok(vec![
        secret("capsule-system", "capsule-tls", "ca.crt", &capsule)?,
        secret("vela-system", "kubevela-vela-core-admission", "ca", &vela)?,
    ])
}

async fn wait_available(cluster: &Cluster, namespace: &str, name: &str) -> Result<()> {
    let api: Api<Deployment> = Api::namespaced(cluster.kube_client(), namespace);
    poll::until(format!("deployment {name:?} to be available"), STEP_MAX, || async {
        let status = api.get(name).await.context("could not read the deployment")?.status.unwrap_or_default();
        let available = status.available_replicas.unwrap_or(0) > 0;
        let logs = cluster.folder().join("pods");
        Ok(Step::when(available, (), format!("no replica is available; logs in {}", logs.display())))
    })
    .await
}

/// One definition at a time may be refused because two share a WorkloadDefinition.
async fn apply_definition(cluster: &Cluster, definition: &DynamicObject) -> Result<()> {
    eventually(cluster, "KubeVela to accept a definition", definition).await
}

/// Applies until it is accepted: a webhook's endpoint takes a moment to be known everywhere.
async fn eventually(cluster: &Cluster, what: &str, object: &DynamicObject) -> Result<()> {
    poll::until(format!("{what} {:?}", object.name_any()), STEP_MAX, || async {
        Ok(Step::from_attempt(cluster.applier().apply(object).await.map(drop)))
    })
    .await
}

async fn wait_running(cluster: &Cluster) -> Result<()> {
    let gvk = GroupVersionKind::gvk("core.oam.dev", "v1beta1", "Application");
    let applications = cluster.applier().api(&gvk, Some("acme-apps")).await?;
    let pods: Api<Pod> = Api::namespaced(cluster.kube_client(), "acme-apps");
    poll::until("application \"shop\" to run with 3 pods", STEP_MAX, || async {
        let application = applications.get("shop").await.context("could not read the application")?;
        let status = &application.data["status"];
        let running = pods.list(&ListParams::default()).await.context("could not list pods")?;
        let running = running.iter().filter(|pod| pod_phase(pod) == Some("Running")).count();
        let done = status["status"] == "running" && running == 3;
        Ok(Step::when(done, (), format!("{running} pods running, status {status}")))
    })
    .await
}

fn pod_phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("", |types| types.kind.as_str())
}

fn is_webhook(object: &DynamicObject) -> bool {
    kind(object).ends_with("WebhookConfiguration")
}

fn is_definition(object: &DynamicObject) -> bool {
    kind(object).ends_with("Definition") && kind(object) != "CustomResourceDefinition"
}

fn from_json(value: serde_json::Value) -> Result<DynamicObject> {
    serde_json::from_value(value).context("not an object")
}

const TENANT: &str = "
apiVersion: capsule.clastix.io/v1beta2
kind: Tenant
metadata: {name: acme}
spec:
  namespaceOptions: {quota: 2}
  owners: [{kind: User, name: 'kubenova-test:admin', clusterRoles: [capsule-namespace-deleter]}]
";

const NAMESPACES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: acme-owner, labels: {capsule.clastix.io/tenant: acme}}
---
apiVersion: v1
kind: Namespace
metadata: {name: acme-apps, labels: {capsule.clastix.io/tenant: acme}}
";

const DEPLOYER_RIGHTS: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: kubenova-deployer, namespace: acme-owner}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: kubenova-deployer, namespace: acme-apps}
rules:
- {apiGroups: [core.oam.dev], resources: [applications], verbs: ['*']}
- {apiGroups: [apps], resources: [deployments, statefulsets, daemonsets], verbs: ['*']}
- {apiGroups: [apps], resources: [controllerrevisions], verbs: [get, list, watch]}
- {apiGroups: [batch], resources: [jobs, cronjobs], verbs: ['*']}
- {apiGroups: [''], resources: [services, configmaps, persistentvolumeclaims], verbs: ['*']}
- {apiGroups: [''], resources: [pods, events], verbs: [get, list, watch]}
- {apiGroups: [networking.k8s.io], resources: [ingresses], verbs: ['*']}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: kubenova-deployer, namespace: acme-apps}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: kubenova-deployer}
subjects: [{kind: ServiceAccount, name: kubenova-deployer, namespace: acme-owner}]
";

const APPLICATION: &str = "
apiVersion: core.oam.dev/v1beta1
kind: Application
metadata: {name: shop, namespace: acme-apps}
spec:
  components:
  - name: shop
    type: webservice
    properties:
      image: nginx:1.29
      ports: [{port: 80, expose: true}]
    traits:
    - {type: scaler, properties: {replicas: 3}}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_are_documents() {
        for text in [TENANT, NAMESPACES, DEPLOYER_RIGHTS, APPLICATION] {
            assert!(!documents(text).unwrap().is_empty());
        }
    }

    #[test]
    fn leader_election_goes_and_the_bundle_comes() {
        let deployment = from_json(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"},
            "spec": {"template": {"spec": {"containers": [{"args": ["--a", "--enable-leader-election"]}]}}},
        }))
        .unwrap();
        let changed = for_one_process(deployment, "b");
        assert_eq!(changed.data["spec"]["template"]["spec"]["containers"][0]["args"], json!(["--a"]));
        let hook = from_json(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "x"}, "webhooks": [{"clientConfig": {"service": {}}}],
        }))
        .unwrap();
        assert_eq!(for_one_process(hook, "b").data["webhooks"][0]["clientConfig"]["caBundle"], "b");
    }
}
