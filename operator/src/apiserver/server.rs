//! The cluster itself: which one it is, and which version it runs.

use super::{
    client::Apiserver,
    error::{Error, Verb},
    verbs,
};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::{Api, api::ListParams};

/// UID of the kube-system namespace: what tells this cluster from every other.
pub async fn cluster_uid(apiserver: &Apiserver) -> Result<String, Error> {
    let namespaces: Api<Namespace> = Api::all(apiserver.client());
    let namespace = verbs::get(&namespaces, "kube-system").await?;
    Ok(namespace.and_then(|namespace| namespace.metadata.uid).unwrap_or_default())
}

/// Version of the API server, such as `v1.36.3`.
pub async fn version(apiserver: &Apiserver) -> Result<String, Error> {
    let info = apiserver.client().apiserver_version().await;
    info.map(|info| info.git_version).map_err(|source| Error::new(Verb::Request, "version", "", source))
}

/// How many nodes the cluster has; none when the API server does not say. Asks for one node only, whatever their number.
pub async fn node_count(apiserver: &Apiserver) -> Option<u32> {
    let nodes = Api::<Node>::all(apiserver.client()).list_metadata(&ListParams::default().limit(1)).await;
    let nodes = nodes.inspect_err(|error| tracing::debug!(error = %error, "could not count the nodes")).ok()?;
    let further = nodes.metadata.remaining_item_count.unwrap_or_default();
    u32::try_from(nodes.items.len()).ok()?.checked_add(u32::try_from(further).ok()?)
}
