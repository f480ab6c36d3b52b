//! Builds the parts in the order in which data flows and hands each only what it needs.
//!
//! REST and enrollment serve whether the broker answers or not: wishes wait in Postgres. Everything that needs the broker
//! begins with its first connection and survives every later loss of it.

use crate::{
    billing,
    commands::keys,
    ingest::{
        outcomes, status,
        usage::{self, UsageIngest},
    },
    outbox_listener,
    own_identity::OwnIdentity,
    receipts::{self, Receipts},
    relay::{self, Relay, RelaySettings},
    session::{self, Sessions},
    settings::{Intervals, Settings},
};
use anyhow::{Context as _, Result, bail};
use jiff::SignedDuration;
use kubenova_api::{
    enrollment::{self, Enrollment},
    router::router_with,
    serve::serve,
    state::{self, AppState, EnrollmentSettings},
};
use kubenova_bus::{Connection, Credentials, streams};
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::{backoff, clock, probe::Gates, random, shutdown::Shutdown, telemetry};
use kubenova_store::pool::Store;
use kubenova_trust::keyring::Keyring;
use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Notify, mpsc, watch};

/// Name of an inherited listening socket, by number.
const LISTEN_FD: &str = "KUBENOVA_LISTEN_FD";
/// Name of the gate that waits for the broker.
const BROKER: &str = "broker";
/// Time between looks at the connection, for `/readyz`.
const LOOK: Duration = Duration::from_secs(1);

/// A Manager that runs.
#[derive(Debug)]
pub struct Running {
    /// Where REST and enrollment listen.
    pub addresses: Vec<SocketAddr>,
    _temporary: Option<tempfile::TempDir>,
}

/// Starts every part; they end when `shutdown` asks them to.
///
/// # Errors
/// When the database does not answer, the keys cannot be opened, or an address cannot be listened on. A broker that does
/// not answer is waited for.
pub async fn start(settings: Settings, shutdown: Shutdown) -> Result<Running> {
    let store = settings.store()?;
    store.migrate().await?;
    let keyring = Arc::new(keys::open(&settings, &store).await?);
    let gates = Gates::default();
    gates.set(BROKER, Some("not connected yet".to_owned()));

    // Without a stateDir in a folder of this process, which ends with it: it holds a private key.
    let (folder, temporary) = match &settings.state_dir {
        Some(folder) => (folder.clone(), None),
        None => {
            let made = tempfile::Builder::new().prefix("kubenova-manager-").tempdir();
            let made = made.context("could not make a temporary folder: set stateDir to a writable one")?;
            (made.path().to_owned(), Some(made))
        }
    };
    let identity =
        OwnIdentity::issue(Arc::clone(&keyring), &settings.public_names, settings.lifetimes.server(), &folder)?;
    let listeners = listeners(&settings.listen)?;
    let addresses = listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<Result<Vec<_>, _>>()
        .context("could not read an address")?;

    let router =
        router_with(app_state(&settings, &store, &keyring, &gates)?, enrollment_router(&settings, &store, &keyring));
    let tls = identity.server_config()?;
    let stop = shutdown.clone();
    shutdown.spawn("rest", async move {
        if let Err(error) = serve(listeners, tls, router, &stop).await {
            tracing::error!(error = %telemetry::chain(&error), "serving ended");
        }
    });

    let broker = Broker {
        bus: identity.bus_settings(&settings.nats.urls, Duration::from_secs(settings.nats.ping_interval_seconds)),
        credentials: identity.credentials(),
        store,
        keyring,
        gates,
        relay: relay_settings(&settings.intervals),
        shutdown: shutdown.clone(),
    };
    shutdown.spawn("own identity", identity.renew(shutdown.clone()));
    shutdown.spawn(BROKER, broker.run());
    Ok(Running { addresses, _temporary: temporary })
}

fn app_state(settings: &Settings, store: &Store, keyring: &Keyring, gates: &Gates) -> Result<AppState> {
    let components = match &settings.components {
        Some(chosen) => chosen.to_core()?,
        None => state::default_components(),
    };
    let token_ttl =
        i64::try_from(settings.lifetimes.enrollment_token_seconds).map_or(state::TOKEN_TTL, SignedDuration::from_secs);
    let enrollment = EnrollmentSettings {
        endpoints: settings.endpoints.clone(),
        ca_spki_sha256: keyring.authority.ca_spki_sha256().to_owned(),
        token_ttl,
        chart: settings.chart.clone(),
    };
    Ok(AppState {
        store: store.clone(),
        settings: Arc::new(state::Settings { enrollment, components }),
        gates: gates.clone(),
        listening_since: clock::now(),
    })
}

fn enrollment_router(settings: &Settings, store: &Store, keyring: &Arc<Keyring>) -> axum::Router {
    enrollment::router(Enrollment {
        store: store.clone(),
        keyring: Arc::clone(keyring),
        broker_urls: settings.cluster_broker_urls().to_vec(),
        certificate_lifetime: settings.lifetimes.certificate(),
        user_jwt_lifetime: settings.lifetimes.user_jwt(),
    })
}

const fn relay_settings(intervals: &Intervals) -> RelaySettings {
    RelaySettings {
        poll: Duration::from_millis(intervals.poll_ms),
        send_again_after: Duration::from_millis(intervals.sweep_ms),
        stale_after: Duration::from_millis(intervals.heartbeat_stale_ms),
    }
}

/// Everything that needs the broker.
struct Broker {
    bus: kubenova_bus::Settings,
    credentials: watch::Receiver<Credentials>,
    store: Store,
    keyring: Arc<Keyring>,
    gates: Gates,
    relay: RelaySettings,
    shutdown: Shutdown,
}

