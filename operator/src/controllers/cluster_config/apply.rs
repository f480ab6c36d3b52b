//! Applying a component's objects in waves, waiting between them, and pruning what a newer chart no longer has.

use super::{
    authority::Authority,
    outcome::{Outcome, refused},
};
use crate::apiserver::{dynamic, error::chain, verbs};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt as _,
    core::{DynamicObject, ObjectMeta},
};
use kubenova_operator_core::{
    application::failure::{HasHealth as _, Health},
    components::{
        Component, Plan, inventory,
        object::Key,
        render::{COMPONENT_LABEL, VERSION_LABEL},
        waves::{self, Availability, Former, Wave},
    },
    drift,
};
use serde_json::Value;
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Objects of one wave applied at the same time. More only queues in the API server.
const AT_ONCE: usize = 4;
/// How long one reconcile waits for CRDs to be served; they take a fraction of a second.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(30);
/// How long one reconcile waits for a Deployment; pulling an image may take longer, then the next one goes on.
const AVAILABLE_WITHIN: Duration = Duration::from_secs(90);
/// Pause between two looks at the pods of a Deployment that is waited for: what a pod says at its start is often over by then.
const PODS_EVERY: Duration = Duration::from_secs(10);
/// Pause between two reads of what is waited for.
const POLL: Duration = Duration::from_millis(500);
/// Attempts at an object while the endpoint of a webhook that just started spreads: ten seconds.
const ATTEMPTS: u32 = 20;

/// What this process applied, and what of the object was its own then: while that is still so the object need not be
/// applied again. Applying an unchanged CRD costs the API server 0.3 s, all of them together seven.
///
/// The resourceVersion would not do: the API server writes the status of a CRD and KubeVela that of a definition right
/// after each is applied.
#[derive(Debug, Default)]
pub struct ApplyCache(Mutex<HashMap<Key, Applied>>);

#[derive(Debug)]
struct Applied {
    body: u64,
    ownership: String,
}

impl ApplyCache {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Applied>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when this body may have been applied, so that it is worth looking at the object.
    fn holds(&self, key: &Key, body: u64) -> bool {
        self.lock().get(key).is_some_and(|applied| applied.body == body)
    }

    fn is_in_place(&self, key: &Key, body: u64, live: &ObjectMeta) -> bool {
        self.lock().get(key).is_some_and(|applied| applied.body == body && applied.ownership == drift::ownership(live))
    }

    fn insert(&self, key: Key, body: u64, left: &ObjectMeta) {
        self.lock().insert(key, Applied { body, ownership: drift::ownership(left) });
    }
}

fn body_of(object: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.to_string().hash(&mut hasher);
    hasher.finish()
}

