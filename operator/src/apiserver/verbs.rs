//! Reading and writing objects.

use super::error::{Error, Verb};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::{DeserializeGuard, ObjectList, Request, error_boundary::InvalidObject},
};
use kubenova_crds::FIELD_MANAGER;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

pub trait Object: Resource + Clone + Debug + Serialize + DeserializeOwned {}
impl<K: Resource + Clone + Debug + Serialize + DeserializeOwned> Object for K {}

/// Objects in one page of a list. An inbox record or an Application may have 900 KB, and a page is held whole.
pub(super) const PAGE: u32 = 50;

/// The same without bodies: managed fields are most of what is left, a few KB each.
const METADATA_PAGE: u32 = 500;

/// The plural of the kind, which ends the path.
pub(super) fn kind_of<K: Resource>(api: &Api<K>) -> String {
    api.resource_url().rsplit('/').next().unwrap_or_default().to_owned()
}

fn failed<K: Object>(api: &Api<K>, verb: Verb, name: &str) -> impl FnOnce(kube::Error) -> Error {
    let kind = kind_of(api);
    let name = api.namespace().map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
    move |source| Error::new(verb, &kind, &name, source)
}

/// The object, or `None` when it is not there.
pub async fn get<K: Object>(api: &Api<K>, name: &str) -> Result<Option<K>, Error> {
    api.get_opt(name).await.map_err(failed(api, Verb::Read, name))
}

/// What a list has shown.
#[derive(Debug)]
pub struct Listed<T> {
    pub objects: Vec<T>,
    /// Nothing was skipped.
    pub is_complete: bool,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { objects: Vec::new(), is_complete: true }
    }
}

impl<K: Resource> Listed<K> {
    fn take(&mut self, page: Vec<DeserializeGuard<K>>) {
        let expected = self.objects.len() + page.len();
        self.objects.extend(page.into_iter().filter_map(decoded));
        self.is_complete &= self.objects.len() == expected;
    }
}

/// All objects with these labels (an empty selector means all), read page by page. An object that cannot be decoded is
/// skipped and logged: one malformed object must not hide the others.
pub async fn list<K: Object>(api: &Api<K>, label_selector: &str) -> Result<Vec<K>, Error> {
    Ok(list_whole(api, label_selector).await?.objects)
}

/// The same, for whoever concludes from the absence of an object that it is gone.
pub async fn list_whole<K: Object>(api: &Api<K>, label_selector: &str) -> Result<Listed<K>, Error> {
    list_by(api, ListParams::default().labels(label_selector).limit(PAGE)).await
}

/// The same as the API server has it in memory, where the next event of a watch corrects what is a moment old: the answer
/// does not wait until that memory is current, which takes up to 100 ms.
pub async fn list_recent<K: Object>(api: &Api<K>, label_selector: &str) -> Result<Vec<K>, Error> {
    Ok(list_by(api, ListParams::default().labels(label_selector).match_any()).await?.objects)
}

/// The same by fields instead of labels.
pub async fn list_recent_by_fields<K: Object>(api: &Api<K>, field_selector: &str) -> Result<Vec<K>, Error> {
    Ok(list_by(api, ListParams::default().fields(field_selector).match_any()).await?.objects)
}

async fn list_by<K: Object>(api: &Api<K>, mut params: ListParams) -> Result<Listed<K>, Error> {
    let mut listed = Listed::default();
    loop {
        let request = Request::new(api.resource_url()).list(&params).map_err(kube::Error::BuildRequest);
        let page = match request {
            Ok(request) => api.clone().into_client().request::<ObjectList<DeserializeGuard<K>>>(request).await,
            Err(error) => Err(error),
        };
        let selector = params.label_selector.as_ref().or(params.field_selector.as_ref());
        let selector = selector.map(String::as_str).unwrap_or_default();
        let page = page.map_err(failed(api, Verb::List, selector))?;
        listed.take(page.items);
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => return Ok(listed),
        }
    }
}

/// The metadata of the object, or `None` when it is not there or its kind is not installed.
pub async fn get_metadata<K: Object>(api: &Api<K>, name: &str) -> Result<Option<ObjectMeta>, Error> {
    let found = api.get_metadata_opt(name).await.map_err(failed(api, Verb::Read, name))?;
    Ok(found.map(|found| found.metadata))
}

/// The metadata of all objects with these labels, read page by page; none when the kind is not installed.
pub async fn list_metadata<K: Object>(api: &Api<K>, label_selector: &str) -> Result<Vec<ObjectMeta>, Error> {
    let mut params = ListParams::default().labels(label_selector).limit(METADATA_PAGE);
    let mut objects = Vec::new();
    loop {
        let page = match api.list_metadata(&params).await.map_err(failed(api, Verb::List, label_selector)) {
            Err(error) if error.is_not_found() => return Ok(objects),
            page => page?,
        };
        objects.extend(page.items.into_iter().map(|object| object.metadata));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => return Ok(objects),
        }
    }
}

