//! Reading and writing objects.

use super::error::{Error, Verb};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use kubenova_crds::FIELD_MANAGER;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// What an object of this file must be able to do.
pub trait Object: Resource + Clone + Debug + Serialize + DeserializeOwned {}
impl<K: Resource + Clone + Debug + Serialize + DeserializeOwned> Object for K {}

/// Objects asked for in one page of a list.
const PAGE: u32 = 500;

/// The plural of the kind, from the end of the path.
pub(super) fn kind_of<K: Resource>(api: &Api<K>) -> String {
    api.resource_url().rsplit('/').next().unwrap_or_default().to_owned()
}

fn failed<K: Object>(api: &Api<K>, verb: Verb, name: &str) -> impl FnOnce(kube::Error) -> Error {
    let kind = kind_of(api);
    let name = api.namespace().map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
    move |source| Error::new(verb, &kind, &name, source)
}

/// The object, or `None` when it is not there.
///
/// # Errors
/// When the call fails.
pub async fn get<K: Object>(api: &Api<K>, name: &str) -> Result<Option<K>, Error> {
    api.get_opt(name).await.map_err(failed(api, Verb::Read, name))
}

/// All objects with these labels (an empty selector means all), read page by page.
///
/// # Errors
/// When the call fails.
pub async fn list<K: Object>(api: &Api<K>, label_selector: &str) -> Result<Vec<K>, Error> {
    let mut params = ListParams::default().labels(label_selector).limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = api.list(&params).await.map_err(failed(api, Verb::List, label_selector))?;
        objects.extend(page.items);
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => return Ok(objects),
        }
    }
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
///
/// # Errors
/// When the call fails otherwise.
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

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone, or was already.
    Gone,
    /// Finalizers hold it; it will go.
    Terminating,
}

/// Deletes exactly the object that was seen: its uid, and its resourceVersion unless the caller says that later changes
/// do not matter.
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
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match api.delete(name, &params).await.map_err(failed(api, Verb::Delete, name)) {
        // The object itself comes back while finalizers hold it, a bare status once it is gone.
        Ok(answer) if answer.is_left() => Ok(Deleted::Terminating),
        Ok(_) => Ok(Deleted::Gone),
        Err(error) if error.is_not_found() => Ok(Deleted::Gone),
        Err(error) => Err(error),
    }
}
