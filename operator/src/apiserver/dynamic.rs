//! Objects of kinds that are only known at run time: what charts render, and what inventories name.

use super::{
    error::{Error, Verb},
    verbs,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta},
};
use kubenova_crds::FIELD_MANAGER;
use kubenova_operator_core::components::object::Key;
use serde_json::Value;

/// The endpoint of an object. The plural is derived from the kind, as it holds for every kind a chart renders here; no
/// discovery is asked.
#[must_use]
pub fn api(client: &Client, key: &Key) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(&key.group, &key.version, &key.kind));
    if key.namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), &key.namespace, &resource)
    }
}

/// Server-side apply of a rendered object.
///
/// # Errors
/// When the call fails, or the value is no object of Kubernetes.
pub async fn apply(client: &Client, object: &Value) -> Result<DynamicObject, Error> {
    let (key, typed) = typed(object, Verb::Apply)?;
    verbs::apply(&api(client, &key), &typed).await
}

/// Merge patch of an object that is there; nothing when it is not.
///
/// # Errors
/// When the call fails.
pub async fn merge(client: &Client, key: &Key, patch: &Value) -> Result<(), Error> {
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patched = api(client, key).patch_metadata(&key.name, &params, &Patch::Merge(patch)).await;
    match patched.map_err(|source| Error::new(Verb::Apply, &key.kind, &key.name, source)) {
        Err(error) if error.is_not_found() => Ok(()),
        patched => patched.map(drop),
    }
}

/// The object as it is, or `None`.
///
/// # Errors
/// When the call fails; a kind that is not served reads as absent.
pub async fn get(client: &Client, key: &Key) -> Result<Option<DynamicObject>, Error> {
    verbs::get(&api(client, key), &key.name).await
}

/// The metadata of an object, without reading its body; `None` when it is not there.
pub async fn metadata(client: &Client, key: &Key) -> Result<Option<ObjectMeta>, Error> {
    let found = api(client, key).get_metadata_opt(&key.name).await;
    let found = found.map_err(|source| Error::new(Verb::Read, &key.kind, &key.name, source))?;
    Ok(found.map(|found| found.metadata))
}

fn typed(object: &Value, verb: Verb) -> Result<(Key, DynamicObject), Error> {
    let refused = |source| Error::new(verb, object["kind"].as_str().unwrap_or("object"), "", source);
    let typed = serde_json::from_value(object.clone()).map_err(|error| refused(kube::Error::SerdeError(error)))?;
    let nameless = || <serde_json::Error as serde::de::Error>::custom("no apiVersion, kind or name");
    let key = Key::of(object).ok_or_else(|| refused(kube::Error::SerdeError(nameless())))?;
    Ok((key, typed))
}
