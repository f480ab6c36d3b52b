//! Clients: the Operator's own, and clients that impersonate another user.

use super::error::{Error, Verb};
use kube::{Client, Config};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a pod's ServiceAccount nor a kubeconfig was found.
    #[error("could not find how to reach the cluster; run inside a pod or set KUBECONFIG")]
    Infer(#[source] Box<kube::config::InferConfigError>),
    /// The configuration was found and is unusable.
    #[error("could not set up the client of the cluster's API server")]
    Build(#[source] Box<kube::Error>),
}

/// The API server of this cluster.
#[derive(Clone)]
pub struct Apiserver {
    config: Config,
    client: Client,
}

impl Apiserver {
    /// From the pod's ServiceAccount, or from a kubeconfig where there is one.
    pub async fn connect() -> Result<Self, ConnectError> {
        let config = Config::infer().await.map_err(|error| ConnectError::Infer(Box::new(error)))?;
        Self::with_config(config)
    }

    pub fn with_config(config: Config) -> Result<Self, ConnectError> {
        let client = Client::try_from(config.clone()).map_err(|error| ConnectError::Build(Box::new(error)))?;
        Ok(Self { config, client })
    }

    /// The client that acts as the Operator.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The server's version, without what vendors append: `1.36.3`.
    pub async fn version(&self) -> Result<String, Error> {
        let info = self.client.apiserver_version().await;
        let info = info.map_err(|source| Error::new(Verb::Read, "version", "", source))?;
        let version = info.git_version.trim_start_matches('v');
        Ok(version.split(['-', '+']).next().unwrap_or(version).to_owned())
    }

    /// A client whose calls are made as this user; the API server checks that the Operator may impersonate it, and
    /// adds the groups of a ServiceAccount by itself.
    pub fn impersonating(&self, user: &str) -> Result<Client, ConnectError> {
        let mut config = self.config.clone();
        config.auth_info.impersonate = Some(user.to_owned());
        config.auth_info.impersonate_groups = None;
        Client::try_from(config).map_err(|error| ConnectError::Build(Box::new(error)))
    }
}

impl std::fmt::Debug for Apiserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Apiserver").field("url", &self.config.cluster_url.to_string()).finish_non_exhaustive()
    }
}
