//! Endpoints of Capsule's and KubeVela's kinds, as untyped objects.

use super::{
    error::{Error, Verb},
    verbs::{self, Listed},
};
use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::Value;

fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// KubeVela Applications of all namespaces.
#[must_use]
pub fn applications(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource("core.oam.dev", "v1beta1", "Application"))
}

/// KubeVela's records of the objects that Applications made.
#[must_use]
pub fn resource_trackers(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource("core.oam.dev", "v1beta1", "ResourceTracker"))
}

/// Capsule Tenants.
#[must_use]
pub fn capsule_tenants(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource("capsule.clastix.io", "v1beta2", "Tenant"))
}

/// Accounts of tenants, as Capsule knows them.
#[must_use]
pub fn tenant_owners(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource("capsule.clastix.io", "v1beta2", "TenantOwner"))
}

/// A kind of the cluster in one namespace.
#[must_use]
pub fn namespaced(client: &Client, group: &str, version: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource(group, version, kind))
}

/// All objects with these labels; none when the kind is not installed.
pub async fn list_if_served(api: &Api<DynamicObject>, label_selector: &str) -> Result<Vec<DynamicObject>, Error> {
    Ok(list_whole_if_served(api, label_selector).await?.objects)
}

/// The same, for whoever concludes from the absence of an object that it is gone.
pub async fn list_whole_if_served(
    api: &Api<DynamicObject>,
    label_selector: &str,
) -> Result<Listed<DynamicObject>, Error> {
    match verbs::list_whole(api, label_selector).await {
        Err(error) if error.is_not_found() => Ok(Listed::default()),
        listed => listed,
    }
}

/// The object, or `None` when it is not there or its kind is not installed.
pub async fn get_if_served(api: &Api<DynamicObject>, name: &str) -> Result<Option<DynamicObject>, Error> {
    match verbs::get(api, name).await {
        Err(error) if error.is_not_found() => Ok(None),
        read => read,
    }
}

/// The object as plain JSON.
///
/// # Errors
/// Never in practice: what came as JSON goes back to JSON.
pub fn to_value(object: &DynamicObject) -> Result<Value, Error> {
    serde_json::to_value(object).map_err(|error| Error::new(Verb::Read, "object", "", kube::Error::SerdeError(error)))
}