impl Broker {
    async fn run(self) {
        let Some(connection) = self.connect().await else { return };
        self.ensure_streams(&connection).await;
        self.start_parts(&connection);
        self.watch(connection).await;
    }

    /// The first connection, however long it takes; none when a stop is asked for.
    async fn connect(&self) -> Option<Connection> {
        let mut waits = backoff::forever();
        loop {
            let mut settings = self.bus.clone();
            settings.credentials = self.credentials.borrow().clone();
            match kubenova_bus::connect(settings).await {
                Ok(connection) => return Some(connection),
                Err(error) => {
                    let error = telemetry::chain(&error);
                    tracing::warn!(error, "could not connect to the broker; trying again");
                    self.gates.set(BROKER, Some(error));
                }
            }
            let wait = waits.next().unwrap_or(Duration::from_secs(15));
            tokio::select! {
                () = self.shutdown.requested() => return None,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn ensure_streams(&self, connection: &Connection) {
        if let Err(error) = streams::ensure_all(&connection.jetstream).await {
            tracing::warn!(error = %telemetry::chain(&error), "could not make the streams; each part tries again by itself");
        }
    }

    fn start_parts(&self, connection: &Connection) {
        let (receipt_wishes, wishes) = mpsc::channel::<ClusterId>(receipts::WISHES_MAX);
        let (relay_wake, billing_wake) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (store, jetstream, shutdown) = (&self.store, &connection.jetstream, &self.shutdown);

        shutdown.spawn("outbox bell", outbox_listener::run(store.clone(), Arc::clone(&relay_wake), shutdown.clone()));
        let relay = Relay {
            store: store.clone(),
            jetstream: jetstream.clone(),
            key: Arc::clone(&self.keyring.command),
            owner: random::uuid_v7().to_string(),
            wake: Arc::clone(&relay_wake),
            settings: self.relay,
        };
        shutdown.spawn("relay", relay::run(relay, shutdown.clone()));

        let sessions = Sessions {
            store: store.clone(),
            connection: connection.clone(),
            keys: self.keyring.command_public.clone(),
            receipts: receipt_wishes.clone(),
            wake: relay_wake,
        };
        shutdown.spawn("sessions", session::run(sessions, shutdown.clone()));
        let heartbeats = session::heartbeat::run(store.clone(), connection.clone(), shutdown.clone());
        shutdown.spawn("heartbeats", heartbeats);

        shutdown.spawn("outcome ingest", outcomes::run(store.clone(), jetstream.clone(), shutdown.clone()));
        shutdown.spawn("status ingest", status::run(store.clone(), jetstream.clone(), shutdown.clone()));
        let ingest = UsageIngest { store: store.clone(), receipts: receipt_wishes, billing: Arc::clone(&billing_wake) };
        shutdown.spawn("usage ingest", usage::run(ingest, jetstream.clone(), shutdown.clone()));

        let parts = Receipts {
            store: store.clone(),
            jetstream: jetstream.clone(),
            key: Arc::clone(&self.keyring.command),
            wishes,
        };
        shutdown.spawn("receipts", receipts::run(parts, shutdown.clone()));
        shutdown.spawn("billing", billing::run(store.clone(), jetstream.clone(), billing_wake, shutdown.clone()));
    }

    /// Keeps the gate, the credentials and, after every reconnect, the streams as they should be.
    async fn watch(mut self, mut connection: Connection) {
        let mut look = tokio::time::interval(LOOK);
        connection.connects.mark_unchanged();
        loop {
            tokio::select! {
                () = self.shutdown.requested() => break,
                _ = look.tick() => {
                    let waiting = (!connection.is_connected()).then(|| {
                        connection.last_error.borrow().clone().unwrap_or_else(|| "the connection is lost".to_owned())
                    });
                    self.gates.set(BROKER, waiting);
                }
                Ok(()) = self.credentials.changed() => {
                    let renewed = self.credentials.borrow_and_update().clone();
                    connection.renew(renewed);
                    // Now, while nothing is wrong: else the broker ends the connection when the old JWT does.
                    if let Err(error) = connection.client.force_reconnect().await {
                        tracing::debug!(%error, "could not reconnect with renewed credentials; the next reconnect has them");
                    }
                }
                Ok(()) = connection.connects.changed() => {
                    connection.connects.mark_unchanged();
                    self.ensure_streams(&connection).await;
                }
            }
        }
        if let Err(error) = connection.client.drain().await {
            tracing::debug!(%error, "could not drain the connection to the broker");
        }
    }
}

/// The sockets to serve on: an inherited one takes the place of the configured addresses.
fn listeners(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>> {
    if let Ok(text) = std::env::var(LISTEN_FD) {
        return Ok(vec![inherited(&text)?]);
    }
    if addresses.is_empty() {
        bail!("listen is empty: name at least one address, for example 0.0.0.0:8443");
    }
    addresses
        .iter()
        .map(|address| {
            TcpListener::bind(address).with_context(|| format!("could not listen on {address}: is it taken?"))
        })
        .collect()
}

fn inherited(text: &str) -> Result<TcpListener> {
    use std::os::fd::{FromRawFd as _, OwnedFd};
    let number: i32 = text.parse().with_context(|| format!("{LISTEN_FD} is \"{text}\", not the number of a socket"))?;
    if number < 3 || !std::path::Path::new(&format!("/proc/self/fd/{number}")).exists() {
        bail!("{LISTEN_FD} is {number}, which is no open descriptor of this process");
    }
    #[expect(unsafe_code, reason = "the number was given to this process to own, is open, and is taken once")]
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    let listener = TcpListener::from(owned);
    listener.local_addr().with_context(|| format!("{LISTEN_FD} is {number}, which is no listening socket"))?;
    Ok(listener)
}
