//! One connection: mutual TLS plus a user JWT whose nonce is signed with the nkey, so neither factor alone suffices.
//!
//! Certificate files are read again at every connection attempt, and the JWT is asked for at every attempt, so renewed
//! credentials take effect at the next reconnect without a restart.

use crate::{
    BusError, cause,
    dial::Dialer,
    leaf::{self, HubWatch, Leaf},
    relay::{Relay, RelayState, error::RelayError},
    route::{Route, Via, routes},
    tls::Files,
    transport::{Transport, TransportChoice},
};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, jetstream};
use futures::future::BoxFuture;
use kubenova_runtime::telemetry;
use std::{
    sync::{Arc, RwLock, Weak},
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
    /// `tls://host:port`, `wss://host[:port][/path]` and `grpcs://host[:port]`, in any order.
    pub urls: Vec<String>,
    /// A leaf node in front of the broker, where there is one.
    pub leaf: Option<Leaf>,
    /// Which of them may be used.
    pub transport: TransportChoice,
    /// Whether and by which proxy they are reached.
    pub dialer: Dialer,
    /// Whether servers that the broker names are connected to as well. A cluster behind a proxy or address translation cannot: they
    /// are addresses of the broker's own network.
    pub discover_servers: bool,
    /// Name that the broker shows for this connection.
    pub name: String,
    /// PEM files, read again at every connection attempt.
    pub files: Files,
    /// JWT and nkey.
    pub credentials: Credentials,
    /// Prefix of reply subjects; a cluster may subscribe to no other. None: the client's default.
    pub inbox_prefix: Option<String>,
    /// Prefix of the JetStream API. None: `$JS.API`.
    pub api_prefix: Option<String>,
    /// Time between pings; two missed end the connection.
    pub ping_interval: Duration,
}

/// A live connection that reconnects by itself for as long as one of its clones is held: a clone of `client` alone does not have it
/// reconnect.
#[derive(Debug, Clone)]
pub struct Connection {
    /// For core messages and requests.
    pub client: Client,
    /// For streams.
    pub jetstream: jetstream::Context,
    /// Number of connects so far: changes with every reconnect, of a leaf node to its hub as well.
    pub connects: watch::Receiver<u64>,
    /// The last error that broker or client reported, for conditions and logs; none since the last connect.
    pub last_error: watch::Receiver<Option<String>>,
    route: Route,
    relays: Relays,
    credentials: Arc<RwLock<Credentials>>,
    /// By way of a leaf node only; it ends with the last clone.
    hub: Option<Arc<HubWatch>>,
    is_first_choice: bool,
}

impl Connection {
    /// Replaces JWT and seed for the next connection attempt.
    pub fn renew(&self, credentials: Credentials) {
        *self.credentials.write().unwrap_or_else(std::sync::PoisonError::into_inner) = credentials;
    }

    /// How the broker is reached.
    #[must_use]
    pub fn via(&self) -> Via {
        Via { transport: self.route.transport, proxy: self.relays.state.proxy.borrow().clone() }
    }

    /// Asks the hub behind a leaf node for a sign of life; nothing where there is no leaf node between, whose connection says enough. For
    /// whoever waited for an answer in vain.
    ///
    /// # Errors
    /// When the hub does not answer.
    pub async fn check_hub(&self) -> Result<(), BusError> {
        match &self.hub {
            Some(hub) => hub.check(&self.client).await.map_err(|error| of(Transport::Leaf, error)),
            None => Ok(()),
        }
    }

    /// False when there is a leaf node that may be used, and this connection goes past it.
    #[must_use]
    pub const fn is_first_choice(&self) -> bool {
        self.is_first_choice
    }