/// The object, unless it could not be decoded.
pub(super) fn decoded<K: Resource>(guarded: DeserializeGuard<K>) -> Option<K> {
    match guarded.0 {
        Ok(object) => Some(object),
        Err(InvalidObject { error, metadata }) => {
            log_skipped(&metadata, &error);
            None
        }
    }
}

pub(super) fn log_skipped(metadata: &ObjectMeta, error: &str) {
    let ObjectMeta { name, namespace, uid, .. } = metadata;
    tracing::warn!(
        object.name = name,
        object.namespace = namespace,
        object.uid = uid,
        error,
        "skipped an object that cannot be decoded; correct or delete it"
    );
}

/// Server-side apply of the whole object, as field manager `kubenova`, with force. With `uid` and `resourceVersion` in
/// the metadata it touches only that very object in that very state.
///
/// # Errors
/// When the call fails; a conflict when `uid` or `resourceVersion` no longer match.
pub async fn apply<K: Object>(api: &Api<K>, object: &K) -> Result<K, Error> {
    let name = object.name_any();
    let mut object = object.clone();
    // The API server refuses an apply that names who manages its fields.
    object.meta_mut().managed_fields = None;
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&name, &params, &Patch::Apply(&object)).await.map_err(failed(api, Verb::Apply, &name))
}

/// Creates the object; `None` when one of that name is there already.
pub async fn create_if_absent<K: Object>(api: &Api<K>, object: &K) -> Result<Option<K>, Error> {
    match create(api, object).await {
        Ok(created) => Ok(Some(created)),
        // 409 on a create is "already exists"; a generated name cannot meet one.
        Err(error) if error.is_conflict() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates the object.
///
/// # Errors
/// When the call fails; a conflict when one of that name is there.
pub async fn create<K: Object>(api: &Api<K>, object: &K) -> Result<K, Error> {
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    api.create(&params, object).await.map_err(failed(api, Verb::Create, &object.name_any()))
}

/// Replaces the object: a PUT. With a `resourceVersion` it is a compare-and-swap.
///
/// # Errors
/// When the call fails; a conflict when the resourceVersion is not the present one.
pub async fn replace<K: Object>(api: &Api<K>, object: &K) -> Result<K, Error> {
    let name = object.name_any();
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    api.replace(&name, &params, object).await.map_err(failed(api, Verb::Replace, &name))
}

/// Result of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone, or was already.
    Gone,
    /// Finalizers hold it; it will go.
    Terminating,
}

/// Deletes exactly the object that was read: this uid and, if given, this resourceVersion.
///
/// # Errors
/// When the call fails; a conflict when another object has taken the name or this one has changed.
pub async fn delete_exact<K: Object>(
    api: &Api<K>,
    name: &str,
    uid: &str,
    resource_version: Option<&str>,
) -> Result<Deleted, Error> {
    let preconditions =
        Preconditions { uid: Some(uid.to_owned()), resource_version: resource_version.map(str::to_owned) };
    delete_by(api, name, DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() }).await
}

/// The same, where the object stays until what it owns is gone: a Deployment until its pods are.
///
/// # Errors
/// As of [`delete_exact`].
pub async fn delete_after_dependents<K: Object>(api: &Api<K>, name: &str, uid: &str) -> Result<Deleted, Error> {
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    delete_by(api, name, DeleteParams { preconditions: Some(preconditions), ..DeleteParams::foreground() }).await
}

async fn delete_by<K: Object>(api: &Api<K>, name: &str, params: DeleteParams) -> Result<Deleted, Error> {
    match api.delete(name, &params).await.map_err(failed(api, Verb::Delete, name)) {
        // The object itself comes back while finalizers hold it, a bare status once it is gone.
        Ok(answer) if answer.is_left() => Ok(Deleted::Terminating),
        Ok(_) => Ok(Deleted::Gone),
        Err(error) if error.is_not_found() => Ok(Deleted::Gone),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::cluster_config::NovaClusterConfig;
    use serde_json::json;

    /// The API server stores what the schema lets through, which may be more than our types can hold.
    #[test]
    fn a_malformed_object_is_skipped_and_the_others_are_listed() {
        let config = |name: &str, replicas: u64| {
            json!({
                "apiVersion": "kubenova.io/v1alpha1",
                "kind": "NovaClusterConfig",
                "metadata": {"name": name},
                "spec": {"components": {"capsule": {"replicas": replicas}}}
            })
        };
        let list = json!({
            "apiVersion": "kubenova.io/v1alpha1",
            "kind": "NovaClusterConfigList",
            "metadata": {"resourceVersion": "1"},
            "items": [config("other", 5_000_000_000), config("default", 2)]
        });
        let page: ObjectList<DeserializeGuard<NovaClusterConfig>> = serde_json::from_value(list).unwrap();
        let mut listed = Listed::default();
        listed.take(Vec::new());
        assert!(listed.is_complete);
        listed.take(page.items);
        assert!(!listed.is_complete, "who concludes from an absence must know");
        let names: Vec<String> = listed.objects.iter().map(|config| config.name_any()).collect();
        assert_eq!(names, ["default"]);
    }
}
