//! Clients: the Operator's own, and clients that impersonate another user.

use super::error::{Error, Verb};
use kube::{Client, Config};
use std::time::Duration;

/// Longest silence of the API server in an answer or a watch. A quiet watch has a bookmark about every minute, and the API
/// server ends every other request after a minute; more is a connection whose other end is gone without a word. Metering has a
/// shorter limit of its own, two bookmarks.
const SILENCE_MAX: Duration = Duration::from_secs(160);
/// Longest time for a request to be taken by the network.
const SEND_MAX: Duration = Duration::from_secs(30);

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
        Self::with_limits(config, SILENCE_MAX)
    }

    fn with_limits(mut config: Config, silence_max: Duration) -> Result<Self, ConnectError> {
        config.read_timeout = Some(silence_max);
        // Else the time for which a connection waited in the pool would count as silence.
        config.reset_reader_on_write = true;
        config.write_timeout = Some(SEND_MAX);
        // Whoever calls tries again at a time of its own, and reports what it waits for meanwhile.
        config.default_retry = false;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_api_server_that_accepts_a_request_and_says_nothing_is_not_waited_for_without_end() {
        kubenova_runtime::tls::install_provider();
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", server.local_addr().unwrap()).parse().unwrap();
        let apiserver = Apiserver::with_limits(Config::new(url), Duration::from_millis(100)).unwrap();
        let silent = tokio::spawn(async move { server.accept().await });
        let answer = tokio::time::timeout(Duration::from_secs(30), apiserver.version()).await;
        assert!(answer.expect("the call ends by itself").is_err());
        // Held open until here.
        drop(silent.await.unwrap().unwrap());
    }
}
