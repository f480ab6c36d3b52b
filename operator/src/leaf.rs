//! The files of this cluster's leaf node, as the Secret `kubenova-leaf`: everything that its nats-server needs.
//!
//! Guarantees: they are those of the credentials in use before a connection is tried, so that a leaf node lives through renewals; what is
//! missing or was changed is written again within a minute; with nothing to do nothing is written. The leaf node's own certificate is of
//! the cluster's authority, which the Operator trusts at the leaf node alone. Before it: `join` renews credentials. After it: `session`
//! connects. Must not: decide which transport is used.

use crate::{
    apiserver::{self, client::Apiserver, verbs},
    controllers::cluster_config::authority::{Authority, AuthorityError},
    join::{conditions::JoinError, current::CurrentIdentity, identity::MakeError, reach},
    settings::{LeafSettings, Settings},
};
use data_encoding::HEXLOWER;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, api::ObjectMeta};
use kubenova_bus::{
    dial::{
        Dialer,
        proxy::{Proxy, ProxyLogin},
    },
    transport::BrokerUrl,
};
use kubenova_crds::cluster_config::condition;
use kubenova_operator_core::leaf::{self, LeafNode, file as name};
use kubenova_runtime::{
    file::{self, Readers},
    periodic::{Next, Periodic},
    random,
    shutdown::Shutdown,
    telemetry,
};
use kubenova_schema::nats_files;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::Mutex;

/// Reason of the condition while the Manager has named no hub for leaf nodes.
pub(crate) const HUB_UNKNOWN: &str = "LeafHubUnknown";
/// Time between looks whether the Secret is as it should be.
const INTERVAL: Duration = Duration::from_secs(60);
/// A connection does not wait longer for the API server: the leaf node may work with the files that it has.
const LIMIT: Duration = Duration::from_secs(10);

/// The file with the authorities of the leaf node's certificate.
#[must_use]
pub fn authority_file(work_dir: &Path) -> PathBuf {
    work_dir.join("leaf-ca.crt")
}

/// Writes the files.
#[derive(Debug, Clone)]
pub struct LeafFiles {
    apiserver: Apiserver,
    namespace: String,
    work_dir: PathBuf,
    leaf: LeafSettings,
    dialer: Dialer,
    identity: CurrentIdentity,
    /// Two writers would each make a certificate, and the later one might have the earlier identity.
    one_at_a_time: Arc<Mutex<()>>,
}

/// Why they could not be written.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Apiserver(#[from] apiserver::Error),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Keys(#[from] MakeError),
    #[error("could not write {}", authority_file(.0).display())]
    File(PathBuf, #[source] io::Error),
    #[error("the API server did not answer within {} s", LIMIT.as_secs())]
    TooLate,
    #[error("the Manager names no URL for leaf nodes")]
    NoHub,
    #[error("the proxy of the leaf node cannot be used: {0}")]
    Proxy(String),
}

impl LeafFiles {
    /// None when the settings name no leaf node.
    #[must_use]
    pub fn new(apiserver: &Apiserver, settings: &Settings, identity: &CurrentIdentity) -> Option<Self> {
        Some(Self {
            apiserver: apiserver.clone(),
            namespace: settings.state_namespace.clone(),
            work_dir: settings.work_dir.clone(),
            leaf: settings.leaf.clone()?,
            dialer: settings.dialer.clone(),
            identity: identity.clone(),
            one_at_a_time: Arc::default(),
        })
    }

    /// Writes what is missing or not as it should be, with the credentials as they are now.
    ///
    /// # Errors
    /// When that cannot be done, as the condition BusConnected says it.
    pub async fn write(&self) -> Result<(), JoinError> {
        let written = tokio::time::timeout(LIMIT, self.try_write()).await;
        written.unwrap_or(Err(Problem::TooLate)).map_err(|problem| {
            let (reason, remedy) = match &problem {
                Problem::NoHub => (
                    HUB_UNKNOWN,
                    "have the Manager's side set nats.leafListen and nats.leafPublicUrls in its settings; the next renewal brings them here",
                ),
                Problem::File(..) => ("FilesUnwritable", "make the folder writable"),
                Problem::Proxy(_) => reach::PROXY_FILES_UNUSABLE,
                _ => ("LeafSecretUnwritable", "check the API server and the Operator's roles"),
            };
            let message = format!(
                "could not write the Secret {} of the leaf node: {}; {remedy}",
                leaf::SECRET,
                telemetry::chain(&problem)
            );
            JoinError::new(condition::BUS_CONNECTED, reason, message)
        })
    }

