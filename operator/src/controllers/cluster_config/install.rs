//! One component: is it allowed, is it ours, what does it render to, and applying that in waves.

use super::{InstallContext, authority::Authority, chart, report};
use crate::apiserver::{self, dynamic, error::chain, verbs};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{apps::v1::Deployment, rbac::v1::ClusterRole};
use kube::{Api, Client, ResourceExt as _, core::DynamicObject};
use kubenova_crds::{cluster_config::NovaClusterConfig, conditions::ConditionStatus, labels::FOR_COMPONENT};
use kubenova_operator_core::components::{
    self, Component, Plan, Settings, capsule_proxy, inventory,
    object::Key,
    rbac_label::{self, Verdict},
    render::{self, COMPONENT_LABEL, VERSION_LABEL},
    waves::{self, Availability, Wave},
};
use serde_json::Value;
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Objects of one wave applied at the same time. More only queues in the API server.
const AT_ONCE: usize = 4;
/// How long one pass waits for CRDs to be served; they take a fraction of a second.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(30);
/// How long one pass waits for a Deployment; pulling an image may take longer, then the next pass goes on.
const AVAILABLE_WITHIN: Duration = Duration::from_secs(90);
/// A tenant may name its workload as it likes and must not stop an upgrade by it: KubeVela and Capsule label theirs.
const NOT_OF_A_TENANT: &str = "!app.oam.dev/name,!capsule.clastix.io/managed-by,!projectcapsule.dev/tenant";
const POLL: Duration = Duration::from_millis(500);
/// Attempts at an object while a fresh webhook's endpoint spreads.
const ATTEMPTS: u32 = 20;

/// What the passes of this process applied, and what state that left: an object that still stands in that state need
/// not be applied again. Applying an unchanged CRD costs the API server 0.3 s, all of them together seven.
#[derive(Debug, Default)]
pub struct ApplyCache(Mutex<HashMap<Key, (u64, String)>>);

impl ApplyCache {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (u64, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recall(&self, key: &Key, body: u64) -> Option<String> {
        self.lock().get(key).filter(|(applied, _)| *applied == body).map(|(_, version)| version.clone())
    }

    fn keep(&self, key: Key, body: u64, resource_version: String) {
        self.lock().insert(key, (body, resource_version));
    }
}

fn body_of(object: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.to_string().hash(&mut hasher);
    hasher.finish()
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) component: Component,
    pub(super) version: String,
    pub(super) adopt: bool,
    pub(super) replicas: u32,
    pub(super) public_url: String,
    pub(super) crd_set: String,
    pub(super) inventory: Vec<String>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Not wanted; what runs is left alone.
    Disabled,
    /// It runs as wanted.
    Ready { version: String, inventory: Vec<String> },
    /// It does not, for this reason.
    NotReady { reason: &'static str, message: String },
}

impl Outcome {
    pub(super) fn failed(reason: &'static str, message: impl Into<String>) -> Self {
        Self::NotReady { reason, message: message.into() }
    }

