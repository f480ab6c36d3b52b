//! One connection: mutual TLS plus a user JWT whose nonce is signed with the nkey, so neither factor alone suffices.
//!
//! Certificate files are read again at every connection attempt, and the JWT is asked for at every attempt, so renewed
//! credentials take effect at the next reconnect without a restart.

use crate::BusError;
use async_nats::{Client, ConnectOptions, Event, jetstream};
use std::{
    path::PathBuf,
    sync::{Arc, RwLock},
    time::Duration,
};
use tokio::sync::watch;

/// A user JWT and the seed of the nkey it was issued to.
#[derive(Clone)]
pub struct Credentials {
    /// The JWT as the Manager minted it.
    pub user_jwt: String,
    /// `SU...`.
    pub seed: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(***)")
    }
}

/// How to connect.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `tls://host:port`, each tried in turn.
    pub urls: Vec<String>,
    /// Name that the broker shows for this connection.
    pub name: String,
    /// PEM file of the CAs that may have signed the broker's certificate.
    pub ca_file: PathBuf,
    /// PEM file of the client certificate chain.
    pub cert_file: PathBuf,
    /// PEM file of its private key.
    pub key_file: PathBuf,
    /// JWT and nkey.
    pub credentials: Credentials,
    /// Prefix of reply subjects; a cluster may subscribe to no other. None: the client's default.
    pub inbox_prefix: Option<String>,
    /// Prefix of the JetStream API. None: `$JS.API`.
    pub api_prefix: Option<String>,
    /// Time between pings; two missed end the connection.
    pub ping_interval: Duration,
}

/// A live connection that reconnects by itself.
#[derive(Debug, Clone)]
pub struct Connection {
    /// For core messages and requests.
    pub client: Client,
    /// For streams.
    pub jetstream: jetstream::Context,
    /// Number of connects so far: changes with every reconnect.
    pub connects: watch::Receiver<u64>,
    /// The last error that broker or client reported, for conditions and logs; none since the last connect.
    pub last_error: watch::Receiver<Option<String>>,
    credentials: Arc<RwLock<Credentials>>,
}

impl Connection {
    /// Replaces JWT and seed for the next connection attempt.
    pub fn renew(&self, credentials: Credentials) {
        *self.credentials.write().unwrap_or_else(std::sync::PoisonError::into_inner) = credentials;
    }

    /// True when connected at this moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }
}

/// Time for TCP, TLS and authorization; the broker's own limit for TLS is 10 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Time for a JetStream request, and for the acknowledgement of a publish.
const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait between reconnect attempts, jittered. Ten thousand clusters that wait half of it on average make 1,300 TLS
/// handshakes a second, about what a broker on two cores can do; with more of them each would take longer than the broker waits,
/// and none would succeed. A link that works again is noticed within a heartbeat's interval.
const RECONNECT_DELAY_MAX_MS: u64 = 15_000;

/// Makes the first connection; from then on the client reconnects by itself.
///
/// # Errors
/// When no broker accepts the connection within [`CONNECT_TIMEOUT`], or the seed cannot be read.
pub async fn connect(settings: Settings) -> Result<Connection, BusError> {
    let credentials = Arc::new(RwLock::new(settings.credentials.clone()));
    let (connects_sender, connects) = watch::channel(0_u64);
    let (error_sender, last_error) = watch::channel(None);
    let options = options(&settings, Arc::clone(&credentials))?.event_callback(move |event| {
        note_event(&event, &connects_sender, &error_sender);
        async {}
    });
    let urls = settings.urls.join(",");
    let client = options.connect(settings.urls.clone()).await.map_err(|source| BusError::Connect { urls, source })?;
    let builder = jetstream::ContextBuilder::new();
    let builder = match settings.api_prefix {
        Some(prefix) => builder.api_prefix(prefix).timeout(JETSTREAM_TIMEOUT),
        None => builder.timeout(JETSTREAM_TIMEOUT),
    };
    let jetstream = builder.ack_timeout(JETSTREAM_TIMEOUT).build(client.clone());
    Ok(Connection { client, jetstream, connects, last_error, credentials })
}

/// Connects once and disconnects: a client that reconnects by itself does not tell the kind of error that keeps it from
/// connecting.
///
/// # Errors
/// When no server lets us in.
pub async fn check(settings: &Settings) -> Result<(), BusError> {
    let options = options(settings, Arc::new(RwLock::new(settings.credentials.clone())))?;
    let urls = settings.urls.join(",");
    options.connect(&settings.urls).await.map(drop).map_err(|source| BusError::Connect { urls, source })
}

fn options(settings: &Settings, credentials: Arc<RwLock<Credentials>>) -> Result<ConnectOptions, BusError> {
    nkeys::KeyPair::from_seed(&settings.credentials.seed).map_err(BusError::Seed)?;
    let options = ConnectOptions::with_auth_callback(move |nonce| {
        let current = credentials.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        async move { sign_nonce(&current, &nonce) }
    })
    .name(&settings.name)
    .require_tls(true)
    .add_root_certificates(settings.ca_file.clone())
    .add_client_certificate(settings.cert_file.clone(), settings.key_file.clone())
    .connection_timeout(CONNECT_TIMEOUT)
    .ping_interval(settings.ping_interval)
    .reconnect_delay_callback(reconnect_delay);
    Ok(match &settings.inbox_prefix {
        Some(prefix) => options.custom_inbox_prefix(prefix),
        None => options,
    })
}

fn sign_nonce(credentials: &Credentials, nonce: &[u8]) -> Result<async_nats::Auth, async_nats::AuthError> {
    let pair = nkeys::KeyPair::from_seed(&credentials.seed).map_err(async_nats::AuthError::new)?;
    let mut auth = async_nats::Auth::new();
    auth.jwt = Some(credentials.user_jwt.clone());
    auth.signature = Some(pair.sign(nonce).map_err(async_nats::AuthError::new)?);
    Ok(auth)
}

fn reconnect_delay(attempts: usize) -> Duration {
    let ceiling = (100_u64 << attempts.min(8)).min(RECONNECT_DELAY_MAX_MS);
    let [low, high] = kubenova_runtime::random::bytes::<2>();
    Duration::from_millis(u64::from(u16::from_le_bytes([low, high])) * ceiling / u64::from(u16::MAX))
}

fn note_event(event: &Event, connects: &watch::Sender<u64>, last_error: &watch::Sender<Option<String>>) {
    match event {
        Event::Connected => {
            tracing::info!("connected to the broker");
            last_error.send_replace(None);
            connects.send_modify(|count| *count += 1);
        }
        Event::ServerError(error) => {
            tracing::warn!(%error, "the broker reported an error");
            last_error.send_replace(Some(error.to_string()));
        }
        Event::ClientError(error) => {
            tracing::warn!(%error, "the connection to the broker failed");
            last_error.send_replace(Some(error.to_string()));
        }
        Event::Disconnected => tracing::warn!("lost the connection to the broker"),
        other => tracing::debug!(event = %other, "broker connection event"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_clusters_do_not_reconnect_at_once() {
        let mean_ms = |attempts| (0..2_000).map(|_| reconnect_delay(attempts).as_millis()).sum::<u128>() / 2_000;
        assert!(mean_ms(0) <= 100, "the first attempt comes at once");
        assert!((6_500..8_500).contains(&mean_ms(20)), "half of the longest wait on average");
        assert!((0..100).all(|attempts| reconnect_delay(attempts) <= Duration::from_millis(RECONNECT_DELAY_MAX_MS)));
    }
}