    async fn try_write(&self) -> Result<(), Problem> {
        let _alone = self.one_at_a_time.lock().await;
        let client = self.apiserver.client();
        let authority = Authority::ensure(&client, &self.namespace).await?;
        self.trust(authority.bundle()).map_err(|error| Problem::File(self.work_dir.clone(), error))?;
        let secrets: Api<Secret> = Api::namespaced(client, &self.namespace);
        let stored = verbs::get(&secrets, leaf::SECRET).await?.and_then(|secret| secret.data).unwrap_or_default();
        let mut data = self.of_identity(&stored).await?;
        data.extend(self.server_certificate(&authority, &stored)?);
        if data.iter().all(|(key, value)| stored.get(key) == Some(value)) {
            return Ok(());
        }
        let metadata = ObjectMeta {
            name: Some(leaf::SECRET.to_owned()),
            namespace: Some(self.namespace.clone()),
            ..ObjectMeta::default()
        };
        let secret = Secret { metadata, type_: Some("Opaque".to_owned()), data: Some(data), ..Secret::default() };
        verbs::apply(&secrets, &secret).await?;
        tracing::info!(
            secret = leaf::SECRET,
            expires = self.identity.get().answer.expires_at,
            "wrote the files of the leaf node"
        );
        Ok(())
    }

    /// For the Operator's own connection, in a volume that does not outlive the pod.
    fn trust(&self, bundle: &str) -> io::Result<()> {
        let path = authority_file(&self.work_dir);
        if std::fs::read(&path).is_ok_and(|present| present == bundle.as_bytes()) {
            return Ok(());
        }
        std::fs::create_dir_all(&self.work_dir)?;
        file::replace(&path, bundle.as_bytes(), Readers::Everybody)
    }

    /// The files that follow from the credentials.
    async fn of_identity(
        &self,
        stored: &BTreeMap<String, ByteString>,
    ) -> Result<BTreeMap<String, ByteString>, Problem> {
        let identity = self.identity.get();
        let (keys, answer) = (&identity.keys, &identity.answer);
        if answer.leaf_urls.is_empty() {
            return Err(Problem::NoHub);
        }
        let proxy = match proxy_of(&self.dialer, &answer.leaf_urls).filter(|_| self.leaf.uses_proxy) {
            Some(proxy) => Some(LeafProxy::read(&proxy).await.map_err(Problem::Proxy)?),
            None => None,
        };
        let server_name = text(stored, name::SERVER_NAME)
            .filter(|name| name.starts_with(&leaf::server_name(identity.cluster_id(), "")))
            .unwrap_or_else(|| leaf::server_name(identity.cluster_id(), &HEXLOWER.encode(&random::bytes::<8>())));
        let node = LeafNode {
            server_name: &server_name,
            nkey: &keys.nkey_public()?,
            // Parsed with the settings.
            port: self.leaf.target().map_or(4222, |target| target.port),
            hub_urls: &answer.leaf_urls,
            proxy: proxy.as_ref().map(LeafProxy::in_configuration),
        };
        let mut files = entries([
            (name::CONFIGURATION, leaf::configuration(&node)),
            (name::SERVER_NAME, server_name.clone()),
            (name::CREDENTIALS, nats_files::credentials(&answer.user_jwt, &keys.nkey_seed)),
            (name::CERTIFICATE, answer.certificate_chain_pem.clone()),
            (name::KEY, keys.tls_key_pem.clone()),
            (name::AUTHORITY, answer.ca_bundle_pem.clone()),
        ]);
        let authority = proxy.and_then(|proxy| proxy.authority);
        files.extend(authority.map(|pem| (name::PROXY_AUTHORITY.to_owned(), ByteString(pem))));
        Ok(files)
    }

    /// The stored certificate and key while they are good, else new ones.
    fn server_certificate(
        &self,
        authority: &Authority,
        stored: &BTreeMap<String, ByteString>,
    ) -> Result<BTreeMap<String, ByteString>, Problem> {
        let names: Vec<String> = self.leaf.target().map(|target| target.host).into_iter().collect();
        let present = text(stored, name::SERVER_CERTIFICATE).zip(text(stored, name::SERVER_KEY));
        let (certificate, key) = match present.filter(|(certificate, _)| authority.is_good(certificate, &names)) {
            Some(present) => present,
            None => authority.sign(&names)?,
        };
        Ok(entries([(name::SERVER_CERTIFICATE, certificate), (name::SERVER_KEY, key)]))
    }
}

