//! The files of this cluster's leaf node, as the Secret `kubenova-leaf`: everything that its nats-server needs.
//!
//! Guarantees: they are those of the credentials in use before a connection is tried, so that a leaf node lives through renewals; what is
//! missing or was changed is written again within a minute; with nothing to do nothing is written. The leaf node's own certificate is of
//! the cluster's authority, which the Operator trusts at the leaf node alone. Before it: `join` renews credentials. After it: `session`
//! connects. Must not: decide which transport is used.

use crate::{
    apiserver::{self, client::Apiserver, verbs},
    controllers::cluster_config::authority::{Authority, AuthorityError},
    join::{conditions::JoinError, current::CurrentIdentity, identity::MakeError},
    settings::{LeafSettings, Settings},
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, api::ObjectMeta};
use kubenova_crds::cluster_config::condition;
use kubenova_operator_core::leaf::{self, LeafNode, file as name};
use kubenova_runtime::{
    file::{self, Readers},
    periodic::{Next, Periodic},
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
        let mut data = self.of_identity()?;
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
    fn of_identity(&self) -> Result<BTreeMap<String, ByteString>, Problem> {
        let identity = self.identity.get();
        let (keys, answer) = (&identity.keys, &identity.answer);
        if answer.leaf_urls.is_empty() {
            return Err(Problem::NoHub);
        }
        let node = LeafNode {
            cluster_id: identity.cluster_id(),
            nkey: &keys.nkey_public()?,
            // Parsed with the settings.
            port: self.leaf.target().map_or(4222, |target| target.port),
            hub_urls: &answer.leaf_urls,
        };
        Ok(entries([
            (name::CONFIGURATION, leaf::configuration(&node)),
            (name::CREDENTIALS, nats_files::credentials(&answer.user_jwt, &keys.nkey_seed)),
            (name::CERTIFICATE, answer.certificate_chain_pem.clone()),
            (name::KEY, keys.tls_key_pem.clone()),
            (name::AUTHORITY, answer.ca_bundle_pem.clone()),
        ]))
    }

    /// The stored certificate and key while they are good, else new ones.
    fn server_certificate(
        &self,
        authority: &Authority,
        stored: &BTreeMap<String, ByteString>,
    ) -> Result<BTreeMap<String, ByteString>, Problem> {
        let names: Vec<String> = self.leaf.target().map(|target| target.host).into_iter().collect();
        let text = |key: &str| stored.get(key).and_then(|value| String::from_utf8(value.0.clone()).ok());
        let present = text(name::SERVER_CERTIFICATE).zip(text(name::SERVER_KEY));
        let (certificate, key) = match present.filter(|(certificate, _)| authority.is_good(certificate, &names)) {
            Some(present) => present,
            None => authority.sign(&names)?,
        };
        Ok(entries([(name::SERVER_CERTIFICATE, certificate), (name::SERVER_KEY, key)]))
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
