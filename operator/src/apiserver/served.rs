//! Which kinds the API server serves, and what of them has certain labels: for whoever must find everything of something, also of kinds
//! that this release does not know.

use super::{
    error::{Error, Verb},
    verbs,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{
    Api, Client,
    api::ObjectMeta,
    core::{ApiResource, DynamicObject},
    discovery::{Discovery, Scope, verbs as served},
};
use kubenova_operator_core::components::object::Key;

/// Lists at the same time. The API server answers each in milliseconds.
const AT_ONCE: usize = 8;

/// A kind whose objects can be listed and deleted.
#[derive(Debug, Clone)]
pub struct ServedKind {
    pub resource: ApiResource,
    pub is_namespaced: bool,
}

impl ServedKind {
    /// Its objects in all namespaces.
    #[must_use]
    pub fn everywhere(&self, client: &Client) -> Api<DynamicObject> {
        Api::all_with(client.clone(), &self.resource)
    }

    /// The endpoint of one of its objects.
    #[must_use]
    pub fn at(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        if self.is_namespaced {
            Api::namespaced_with(client.clone(), namespace, &self.resource)
        } else {
            self.everywhere(client)
        }
    }

    /// The key of one of its objects.
    #[must_use]
    pub fn key(&self, metadata: &ObjectMeta) -> Key {
        Key {
            group: self.resource.group.clone(),
            version: self.resource.version.clone(),
            kind: self.resource.kind.clone(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }

    fn can_be_left(&self, capabilities: &[String]) -> bool {
        capabilities.iter().any(|verb| verb == served::LIST) && capabilities.iter().any(|verb| verb == served::DELETE)
    }
}

/// All of them, each in its most stable version.
///
/// # Errors
/// When the API server does not say.
pub async fn kinds(client: &Client) -> Result<Vec<ServedKind>, Error> {
    let discovery = Discovery::new(client.clone()).run_aggregated().await;
    let discovery = discovery.map_err(|source| Error::new(Verb::Request, "the served kinds", "", source))?;
    let mut kinds = Vec::new();
    for (resource, capabilities) in discovery.groups().flat_map(|group| group.resources_by_stability()) {
        let kind = ServedKind { resource, is_namespaced: capabilities.scope == Scope::Namespaced };
        if kind.can_be_left(&capabilities.operations) {
            kinds.push(kind);
        }
    }
    Ok(kinds)
}

/// The metadata of all objects of these kinds with these labels, without those that another object owns: they go with it.
///
/// # Errors
/// When a list fails.
pub async fn labelled(
    client: &Client,
    kinds: &[ServedKind],
    label_selector: &str,
) -> Result<Vec<(ServedKind, ObjectMeta)>, Error> {
    let listed = stream::iter(kinds.to_vec())
        .map(|kind| async move {
            let found = verbs::list_metadata(&kind.everywhere(client), label_selector).await?;
            let own = found.into_iter().filter(|metadata| !is_owned(metadata));
            Ok::<_, Error>(own.map(|metadata| (kind.clone(), metadata)).collect::<Vec<_>>())
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    Ok(listed.into_iter().flatten().collect())
}

fn is_owned(metadata: &ObjectMeta) -> bool {
    metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true))
}