/// A stored file.
fn text(stored: &BTreeMap<String, ByteString>, key: &str) -> Option<String> {
    stored.get(key).and_then(|value| String::from_utf8(value.0.clone()).ok())
}

/// The proxy by which these URLs are reached. nats-server uses one for all of them, so there is none while one of them needs none.
fn proxy_of(dialer: &Dialer, hub_urls: &[String]) -> Option<Proxy> {
    let targets = hub_urls.iter().map(|url| BrokerUrl::parse(url).map(|url| url.target));
    let proxies: Option<Vec<Proxy>> =
        targets.map(|target| target.and_then(|target| dialer.proxy_for(&target))).collect();
    proxies?.into_iter().next()
}

/// The proxy of the leaf node, with what its files say.
struct LeafProxy {
    url: String,
    login: Option<ProxyLogin>,
    /// What is trusted at it instead of the CAs of the image, PEM.
    authority: Option<Vec<u8>>,
}

impl LeafProxy {
    async fn read(proxy: &Proxy) -> Result<Self, String> {
        let authority = match proxy.ca_file() {
            Some(path) => {
                let read = tokio::fs::read(path).await;
                Some(read.map_err(|error| format!("could not read {}: {error}", path.display()))?)
            }
            None => None,
        };
        Ok(Self { url: proxy.to_string(), login: proxy.login().await?, authority })
    }

    fn in_configuration(&self) -> leaf::Proxy<'_> {
        // nats-server starts with both or none.
        let login = self.login.as_ref().filter(|login| !login.username.is_empty() && !login.password.is_empty());
        leaf::Proxy {
            url: &self.url,
            login: login.map(|login| (login.username.as_str(), login.password.as_str())),
            has_authority: self.authority.is_some(),
        }
    }
}

fn entries<const N: usize>(files: [(&str, String); N]) -> BTreeMap<String, ByteString> {
    files.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes()))).collect()
}

/// Keeps the Secret as it should be until a stop is requested.
pub async fn run(files: LeafFiles, shutdown: Shutdown) {
    let round = || async { files.write().await.map(|()| Next::Wait) };
    Periodic::new("keep the files of the leaf node", INTERVAL).run(&shutdown, round).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_bus::dial::proxy::{ProxyFiles, ProxySettings};

    fn dialer(files: ProxyFiles) -> Dialer {
        let variable = |name: &str| match name {
            "HTTPS_PROXY" => Some("https://user:p%3Ass@proxy.example".to_owned()),
            "NO_PROXY" => Some(".internal".to_owned()),
            _ => None,
        };
        Dialer::new(ProxySettings::read(variable, files).unwrap())
    }

    #[test]
    fn a_leaf_node_takes_the_operator_s_way_to_the_hub() {
        let of = |urls: &[&str]| {
            let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
            proxy_of(&dialer(ProxyFiles::default()), &urls).map(|proxy| proxy.to_string())
        };
        let found = Some("https://proxy.example:443".to_owned());
        assert_eq!(of(&["wss://hub.example", "wss://hub2.example"]), found);
        assert_eq!(of(&["tls://[2001:db8::1]:7422"]), found);
        for direct in [&["wss://hub.internal"][..], &["wss://hub.example", "wss://hub.internal"], &["nonsense"], &[]] {
            assert_eq!(of(direct), None, "{direct:?}");
        }
    }

    #[tokio::test]
    async fn what_the_proxy_wants_to_know_is_read_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let ca_file = Some(folder.path().join("ca.crt"));
        let urls = ["wss://hub.example".to_owned()];
        let proxy = proxy_of(&dialer(ProxyFiles { ca_file, credentials: None }), &urls).unwrap();
        assert!(LeafProxy::read(&proxy).await.is_err_and(|error| error.contains("ca.crt")));
        std::fs::write(folder.path().join("ca.crt"), "PEM").unwrap();
        let read = LeafProxy::read(&proxy).await.unwrap();
        let written = read.in_configuration();
        assert_eq!((written.url, written.login), ("https://proxy.example:443", Some(("user", "p:ss"))));
        assert_eq!(read.authority.as_deref(), Some(&b"PEM"[..]));
    }
}