    /// True when connected at this moment, by way of a leaf node up to the hub.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        leaf::is_connected(&self.client) && self.hub.as_ref().is_none_or(|hub| hub.is_reached())
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

/// Time for one way to the broker while there is another to try.
const ROUTE_LIMIT: Duration = Duration::from_secs(15);

/// Makes the first connection; from then on the client reconnects by itself, by the same transport.
///
/// # Errors
/// When no broker accepts the connection, by any transport that may be used, within [`CONNECT_TIMEOUT`] for each of its addresses, or
/// the seed cannot be read.
pub async fn connect(settings: Settings) -> Result<Connection, BusError> {
    first_of(&settings, |settings, route| Box::pin(by(settings, route))).await
}

/// The same by the leaf node alone: the way back to it from a connection that is not the first choice.
///
/// # Errors
/// As [`connect`].
pub async fn connect_by_first_choice(settings: Settings) -> Result<Connection, BusError> {
    let transport = if may_use_leaf(&settings) { TransportChoice::Leaf } else { settings.transport };
    connect(Settings { transport, ..settings }).await
}

/// Connects once and disconnects: a client that reconnects by itself does not tell the kind of error that keeps it from
/// connecting.
///
/// # Errors
/// When no server lets us in.
pub async fn check(settings: &Settings) -> Result<(), BusError> {
    first_of(settings, |settings, route| Box::pin(once(settings, route))).await
}

/// The first route by which something is done. Routes are tried one after the other, each for a bounded time when it is not the only one.
async fn first_of<'a, T>(
    settings: &'a Settings,
    attempt: fn(&'a Settings, Route) -> BoxFuture<'a, Result<T, BusError>>,
) -> Result<T, BusError> {
    let mut routes = routes(settings.transport, &settings.dialer, &settings.urls, settings.leaf.as_ref());
    if routes.len() < 2 {
        let urls = settings.urls.join(",");
        let only = routes.pop().ok_or(BusError::NoUrl { urls })?;
        let transport = only.transport;
        return attempt(settings, only).await.map_err(|error| of(transport, error));
    }
    let mut tried = Vec::new();
    for route in routes {
        let (transport, urls) = (route.transport, route.shown());
        let timed_out = |_| Err(BusError::Connect { urls, source: ConnectError::new(ConnectErrorKind::TimedOut) });
        match tokio::time::timeout(ROUTE_LIMIT, attempt(settings, route)).await.unwrap_or_else(timed_out) {
            Ok(done) => return Ok(done),
            Err(error) => {
                let error = of(transport, error);
                tracing::debug!(%transport, error = %telemetry::chain(&error), "a transport does not lead to the broker");
                tried.push((transport, error));
            }
        }
    }
    Err(BusError::Routes { tried })
}

/// Who puts an error right depends on what was to be reached.
fn of(transport: Transport, error: BusError) -> BusError {
    if transport == Transport::Leaf { BusError::Leaf(Box::new(error)) } else { error }
}

fn may_use_leaf(settings: &Settings) -> bool {
    settings.leaf.is_some() && settings.transport.order().contains(&Transport::Leaf)
}

/// The leaf node that a route goes by.
fn leaf_of<'a>(settings: &'a Settings, route: &Route) -> Option<&'a Leaf> {
    settings.leaf.as_ref().filter(|_| route.transport == Transport::Leaf)
}

/// The Manager, beside its broker, connects to whatever server the broker names, which no relay can.
async fn reachable(settings: &Settings, route: Route) -> Route {
    if settings.discover_servers { route } else { route.of_both_families().await }
}

async fn once(settings: &Settings, route: Route) -> Result<(), BusError> {
    let route = reachable(settings, route).await;
    let credentials = Arc::new(RwLock::new(settings.credentials.clone()));
    let relays = Relays::start(settings, &route).await?;
    let options = options(settings, &route, &relays, &credentials)?;
    let client = relays.connect(&route, options).await?;
    match leaf_of(settings, &route) {
        Some(leaf) => leaf::wait_for_hub(&client, leaf).await,
        None => Ok(()),
    }
}

