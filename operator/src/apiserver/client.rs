//! Clients: the Operator's own, and clients that impersonate another user.

use super::{
    error::{Error, Verb},
    event_series::EventSeries,
};
use http::{HeaderName, HeaderValue, Request};
use kube::{Client, Config, client::Body};
use std::time::Duration;

/// Longest silence of the API server in an answer or a watch. A quiet watch has a bookmark about every minute, and the API
/// server ends every other request after a minute; more is a connection whose other end is gone without a word. Metering has a
/// shorter limit of its own, two bookmarks.
const SILENCE_MAX: Duration = Duration::from_secs(160);
/// Longest time until an answer that is no watch begins: the API server gives up after a minute.
const ANSWER_MAX: Duration = Duration::from_secs(65);
/// Longest time for a request to be taken by the network.
const SEND_MAX: Duration = Duration::from_secs(30);

const IMPERSONATE_USER: HeaderName = HeaderName::from_static("impersonate-user");

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a pod's ServiceAccount nor a kubeconfig was found.
    #[error("could not find how to reach the cluster; run inside a pod or set KUBECONFIG")]
    Infer(#[source] Box<kube::config::InferConfigError>),
    /// The configuration was found and is unusable.
    #[error("could not set up the client of the cluster's API server")]
    Build(#[source] Box<kube::Error>),
    /// Names that Kubernetes accepts never contain such a character.
    #[error("could not act as user {0:?}: the name cannot stand in a header")]
    User(String),
}

/// The API server of this cluster.
#[derive(Clone)]
pub struct Apiserver {
    url: String,
    client: Client,
    /// The Operator without the user that a kubeconfig may have it act as.
    impersonator: Client,
    events: EventSeries,
}

impl Apiserver {
    /// From the pod's ServiceAccount, or from a kubeconfig where there is one.
    pub async fn connect() -> Result<Self, ConnectError> {
        let config = Config::infer().await.map_err(|error| ConnectError::Infer(Box::new(error)))?;
        Self::with_config(config)
    }

    pub fn with_config(config: Config) -> Result<Self, ConnectError> {
        Self::with_limits(config, SILENCE_MAX, ANSWER_MAX)
    }

    fn with_limits(mut config: Config, silence_max: Duration, answer_max: Duration) -> Result<Self, ConnectError> {
        config.read_timeout = Some(silence_max);
        // Else the time for which a connection waited in the pool would count as silence.
        config.reset_reader_on_write = true;
        config.write_timeout = Some(SEND_MAX);
        // Whoever calls tries again at a time of its own, and reports what it waits for meanwhile.
        config.default_retry = false;
        let connect = |config: Config| {
            let client = Client::try_from(config).map_err(|error| ConnectError::Build(Box::new(error)))?;
            Ok::<_, ConnectError>(answered_within(client, answer_max))
        };
        let (url, client) = (config.cluster_url.to_string(), connect(config.clone())?);
        let impersonator = if config.auth_info.impersonate.is_some() || config.auth_info.impersonate_groups.is_some() {
            (config.auth_info.impersonate, config.auth_info.impersonate_groups) = (None, None);
            connect(config)?
        } else {
            client.clone()
        };
        Ok(Self { url, client, impersonator, events: EventSeries::default() })
    }

    /// The client that acts as the Operator.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The events that were published lately.
    pub(super) fn event_series(&self) -> &EventSeries {
        &self.events
    }

    /// The server's version, without what vendors append: `1.36.3`.
    pub async fn version(&self) -> Result<String, Error> {
        let info = self.client.apiserver_version().await;
        let info = info.map_err(|source| Error::new(Verb::Read, "version", "", source))?;
        let version = info.git_version.trim_start_matches('v');
        Ok(version.split(['-', '+']).next().unwrap_or(version).to_owned())
    }

    /// A client whose calls are made as this user; the API server checks that the Operator may impersonate it, and
    /// adds the groups of a ServiceAccount by itself. It is a header on the Operator's own connections, so it costs nothing to
    /// make one for a few calls.
    pub fn impersonating(&self, user: &str) -> Result<Client, ConnectError> {
        let user = HeaderValue::from_str(user).map_err(|_| ConnectError::User(user.to_owned()))?;
        let own = self.impersonator.clone();
        let as_user = tower::service_fn(move |mut request: Request<Body>| {
            request.headers_mut().insert(IMPERSONATE_USER, user.clone());
            let own = own.clone();
            async move { own.send(request).await }
        });
        Ok(Client::new(as_user, self.impersonator.default_namespace()))
    }
}

/// Ends requests whose answer has not begun in time. The answer to a watch begins with its first event.
fn answered_within(client: Client, answer_max: Duration) -> Client {
    let namespace = client.default_namespace().to_owned();
    let limited = tower::service_fn(move |request: Request<Body>| {
        let client = client.clone();
        async move {
            if is_watch(&request) {
                return client.send(request).await;
            }
            let answer = tokio::time::timeout(answer_max, client.send(request)).await;
            answer.unwrap_or_else(|late| Err(kube::Error::Service(Box::new(late))))
        }
    });
    Client::new(limited, namespace)
}

fn is_watch(request: &Request<Body>) -> bool {
    request.uri().query().is_some_and(|query| query.split('&').any(|parameter| parameter.starts_with("watch=")))
}

impl std::fmt::Debug for Apiserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Apiserver").field("url", &self.url).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    async fn is_not_waited_for(silence_max: Duration, answer_max: Duration) {
        kubenova_runtime::tls::install_provider();
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", server.local_addr().unwrap()).parse().unwrap();
        let apiserver = Apiserver::with_limits(Config::new(url), silence_max, answer_max).unwrap();
        let silent = tokio::spawn(async move { server.accept().await });
        let answer = tokio::time::timeout(Duration::from_secs(30), apiserver.version()).await;
        assert!(answer.expect("the call ends by itself").is_err());
        // Held open until here.
        drop(silent.await.unwrap().unwrap());
    }

    const SHORT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn an_api_server_that_accepts_a_request_and_says_nothing_is_not_waited_for_without_end() {
        is_not_waited_for(SHORT, ANSWER_MAX).await;
        is_not_waited_for(SILENCE_MAX, SHORT).await;
    }

    #[test]
    fn only_a_watch_may_begin_its_answer_late() {
        let watch = |uri: &str| is_watch(&Request::get(uri).body(Body::empty()).unwrap());
        assert!(watch("http://a/apis/x?limit=5&watch=true&timeoutSeconds=290"));
        assert!(!watch("http://a/apis/x?labelSelector=watch%3Dtrue") && !watch("http://a/api/v1/watch"));
    }

    /// Answers requests of one connection until it ends, and returns their heads.
    async fn serve_one_connection(server: TcpListener) -> Vec<String> {
        let (mut connection, _) = server.accept().await.unwrap();
        let (mut heads, mut read) = (Vec::new(), String::new());
        let mut buffer = [0; 4096];
        loop {
            let count = connection.read(&mut buffer).await.unwrap();
            if count == 0 {
                return heads;
            }
            read.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            if read.ends_with("\r\n\r\n") {
                heads.push(std::mem::take(&mut read).to_lowercase());
                let answer = r#"{"major":"1","minor":"36","gitVersion":"v1.36.3","gitCommit":"","gitTreeState":"",
                    "buildDate":"","goVersion":"","compiler":"","platform":""}"#;
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
                connection.write_all(format!("{head} {}\r\n\r\n{answer}", answer.len()).as_bytes()).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn all_users_share_one_connection_and_each_request_names_its_own() {
        kubenova_runtime::tls::install_provider();
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", server.local_addr().unwrap()).parse().unwrap();
        let served = tokio::spawn(serve_one_connection(server));
        let mut config = Config::new(url);
        config.auth_info.impersonate_groups = None;
        let apiserver = Apiserver::with_config(config).unwrap();
        for user in ["acme", "globex"] {
            apiserver.impersonating(user).unwrap().apiserver_version().await.unwrap();
        }
        apiserver.version().await.unwrap();
        drop(apiserver);
        let heads = served.await.unwrap();
        assert!(heads[0].contains("impersonate-user: acme"), "{heads:?}");
        assert!(heads[1].contains("impersonate-user: globex") && !heads[1].contains("acme"), "{heads:?}");
        assert!(!heads[2].contains("impersonate"), "the Operator acts as itself: {heads:?}");
        assert!(matches!(apiserver_of_nobody().impersonating("a\nb"), Err(ConnectError::User(_))));
    }

    fn apiserver_of_nobody() -> Apiserver {
        Apiserver::with_config(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap()
    }
}
