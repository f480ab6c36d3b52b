//! The Manager's own certificates: the one it shows to people and clusters, and the one it shows to the broker.
//!
//! Guarantees: both are issued at start, never stored beyond the process' folder, and renewed at half of their life; new
//! connections get the new one without a restart. The shown chain ends with the root, because enrollment tokens pin it.

use anyhow::{Context as _, Result};
use kubenova_bus::Credentials;
use kubenova_runtime::{clock, shutdown::Shutdown, telemetry};
use kubenova_trust::{
    TrustError,
    authority::{Identity, Validity},
    keyring::Keyring,
};
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::sync::watch;

/// Shortest pause between renewals, also when lifetimes are absurdly short.
const RENEW_MIN: Duration = Duration::from_secs(1);

/// Issues and renews.
#[derive(Debug)]
pub struct OwnIdentity {
    keyring: Arc<Keyring>,
    names: Vec<String>,
    lifetime: Duration,
    folder: PathBuf,
    shown: Arc<Shown>,
    credentials: watch::Sender<Credentials>,
}

/// The certificate that is shown at the moment.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl OwnIdentity {
    /// Issues the first ones. `folder` takes the files of the broker connection, which reads them at every attempt.
    ///
    /// # Errors
    /// When a name is impossible or the folder cannot be written.
    pub fn issue(keyring: Arc<Keyring>, names: &[String], lifetime: Duration, folder: &Path) -> Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(|| {
            format!("could not make the folder {}: set stateDir to a writable one", folder.display())
        })?;
        let shown = server_key(&keyring, names, lifetime)?;
        let identity = Self {
            credentials: watch::Sender::new(credentials(&keyring, lifetime)?),
            shown: Arc::new(Shown(RwLock::new(Arc::new(shown)))),
            names: names.to_vec(),
            folder: folder.to_owned(),
            keyring,
            lifetime,
        };
        identity.write_client()?;
        Ok(identity)
    }

    /// How the REST listener does TLS.
    ///
    /// # Errors
    /// When the provider does not know the protocol versions.
    pub fn server_config(&self) -> Result<ServerConfig> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let builder = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .context("TLS provider knows no protocol version")?;
        Ok(builder.with_no_client_auth().with_cert_resolver(Arc::<Shown>::clone(&self.shown)))
    }

    /// How to connect to the broker.
    #[must_use]
    pub fn bus_settings(&self, urls: &[String], ping_interval: Duration) -> kubenova_bus::Settings {
        kubenova_bus::Settings {
            urls: urls.to_vec(),
            name: "kubenova-manager".to_owned(),
            ca_file: self.folder.join("ca.pem"),
            cert_file: self.folder.join("manager.pem"),
            key_file: self.folder.join("manager.key"),
            credentials: self.credentials.borrow().clone(),
            inbox_prefix: None,
            api_prefix: None,
            ping_interval,
        }
    }

    /// Changes with every renewal: hand it to the connection.
    #[must_use]
    pub fn credentials(&self) -> watch::Receiver<Credentials> {
        self.credentials.subscribe()
    }

    /// Renews until a stop is asked for.
    pub async fn renew(self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep((self.lifetime / 2).max(RENEW_MIN)) => {}
            }
            match self.renew_once() {
                Ok(()) => tracing::info!("renewed the Manager's own certificates"),
                Err(error) => {
                    let error = telemetry::chain(error.as_ref());
                    tracing::error!(error, "could not renew the Manager's own certificates; trying again");
                }
            }
        }
    }

    fn renew_once(&self) -> Result<()> {
        let key = server_key(&self.keyring, &self.names, self.lifetime)?;
        *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
        self.write_client()?;
        self.credentials.send_replace(credentials(&self.keyring, self.lifetime)?);
        Ok(())
    }

    fn write_client(&self) -> Result<()> {
        let client = self.keyring.authority.client("manager", validity(self.lifetime))?;
        self.write("ca.pem", self.keyring.authority.bundle_pem())?;
        self.write("manager.pem", &client.chain_pem)?;
        self.write("manager.key", &client.key_pem)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        use std::io::Write as _;
        let path = self.folder.join(name);
        let attempt = || -> std::io::Result<()> {
            let beside = path.with_extension("new");
            let mut file =
                std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(text.as_bytes())?;
            std::fs::rename(&beside, &path)
        };
        attempt().with_context(|| format!("could not write {}: set stateDir to a writable folder", path.display()))
    }
}

fn validity(lifetime: Duration) -> Validity {
    Validity { now: clock::now(), lifetime }
}

fn credentials(keyring: &Keyring, lifetime: Duration) -> Result<Credentials, TrustError> {
    let user = keyring.nkeys.manager_user(validity(lifetime))?;
    Ok(Credentials { user_jwt: user.user_jwt, seed: user.seed })
}

fn server_key(keyring: &Keyring, names: &[String], lifetime: Duration) -> Result<CertifiedKey> {
    let identity = keyring.authority.server("kubenova-manager", names, validity(lifetime))?;
    certified(&identity)
}

fn certified(identity: &Identity) -> Result<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .context("could not read our own certificate")?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).context("could not read our own key")?;
    let provider: CryptoProvider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).context("our own certificate and key do not fit")
}