async fn by(settings: &Settings, route: Route) -> Result<Connection, BusError> {
    let route = reachable(settings, route).await;
    let credentials = Arc::new(RwLock::new(settings.credentials.clone()));
    let (connects_sender, connects) = watch::channel(0_u64);
    let (error_sender, last_error) = watch::channel(None);
    let relays = Relays::start(settings, &route).await?;
    let options = options(settings, &route, &relays, &credentials)?;
    let relay_error = relays.state.error.subscribe();
    let (noted_connects, noted_error) = (connects_sender.clone(), error_sender.clone());
    let options = options.event_callback(move |event| {
        note_event(&event, &noted_connects, &noted_error, &relay_error);
        async {}
    });
    let client = relays.connect(&route, options).await?;
    let hub = match leaf_of(settings, &route) {
        Some(leaf) => {
            leaf::wait_for_hub(&client, leaf).await?;
            let watch = HubWatch::start(client.clone(), leaf, settings.ping_interval, connects_sender, error_sender);
            Some(Arc::new(watch))
        }
        None => None,
    };
    let builder = jetstream::ContextBuilder::new();
    let builder = match &settings.api_prefix {
        Some(prefix) => builder.api_prefix(prefix).timeout(JETSTREAM_TIMEOUT),
        None => builder.timeout(JETSTREAM_TIMEOUT),
    };
    let jetstream = builder.ack_timeout(JETSTREAM_TIMEOUT).build(client.clone());
    let is_first_choice = leaf_of(settings, &route).is_some() || !may_use_leaf(settings);
    Ok(Connection { client, jetstream, connects, last_error, route, relays, credentials, hub, is_first_choice })
}

/// The relays of one client; none where it connects by itself. They end with the last clone of its connection.
#[derive(Debug, Clone)]
struct Relays {
    all: Arc<[Relay]>,
    state: RelayState,
}

impl Relays {
    async fn start(settings: &Settings, route: &Route) -> Result<Self, BusError> {
        let state = RelayState { error: watch::Sender::new(None), proxy: watch::Sender::new(None) };
        let mut all = Vec::new();
        for url in route.urls.iter().filter(|_| route.is_relayed) {
            let relay = Relay::start(url.clone(), settings.dialer.clone(), settings.files.clone(), state.clone());
            all.push(relay.await.map_err(BusError::Listen)?);
        }
        Ok(Self { all: all.into(), state })
    }

    async fn connect(&self, route: &Route, options: ConnectOptions) -> Result<Client, BusError> {
        let urls: Vec<String> = if route.is_relayed {
            self.all.iter().map(Relay::url).collect()
        } else {
            route.urls.iter().map(|url| url.text.clone()).collect()
        };
        options.connect(urls).await.map_err(|source| {
            let urls = route.shown();
            // The client sees no more than the end of a relayed connection, unless the broker spoke to it.
            match self.state.error.borrow().clone() {
                Some(error) if !cause::is_said_by_broker(&source) => BusError::Relay { urls, source: error },
                _ => BusError::Connect { urls, source },
            }
        })
    }
}

fn options(
    settings: &Settings,
    route: &Route,
    relays: &Relays,
    credentials: &Arc<RwLock<Credentials>>,
) -> Result<ConnectOptions, BusError> {
    nkeys::KeyPair::from_seed(&settings.credentials.seed).map_err(BusError::Seed)?;
    // The client goes on with its attempts when nothing holds it any more, and cannot be stopped: it must hold nothing in its turn.
    let (relays, held) = (Arc::downgrade(&relays.all), Arc::downgrade(credentials));
    let leaf = leaf_of(settings, route);
    let sign = if leaf.is_some() { sign_nonce_as_nkey } else { sign_nonce };
    let current = Weak::clone(&held);
    let options = ConnectOptions::with_auth_callback(move |nonce| {
        let current = current.upgrade();
        let current = current.map(|it| it.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone());
        async move {
            let unused = || async_nats::AuthError::new("the connection is not used any more");
            sign(&current.ok_or_else(unused)?, &nonce)
        }
    })
    .name(&settings.name)
    .connection_timeout(CONNECT_TIMEOUT)
    .ping_interval(settings.ping_interval)
    // It is asked before each attempt, and so it is where the relays learn of one.
    .reconnect_delay_callback(move |attempts| {
        if held.strong_count() == 0 {
            return Duration::MAX;
        }
        relays.upgrade().iter().flat_map(|relays| relays.iter()).for_each(Relay::want);
        reconnect_delay(attempts)
    });
    let Files { ca, certificate, key } = settings.files.clone();
    let ca = leaf.map_or(ca, |leaf| leaf.ca.clone());
    let options = if route.is_relayed {
        options
    } else {
        options.require_tls(true).add_root_certificates(ca).add_client_certificate(certificate, key)
    };
    let options = if settings.discover_servers { options } else { options.ignore_discovered_servers() };
    Ok(match &settings.inbox_prefix {
        Some(prefix) => options.custom_inbox_prefix(prefix),
        None => options,
    })
}

