//! Applying documents to a test cluster, as its administrator.
//!
//! Guarantees: server-side apply (a PATCH creates the first object of a new kind at once, a POST
//! waits 2 s); kinds the API server does not know yet are asked for again until it does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::{Client, ResourceExt};

use crate::poll::{self, Step};

/// Our field manager.
const MANAGER: &str = "kubenova-test";
/// A new CRD is served well within a second; a loaded machine takes a few.
const KIND_SERVED_MAX: Duration = Duration::from_secs(30);
/// A few at once, as measured: more only queue in the API server.
const AT_ONCE: usize = 4;

/// The documents of a YAML stream, empty ones left out, Lists opened.
pub fn documents(yaml: &str) -> Result<Vec<DynamicObject>> {
    let values: Vec<serde_json::Value> = serde_saphyr::from_multiple(yaml).context("could not read YAML")?;
    let mut found = Vec::new();
    for value in values.into_iter().filter(|value| value.is_object()) {
        match value.get("items") {
            Some(serde_json::Value::Array(items)) => {
                for item in items {
                    found.push(object(item.clone())?);
                }
            }
            _ => found.push(object(value)?),
        }
    }
    Ok(found)
}

fn object(value: serde_json::Value) -> Result<DynamicObject> {
    let shown = value.to_string();
    let object: DynamicObject = serde_json::from_value(value)
        .with_context(|| format!("not a Kubernetes object: {}", shown.chars().take(200).collect::<String>()))?;
    if object.types.is_none() || object.metadata.name.is_none() {
        bail!("an object without kind or name: {}", shown.chars().take(200).collect::<String>());
    }
    Ok(object)
}

/// Applies objects, remembering which kinds the cluster has.
#[derive(Clone)]
pub struct Applier {
    client: Client,
    kinds: Arc<Mutex<HashMap<GroupVersionKind, (ApiResource, Scope)>>>,
}

impl Applier {
    /// For the API server behind `client`.
    pub fn new(client: Client) -> Self {
        Self { client, kinds: Arc::default() }
    }

    /// Applies the documents of a YAML stream; a few at once, in no particular order.
    pub async fn apply_yaml(&self, yaml: &str) -> Result<()> {
        self.apply_all(documents(yaml)?).await
    }

    /// Applies objects; a few at once, in no particular order.
    pub async fn apply_all(&self, objects: Vec<DynamicObject>) -> Result<()> {
        futures::stream::iter(objects)
            .map(|object| async move { self.apply(&object).await.map(drop) })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    /// Applies one object; an object without a namespace goes to `default` where its kind has one.
    pub async fn apply(&self, object: &DynamicObject) -> Result<DynamicObject> {
        let types = object.types.as_ref().context("an object without kind")?;
        let gvk = GroupVersionKind::try_from(types).context("not an API version")?;
        let api = self.api(&gvk, object.namespace().as_deref()).await?;
        let name = object.name_any();
        api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object))
            .await
            .with_context(|| format!("could not apply {} {name:?}", gvk.kind))
    }

    /// The API of a kind; waits until the cluster serves it.
    pub async fn api(&self, gvk: &GroupVersionKind, namespace: Option<&str>) -> Result<Api<DynamicObject>> {
        let known = self.kinds.lock().unwrap_or_else(PoisonError::into_inner).get(gvk).cloned();
        let (resource, scope) = match known {
            Some(found) => found,
            None => {
                let found = self.discover(gvk).await?;
                self.kinds.lock().unwrap_or_else(PoisonError::into_inner).insert(gvk.clone(), found.clone());
                found
            }
        };
        Ok(match scope {
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), namespace.unwrap_or("default"), &resource),
        })
    }

    async fn discover(&self, gvk: &GroupVersionKind) -> Result<(ApiResource, Scope)> {
        let what = format!("the API server to serve {} {}", gvk.api_version(), gvk.kind);
        poll::until(what, KIND_SERVED_MAX, || async {
            let found = pinned_kind(&self.client, gvk).await.context("not served yet");
            Ok(Step::from_attempt(found.map(|(resource, capabilities)| (resource, capabilities.scope))))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_and_lists_are_opened() {
        let yaml = "---\n# only a comment\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n\
                    apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: b}}\n";
        let names: Vec<_> = documents(yaml).unwrap().iter().map(ResourceExt::name_any).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn an_object_needs_kind_and_name() {
        assert!(documents("metadata: {name: a}").is_err());
        assert!(documents("apiVersion: v1\nkind: Secret\nmetadata: {}").is_err());
    }
}
