//! Status: several controllers share one object's conditions, so each changes its own and writes the whole at the
//! resourceVersion it read.

use super::{
    error::{Error, Verb},
    verbs::{self, Object},
};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use kubenova_crds::FIELD_MANAGER;
use serde_json::Value;

/// Attempts against other writers of the same status. Two controllers write it a few times a minute.
const ATTEMPTS: u32 = 8;

/// Changes an object's status: reads it, lets `change` work on it, and writes it back when `change` says that something
/// differs. `None` when the object is not there.
///
/// # Errors
/// When a call fails, or when others kept writing in between.
pub async fn update<K: Object>(
    api: &Api<K>,
    name: &str,
    change: impl FnMut(&mut K) -> bool,
) -> Result<Option<K>, Error> {
    match verbs::get(api, name).await? {
        Some(object) => update_from(api, object, change).await,
        None => Ok(None),
    }
}

/// The same from the object as it was read before: one call less. Read again only when another writer came between.
///
/// # Errors
/// When a call fails, or when others kept writing in between.
pub async fn update_from<K: Object>(
    api: &Api<K>,
    mut object: K,
    mut change: impl FnMut(&mut K) -> bool,
) -> Result<Option<K>, Error> {
    let name = object.name_any();
    let mut attempt = 1;
    loop {
        if !change(&mut object) {
            return Ok(Some(object));
        }
        match replace(api, &object).await {
            Ok(written) => return Ok(Some(written)),
            Err(error) if error.is_conflict() && attempt < ATTEMPTS => attempt += 1,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        }
        let Some(present) = verbs::get(api, &name).await? else { return Ok(None) };
        object = present;
    }
}

/// Replaces the status of exactly the version that was read.
///
/// # Errors
/// When the call fails; a conflict when the object is another version by now.
pub async fn replace<K: Object>(api: &Api<K>, object: &K) -> Result<K, Error> {
    let name = object.name_any();
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let written = api.replace_status(&name, &params, object).await;
    written.map_err(|source| Error::new(Verb::WriteStatus, &verbs::kind_of(api), &name, source))
}

/// Merge patch of the status subresource; for kinds of others, where only single fields are ours.
pub async fn patch<K: Object>(api: &Api<K>, name: &str, status: &Value) -> Result<K, Error> {
    let body = serde_json::json!({ "status": status });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patched = api.patch_status(name, &params, &Patch::Merge(&body)).await;
    patched.map_err(|source| Error::new(Verb::WriteStatus, &verbs::kind_of(api), name, source))
}