fn sign_nonce(credentials: &Credentials, nonce: &[u8]) -> Result<async_nats::Auth, async_nats::AuthError> {
    let (_, signature) = signed(credentials, nonce)?;
    let mut auth = async_nats::Auth::new();
    auth.jwt = Some(credentials.user_jwt.clone());
    auth.signature = Some(signature);
    Ok(auth)
}

/// For a server that is not in operator mode: it knows the nkey itself, and would not read a JWT.
fn sign_nonce_as_nkey(credentials: &Credentials, nonce: &[u8]) -> Result<async_nats::Auth, async_nats::AuthError> {
    let (nkey, signature) = signed(credentials, nonce)?;
    let mut auth = async_nats::Auth::new();
    auth.nkey = Some(nkey);
    auth.signature = Some(signature);
    Ok(auth)
}

/// Longest nonce that is signed, in bytes; nats-server's have 15.
const NONCE_MAX: usize = 64;

/// The public nkey, and its signature over the nonce. Whoever plays the broker chooses the nonce, so nothing is signed that means anything
/// elsewhere.
fn signed(credentials: &Credentials, nonce: &[u8]) -> Result<(String, Vec<u8>), async_nats::AuthError> {
    // A server without users asks for none, and then it is empty.
    let is_base64 = nonce.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
    if nonce.len() > NONCE_MAX || !is_base64 {
        return Err(async_nats::AuthError::new(
            "the broker's nonce is not one of nats-server; find out what answers at its URL",
        ));
    }
    let pair = nkeys::KeyPair::from_seed(&credentials.seed).map_err(async_nats::AuthError::new)?;
    let signature = pair.sign(nonce).map_err(async_nats::AuthError::new)?;
    Ok((pair.public_key(), signature))
}

fn reconnect_delay(attempts: usize) -> Duration {
    let ceiling = (100_u64 << attempts.min(8)).min(RECONNECT_DELAY_MAX_MS);
    let [low, high] = kubenova_runtime::random::bytes::<2>();
    Duration::from_millis(u64::from(u16::from_le_bytes([low, high])) * ceiling / u64::from(u16::MAX))
}

fn note_event(
    event: &Event,
    connects: &watch::Sender<u64>,
    last_error: &watch::Sender<Option<String>>,
    relay_error: &watch::Receiver<Option<RelayError>>,
) {
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
            let relayed = relay_error.borrow().as_ref().map(|error| telemetry::chain(error));
            let error = relayed.unwrap_or_else(|| error.to_string());
            tracing::warn!(error, "the connection to the broker failed");
            last_error.send_replace(Some(error));
        }
        Event::Disconnected => tracing::warn!("lost the connection to the broker"),
        other => tracing::debug!(event = %other, "broker connection event"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_nonce_is_signed() {
        let seed = nkeys::KeyPair::new_user().seed().unwrap();
        let credentials = Credentials { user_jwt: "jwt".to_owned(), seed };
        let sign =
            |nonce: &[u8]| (sign_nonce(&credentials, nonce).is_ok(), sign_nonce_as_nkey(&credentials, nonce).is_ok());
        assert_eq!(sign(b"x_Y-0123456789A"), (true, true));
        for nonce in [&b"DSSEv1 1 a 1 b"[..], b"two words", b"\xff", &[b'a'; NONCE_MAX + 1]] {
            assert_eq!(sign(nonce), (false, false), "{nonce:?}");
        }
    }

    #[test]
    fn many_clusters_do_not_reconnect_at_once() {
        let mean_ms = |attempts| (0..2_000).map(|_| reconnect_delay(attempts).as_millis()).sum::<u128>() / 2_000;
        assert!(mean_ms(0) <= 100, "the first attempt comes at once");
        assert!((6_500..8_500).contains(&mean_ms(20)), "half of the longest wait on average");
        assert!((0..100).all(|attempts| reconnect_delay(attempts) <= Duration::from_millis(RECONNECT_DELAY_MAX_MS)));
    }
}
