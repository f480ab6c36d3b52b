//! The Manager's own certificates: its server certificate for REST and enrollment, and its client certificate for the
//! broker.
//!
//! Guarantees: both are issued at start, never stored outside the process' folder, and renewed at half of their lifetime and when other
//! keys are in use; new connections get the new one without a restart. The server's chain ends with the root, because enrollment tokens pin
//! it.

use anyhow::{Context as _, Result};
use kubenova_bus::{Credentials, dial::Dialer, tls::Files, transport::TransportChoice};
use kubenova_runtime::{
    clock,
    file::{self, Readers},
    periodic::{Next, Periodic},
    shutdown::Shutdown,
    signal::Signal as _,
};
use kubenova_schema::enrollment::MANAGER_SPIFFE_PATH;
use kubenova_trust::{
    authority::{Identity, Validity},
    current::CurrentKeyring,
    keyring::Keyring,
    nats::{UserCredentials, system_inbox_prefix},
};
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::sync::watch;

/// Shortest time between renewals, for lifetimes of seconds as tests have them.
const RENEW_MIN: Duration = Duration::from_secs(1);
/// Waits after a failed renewal: half of the lifetime is left to succeed.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Issues and renews.
#[derive(Debug)]
pub struct OwnIdentity {
    keyring: CurrentKeyring,
    names: Vec<String>,
    lifetime: Duration,
    folder: PathBuf,
    server_key: Arc<CurrentKey>,
    credentials: watch::Sender<Credentials>,
    system_credentials: watch::Sender<Credentials>,
}

/// The current server certificate.
#[derive(Debug)]
struct CurrentKey(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for CurrentKey {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl OwnIdentity {
    /// Issues the first ones. `folder` gets the files of the broker connection, which reads them at every connect.
    ///
    /// # Errors
    /// When a name of `names` is invalid or the folder cannot be written.
    pub fn issue(current: &CurrentKeyring, names: &[String], lifetime: Duration, folder: &Path) -> Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(|| {
            format!("could not create the folder {}: set stateDir to a writable one", folder.display())
        })?;
        let keyring = current.get();
        let key = server_key(&keyring, names, lifetime)?;
        let identity = Self {
            credentials: watch::Sender::new(credentials(keyring.nkeys.manager_user(validity(lifetime))?)),
            system_credentials: watch::Sender::new(credentials(keyring.nkeys.system_user(validity(lifetime))?)),
            server_key: Arc::new(CurrentKey(RwLock::new(Arc::new(key)))),
            names: names.to_vec(),
            folder: folder.to_owned(),
            keyring: current.clone(),
            lifetime,
        };
        identity.write_client(&keyring)?;
        Ok(identity)
    }

    /// TLS settings of the REST listener.
    ///
    /// # Errors
    /// When the provider does not know the protocol versions.
    pub fn server_config(&self) -> Result<ServerConfig> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let builder = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .context("the TLS provider supports no protocol version")?;
        Ok(builder.with_no_client_auth().with_cert_resolver(Arc::<CurrentKey>::clone(&self.server_key)))
    }

    /// Settings of the broker connection.
    #[must_use]
    pub fn bus_settings(&self, urls: &[String], ping_interval: Duration) -> kubenova_bus::Settings {
        kubenova_bus::Settings {
            urls: urls.to_vec(),
            name: "kubenova-manager".to_owned(),
            // It runs beside the broker.
            leaf: None,
            transport: TransportChoice::Nats,
            dialer: Dialer::default(),
            discover_servers: true,
            files: Files {
                ca: self.folder.join("ca.crt"),
                certificate: self.folder.join("manager.pem"),
                key: self.folder.join("manager.key"),
            },
            credentials: self.credentials.borrow().clone(),
            inbox_prefix: None,
            api_prefix: None,
            ping_interval,
        }
    }

    /// The same for the connection in the broker's system account.
    #[must_use]
    pub fn system_bus_settings(&self, urls: &[String], ping_interval: Duration) -> kubenova_bus::Settings {
        kubenova_bus::Settings {
            name: "kubenova-manager-system".to_owned(),
            credentials: self.system_credentials.borrow().clone(),
            inbox_prefix: Some(system_inbox_prefix()),
            ..self.bus_settings(urls, ping_interval)
        }
    }

    /// Changes with every renewal: hand it to the connection.
    #[must_use]
    pub fn credentials(&self) -> watch::Receiver<Credentials> {
        self.credentials.subscribe()
    }

    /// The same for the connection in the system account.
    #[must_use]
    pub fn system_credentials(&self) -> watch::Receiver<Credentials> {
        self.system_credentials.subscribe()
    }

    /// Renews until a stop is requested.
    pub async fn renew(self, shutdown: Shutdown) {
        let half_life = (self.lifetime / 2).max(RENEW_MIN);
        let mut keyring = self.keyring.clone();
        // The first certificates are issued before this runs.
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(half_life) => {}
            () = keyring.signaled() => {}
        }
        Periodic::new("renew the Manager's own certificates", half_life)
            .backoff(RETRY.0, RETRY.1)
            .on_signal(keyring)
            .run(&shutdown, || std::future::ready(self.renew_once().map(|()| Next::Wait)))
            .await;
    }

    fn renew_once(&self) -> Result<()> {
        let keyring = self.keyring.get();
        let key = server_key(&keyring, &self.names, self.lifetime)?;
        *self.server_key.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
        self.write_client(&keyring)?;
        let (nkeys, validity) = (&keyring.nkeys, validity(self.lifetime));
        self.credentials.send_replace(credentials(nkeys.manager_user(validity)?));
        self.system_credentials.send_replace(credentials(nkeys.system_user(validity)?));
        tracing::info!("renewed the Manager's own certificates");
        Ok(())
    }

    fn write_client(&self, keyring: &Keyring) -> Result<()> {
        let client = keyring.authority.client("manager", validity(self.lifetime))?;
        self.write("ca.crt", keyring.authority.bundle_pem())?;
        self.write("manager.pem", &client.chain_pem)?;
        self.write("manager.key", &client.key_pem)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        file::replace(&path, text.as_bytes(), Readers::Owner)
            .with_context(|| format!("could not write {}: set stateDir to a writable folder", path.display()))
    }
}

fn validity(lifetime: Duration) -> Validity {
    Validity { now: clock::now(), lifetime }
}

fn credentials(user: UserCredentials) -> Credentials {
    Credentials { user_jwt: user.user_jwt, seed: user.seed }
}

fn server_key(keyring: &Keyring, names: &[String], lifetime: Duration) -> Result<CertifiedKey> {
    let identity = keyring.authority.server(MANAGER_SPIFFE_PATH, names, validity(lifetime))?;
    certified(&identity)
}

fn certified(identity: &Identity) -> Result<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .context("could not read the Manager's own certificate")?;
    let key =
        PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).context("could not read the Manager's own key")?;
    let provider: CryptoProvider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).context("the Manager's own certificate and key do not match")
}