    /// Status, reason and sentence of the condition.
    pub(super) fn words(&self, component: Component) -> (ConditionStatus, &'static str, String) {
        let title = component.title();
        match self {
            Self::Disabled => {
                let message =
                    format!("{title} is off in spec.components.{}; nothing was removed", component.spec_key());
                (ConditionStatus::True, "Disabled", message)
            }
            Self::Ready { version, .. } => {
                (ConditionStatus::True, "Available", format!("{title} {version} is available"))
            }
            Self::NotReady { reason, message } => (ConditionStatus::False, reason, message.clone()),
        }
    }
}

/// An apiserver failure as an outcome.
fn refused(error: &apiserver::Error) -> Outcome {
    if error.is_forbidden() {
        let message = format!(
            "{}; if a right is missing, an administrator of this cluster gives it with: helm upgrade kubenova-operator \
             <chart of this release> --namespace kubenova-system --reuse-values",
            chain(error)
        );
        return Outcome::failed("Forbidden", message);
    }
    Outcome::failed("ApplyFailed", format!("{}; trying again", chain(error)))
}

/// Brings one component to what is wanted.
pub(super) async fn install(
    ctx: &InstallContext,
    memory: &ApplyCache,
    configs: &Api<NovaClusterConfig>,
    authority: &Authority,
    wanted: &Wanted,
) -> Outcome {
    let client = ctx.apiserver.client();
    let attempt = async {
        // Before the roles: a version nobody carries is mended by another Operator, and that brings its roles.
        let folder = chart::locate(&ctx.charts_dir, wanted.component, &wanted.version)
            .map_err(|error| Outcome::failed(error.reason(), chain(&error)))?;
        fits(&client, wanted).await?;
        is_ours_to_run(&client, wanted).await?;
        let (plan, objects) = build(ctx, authority, wanted, &folder).await?;
        let inventory = inventory::lines(&objects);
        let union = inventory::union(&wanted.inventory, &inventory);
        report::intent(configs, wanted.component, &wanted.version, &union).await.map_err(|error| refused(&error))?;
        apply(&client, memory, authority, &plan, objects).await?;
        prune(&client, wanted.component, &union, &inventory).await?;
        Ok(Outcome::Ready { version: wanted.version.clone(), inventory })
    };
    attempt.await.unwrap_or_else(|outcome| outcome)
}

/// The roles in the cluster were written for this version.
async fn fits(client: &Client, wanted: &Wanted) -> Result<(), Outcome> {
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let role =
        verbs::get(&roles, &rbac_label::cluster_role(wanted.component)).await.map_err(|error| refused(&error))?;
    let label = role.as_ref().map(|role| role.labels().get(FOR_COMPONENT).map_or("", String::as_str));
    match rbac_label::judge(wanted.component, &wanted.version, label, wanted.adopt) {
        Verdict::Fits => Ok(()),
        Verdict::UpgradeNeeded { found } => {
            let message = Verdict::message(wanted.component, &wanted.version, found.as_deref());
            Err(Outcome::failed(Verdict::REASON, message))
        }
    }
}

/// No install of others stands in the way, or it may be taken over.
async fn is_ours_to_run(client: &Client, wanted: &Wanted) -> Result<(), Outcome> {
    let component = wanted.component;
    let deployments: Api<Deployment> = Api::all(client.clone());
    let selector = format!("app.kubernetes.io/name={},!{COMPONENT_LABEL},{NOT_OF_A_TENANT}", component.app_name());
    let foreign = verbs::list(&deployments, &selector).await.map_err(|error| refused(&error))?;
    let title = component.title();
    for deployment in &foreign {
        let (namespace, name) = (deployment.namespace().unwrap_or_default(), deployment.name_any());
        if namespace != component.namespace() || name != component.deployment() {
            let message = format!(
                "another {title} runs as Deployment {namespace}/{name}, and two would fight over the same objects; \
                 remove it or move it to {}/{}",
                component.namespace(),
                component.deployment(),
            );
            return Err(Outcome::failed("InstalledElsewhere", message));
        }
        if !wanted.adopt {
            let message = format!(
                "a {title} that KubeNova did not install runs in {namespace}; take it over with \
                 spec.components.{}.adopt: true, or remove it",
                component.spec_key(),
            );
            return Err(Outcome::failed("AlreadyInstalled", message));
        }
        let found = version_of(deployment).unwrap_or_default();
        if found != wanted.version {
            let message = format!(
                "the {title} to take over has version {found:?}, not {}; ask for its version first, then upgrade",
                wanted.version,
            );
            return Err(Outcome::failed("VersionClash", message));
        }
    }
    Ok(())
}

/// The version in the tag of a Deployment's first image, without its `v`.
fn version_of(deployment: &Deployment) -> Option<String> {
    let pod = deployment.spec.template.spec.as_ref()?;
    let image = pod.containers.first()?.image.as_deref()?;
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let (_, tag) = name.rsplit_once('/').map_or(name, |(_, last)| last).rsplit_once(':')?;
    Some(tag.trim_start_matches('v').to_owned())
}

/// Renders the chart and makes of it what is applied.
async fn build(
    ctx: &InstallContext,
    authority: &Authority,
    wanted: &Wanted,
    chart: &Path,
) -> Result<(Plan, Vec<Value>), Outcome> {
    let component = wanted.component;
    let public_host = match wanted.public_url.as_str() {
        "" => None,
        url => Some(capsule_proxy::host_of(url).ok_or_else(|| {
            let message =
                format!("spec.components.capsuleProxy.publicURL {url:?} is not of the form https://<host>[:<port>]");
            Outcome::failed("InvalidSpec", message)
        })?),
    };
    let settings = Settings {
        version: wanted.version.clone(),
        replicas: wanted.replicas,
        operator_user: format!("system:serviceaccount:{}:kubenova-operator", ctx.state_namespace),
        ca_bundle: authority.bundle().to_owned(),
        public_host,
        crd_set: wanted.crd_set.clone(),
    };
    let plan = components::plan(component, &settings);
    let server = ctx.apiserver.version().await.map_err(|error| refused(&error))?;
    let rendered = chart::render(&ctx.helm, chart, &plan, &server).await;
    let rendered = rendered.map_err(|error| Outcome::failed(error.reason(), chain(&error)))?;
    let objects = render::prepare(&plan, &settings, &rendered);
    let objects = objects.map_err(|error| Outcome::failed("RenderFailed", chain(&error)))?;
    Ok((plan, objects))
}

/// Applies everything, wave by wave.
async fn apply(
    client: &Client,
    memory: &ApplyCache,
    authority: &Authority,
    plan: &Plan,
    objects: Vec<Value>,
) -> Result<(), Outcome> {
    for (wave, objects) in waves::sort(objects) {
        if wave == Wave::Certificates {
            for certificate in &plan.certificates {
                let served = authority.serve(client, plan.component, certificate).await;
                served.map_err(|error| Outcome::failed("CertificateFailed", chain(&error)))?;
            }
        }
        // Boxed and collected first: a closure that lends inside the stream would keep this future from being Send.
        let applying: Vec<_> = objects.iter().map(|object| apply_one(client, memory, wave, object).boxed()).collect();
        stream::iter(applying).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        for object in &objects {
            let Some(key) = Key::of(object) else { continue };
            match wave {
                Wave::Definitions => established(client, &key).await?,
                Wave::Workloads => available(client, &key).await?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// Applies one object. Objects that go through a webhook are tried for a while: its endpoint spreads after the
/// Deployment is available, and KubeVela refuses a definition once while it makes another for it.
async fn apply_one(client: &Client, memory: &ApplyCache, wave: Wave, object: &Value) -> Result<(), Outcome> {
    let Some(key) = Key::of(object) else { return Ok(()) };
    let body = body_of(object);
    if let Some(left) = memory.recall(&key, body) {
        let present = dynamic::resource_version(client, &key).await.map_err(|error| refused(&error))?;
        if present.as_ref() == Some(&left) {
            return Ok(());
        }
    }
    let attempts = if wave >= Wave::Webhooks || wave == Wave::Configuration { ATTEMPTS } else { 1 };
    let mut attempt = 1;
    loop {
        match dynamic::apply(client, object).await {
            Ok(applied) => {
                memory.keep(key, body, applied.resource_version().unwrap_or_default());
                return Ok(());
            }
            Err(error) if error.is_forbidden() || attempt >= attempts => return Err(refused(&error)),
            Err(_) => attempt += 1,
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn established(client: &Client, key: &Key) -> Result<(), Outcome> {
    let poll = async {
        loop {
            let crd = read(client, key).await?;
            if crd.as_ref().is_some_and(waves::is_established) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let late =
        || Outcome::failed("NotEstablished", format!("the API server does not serve {} yet; trying again", key.name));
    tokio::time::timeout(ESTABLISHED_WITHIN, poll).await.unwrap_or_else(|_| Err(late()))
}

async fn available(client: &Client, key: &Key) -> Result<(), Outcome> {
    let mut last = String::from("it was not looked at");
    let poll = async {
        loop {
            match read(client, key).await?.as_ref().map(waves::availability) {
                Some(Availability::Available) => return Ok(()),
                Some(Availability::Waiting(why)) => last = why,
                None => "it is gone".clone_into(&mut last),
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let finished = tokio::time::timeout(AVAILABLE_WITHIN, poll).await;
    finished.unwrap_or_else(|_| {
        let message = format!(
            "Deployment {}/{} is not available: {last}; see: kubectl -n {} describe deployment {}",
            key.namespace, key.name, key.namespace, key.name,
        );
        Err(Outcome::failed("NotAvailable", message))
    })
}

async fn read(client: &Client, key: &Key) -> Result<Option<Value>, Outcome> {
    let object = dynamic::get(client, key).await.map_err(|error| refused(&error))?;
    Ok(object.and_then(|object| serde_json::to_value(object).ok()))
}

/// Removes what the older inventory has and the newer lacks, if it is still ours.
async fn prune(client: &Client, component: Component, old: &[String], new: &[String]) -> Result<(), Outcome> {
    for key in inventory::orphans(old, new) {
        let Some(object) = dynamic::get(client, &key).await.map_err(|error| refused(&error))? else { continue };
        if !is_labelled(&object, component) {
            continue;
        }
        let (uid, version) = (object.uid().unwrap_or_default(), object.resource_version());
        let api = dynamic::api(client, &key);
        verbs::delete_exact(&api, &key.name, &uid, version.as_deref()).await.map_err(|error| refused(&error))?;
        let last_version = object.labels().get(VERSION_LABEL).map_or("", String::as_str);
        tracing::info!(object = %key, last_version, "removed what the component's chart no longer has");
    }
    Ok(())
}

fn is_labelled(object: &DynamicObject, component: Component) -> bool {
    object.labels().get(COMPONENT_LABEL).is_some_and(|label| label == component.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(image: &str) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "x"},
            "spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "c", "image": image}]}}}
        }))
        .unwrap()
    }

    #[test]
    fn a_version_is_read_from_an_image() {
        assert_eq!(version_of(&deployment("registry.test:5000/a/b:v0.14.0")), Some("0.14.0".to_owned()));
        assert_eq!(version_of(&deployment("a/b:1.2@sha256:00")), Some("1.2".to_owned()));
        assert_eq!(version_of(&deployment("registry.test:5000/a/b")), None);
    }

    #[test]
    fn an_object_is_recalled_only_with_the_same_body() {
        let memory = ApplyCache::default();
        let key: Key = "/v1/ConfigMap/n/a".parse().unwrap();
        memory.keep(key.clone(), body_of(&json!({"a": 1})), "7".to_owned());
        assert_eq!(memory.recall(&key, body_of(&json!({"a": 1}))), Some("7".to_owned()));
        assert_eq!(memory.recall(&key, body_of(&json!({"a": 2}))), None);
    }

    #[test]
    fn every_outcome_has_a_sentence() {
        let outcomes = [
            Outcome::Disabled,
            Outcome::Ready { version: "1".to_owned(), inventory: Vec::new() },
            Outcome::failed("NotAvailable", "x"),
        ];
        for outcome in outcomes {
            let (_, reason, message) = outcome.words(Component::Capsule);
            assert!(!reason.is_empty() && !message.is_empty());
        }
    }
}