/// Applies everything, wave by wave.
pub(super) async fn apply(
    client: &Client,
    cache: &ApplyCache,
    authority: &Authority,
    plan: &Plan,
    objects: Vec<Value>,
    former_version: &str,
) -> Result<(), Outcome> {
    for (wave, objects) in waves::sort(objects) {
        if wave == Wave::Certificates {
            for certificate in &plan.certificates {
                let served = authority.serve(client, plan.component, certificate).await;
                served.map_err(|error| Outcome::failed("CertificateFailed", chain(&error)))?;
            }
        }
        // Boxed and collected first: a closure that lends inside the stream would keep this future from being Send.
        let applying: Vec<_> = objects.iter().map(|object| apply_one(client, cache, wave, object).boxed()).collect();
        stream::iter(applying).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        for object in &objects {
            let Some(key) = Key::of(object) else { continue };
            match wave {
                Wave::Definitions => established(client, &key).await?,
                Wave::Workloads => available(client, plan.component, &key, former_version).await?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// Applies one object. Objects that go through a webhook are tried for a while: its endpoint spreads after the
/// Deployment is available, and KubeVela refuses a definition once while it makes another for it.
async fn apply_one(client: &Client, cache: &ApplyCache, wave: Wave, object: &Value) -> Result<(), Outcome> {
    let Some(key) = Key::of(object) else { return Ok(()) };
    let body = body_of(object);
    if cache.holds(&key, body) {
        let live = dynamic::metadata(client, &key).await.map_err(|error| refused(&error))?;
        if live.is_some_and(|live| cache.is_in_place(&key, body, &live)) {
            return Ok(());
        }
    }
    let attempts = if wave >= Wave::Webhooks || wave == Wave::Configuration { ATTEMPTS } else { 1 };
    let mut attempt = 1;
    loop {
        match dynamic::apply(client, object).await {
            Ok(applied) => {
                cache.insert(key, body, &applied.metadata);
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

/// Waits for a Deployment. One that does not come up stops the waves: what depends on it stays as it was, and so do the pods of
/// the former version.
async fn available(client: &Client, component: Component, key: &Key, former_version: &str) -> Result<(), Outcome> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &key.namespace);
    let began = Instant::now();
    let mut looked = began;
    let mut pods_say = None;
    loop {
        let live = verbs::get(&deployments, &key.name).await.map_err(|error| refused(&error))?;
        let value = live.as_ref().and_then(|live| serde_json::to_value(live).ok());
        let why = match value.as_ref().map(waves::availability) {
            Some(Availability::Available) => return Ok(()),
            Some(Availability::Waiting(why)) => why,
            None => "it is gone".to_owned(),
        };
        if let Some(live) = live.as_ref().filter(|_| looked.elapsed() >= PODS_EVERY) {
            looked = Instant::now();
            pods_say = failing_pod(client, live).await?;
        }
        // What a pod says does not change by waiting here; the next reconcile looks again.
        if pods_say.is_some() || began.elapsed() >= AVAILABLE_WITHIN {
            let available = live.and_then(|live| live.status?.available_replicas).unwrap_or_default();
            let former = Former { version: former_version.to_owned(), available: available.into() };
            let former = Some(former).filter(|former| !former.version.is_empty());
            let why = pods_say.unwrap_or(why);
            let message = waves::not_available(component, &key.name, &why, former.as_ref());
            return Err(Outcome::failed("NotAvailable", message));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What keeps the pods of a Deployment from being ready, as they say it.
async fn failing_pod(client: &Client, deployment: &Deployment) -> Result<Option<String>, Outcome> {
    let lacking = match deployment.health() {
        Health::Fine => return Ok(None),
        Health::Failed(failure) => return Ok(Some(failure.to_string())),
        Health::LacksPods(lacking) | Health::NotReady(lacking) => lacking,
    };
    let namespace = deployment.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let pods = verbs::list(&pods, &lacking.selector).await.map_err(|error| refused(&error))?;
    Ok(lacking.failing_pod(&pods).map(|failure| failure.to_string()))
}

async fn read(client: &Client, key: &Key) -> Result<Option<Value>, Outcome> {
    let object = dynamic::get(client, key).await.map_err(|error| refused(&error))?;
    Ok(object.and_then(|object| serde_json::to_value(object).ok()))
}

/// Deletes what the older inventory has and the newer lacks, if it is still ours.
pub(super) async fn prune(
    client: &Client,
    component: Component,
    old: &[String],
    new: &[String],
) -> Result<(), Outcome> {
    for key in inventory::orphans(old, new) {
        let Some(object) = dynamic::get(client, &key).await.map_err(|error| refused(&error))? else { continue };
        if !is_labelled(&object, component) {
            continue;
        }
        let (uid, version) = (object.uid().unwrap_or_default(), object.resource_version());
        let api = dynamic::api(client, &key);
        verbs::delete_exact(&api, &key.name, &uid, version.as_deref()).await.map_err(|error| refused(&error))?;
        let last_version = object.labels().get(VERSION_LABEL).map_or("", String::as_str);
        tracing::info!(object = %key, last_version, "deleted an object that the component's chart no longer has");
    }
    Ok(())
}

pub(super) fn is_labelled(object: &DynamicObject, component: Component) -> bool {
    object.labels().get(COMPONENT_LABEL).is_some_and(|label| label == component.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
    use kubenova_crds::FIELD_MANAGER;
    use serde_json::json;

    #[test]
    fn an_object_is_applied_again_when_the_chart_or_a_field_of_ours_changed_and_not_for_a_status() {
        let cache = ApplyCache::default();
        let key: Key = "/v1/ConfigMap/n/a".parse().unwrap();
        let (body, other) = (body_of(&json!({"a": 1})), body_of(&json!({"a": 2})));
        let entry = |manager: &str, operation: &str, fields: Value| ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            operation: Some(operation.to_owned()),
            fields_v1: Some(FieldsV1(fields)),
            ..ManagedFieldsEntry::default()
        };
        let ours = entry(FIELD_MANAGER, "Apply", json!({"f:a": {}}));
        let left = ObjectMeta { managed_fields: Some(vec![ours.clone()]), ..ObjectMeta::default() };
        assert!(!cache.holds(&key, body));
        cache.insert(key.clone(), body, &left);
        assert!(cache.holds(&key, body) && !cache.holds(&key, other));
        let status = entry("kube-apiserver", "Update", json!({"f:status": {}}));
        let reported = ObjectMeta {
            resource_version: Some("8".to_owned()),
            managed_fields: Some(vec![ours, status]),
            ..ObjectMeta::default()
        };
        assert!(cache.is_in_place(&key, body, &reported));
        assert!(!cache.is_in_place(&key, other, &reported), "the chart has another body");
        let taken = ObjectMeta { managed_fields: Some(vec![entry("x", "Update", json!({"f:a": {}}))]), ..reported };
        assert!(!cache.is_in_place(&key, body, &taken), "another client changed a field of ours");
    }
}
