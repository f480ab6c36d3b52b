//! The cluster itself: which one it is, and which version it runs.

use super::{
    client::Apiserver,
    error::{Error, Verb},
    verbs,
};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;

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
