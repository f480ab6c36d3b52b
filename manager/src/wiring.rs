//! Builds the parts in the order in which data flows and hands each only what it needs.
//!
//! REST and enrollment serve whether the broker is reachable or not: commands wait in Postgres. Everything that needs the
//! broker begins with its first connection and survives every later loss of it.

use crate::{
    accounts::{self, Accounts},
    audit_log,
    billing::{self, Billing},
    commands::keys,
    expiry, http,
    ingest::{
        durable::Ingest,
        outcomes, status,
        usage::{self, Wakes},
    },
    key_changes::{self, KeyWatch},
    metrics::{self, Metrics},
    outbox_listener,
    own_identity::OwnIdentity,
    receipts::{self, ReceiptQueue, Receipts},
    relay::{self, Backlog, Relay, RelaySettings, Signals},
    rollouts,
    session::{self, Sessions},
    settings::{Intervals, Settings},
};
use anyhow::{Context as _, Result, bail};
use jiff::SignedDuration;
use kubenova_api::{
    body::BODY_TIMEOUT,
    enrollment::{self, Enrollment},
    enrollment_limits::EnrollmentLimits,
    identity_issuer::IdentityIssuer,
    renewal::{self, Renewal},
    router::router_with,
    serve::{HEADER_TIMEOUT, Server, serve},
    state::{self, AppState, EnrollmentSettings, PinnedCa},
    write_slots::WriteSlots,
};
use kubenova_bus::{Connection, Credentials, streams};
use kubenova_runtime::{
    clock, listen,
    metrics::{Registry, serve as serve_metrics},
    probe::Gates,
    retry::Retry,
    shutdown::Shutdown,
    telemetry,
};
use kubenova_store::pool::Store;
use kubenova_trust::{
    current::{self, CurrentKeyring},
    envelope::Envelope,
};
use prometheus_client::metrics::gauge::Gauge;
use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// Environment variable with the number of an inherited listening socket.
const LISTEN_FD: &str = "KUBENOVA_LISTEN_FD";
/// The gate that is closed while the broker is not connected.
const BROKER: &str = "broker";
/// The gate that is closed until the Manager is connected in the broker's system account.
const SYSTEM_ACCOUNT: &str = "broker-system-account";
/// Time between two checks of the connection, for `/readyz`.
const CHECK: Duration = Duration::from_secs(1);

/// A Manager that runs.
#[derive(Debug)]
pub struct Running {
    /// Where REST and enrollment listen.
    pub addresses: Vec<SocketAddr>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    _temporary: Option<tempfile::TempDir>,
}

/// Starts every part; they end when a stop is requested.
///
/// # Errors
/// When the database does not answer, the keys cannot be opened, or an address cannot be listened on. An unreachable broker
/// is no error: the Manager keeps trying.
pub async fn start(settings: Settings, shutdown: Shutdown) -> Result<Running> {
    let store = settings.connect_and_migrate().await?;
    let envelope = Envelope::from_file(&settings.kek_file)?;
    let (keyring_sender, keyring) = current::channel(keys::open_with(&envelope, &store, &settings.trust_domain).await?);
    let gates = Gates::default();
    gates.set(BROKER, Some("not connected yet".to_owned()));
    let (metrics, metrics_address) = start_metrics(settings.metrics.listen, &shutdown).await?;

    // Without a stateDir it is a folder that ends with this process, because it holds a private key.
    let (folder, temporary) = match &settings.state_dir {
        Some(folder) => (folder.clone(), None),
        None => {
            let made = tempfile::Builder::new().prefix("kubenova-manager-").tempdir();
            let made = made.context("could not create a temporary folder: set stateDir to a writable one")?;
            (made.path().to_owned(), Some(made))
        }
    };
    let identity = OwnIdentity::issue(&keyring, &settings.public_names, settings.lifetimes.server(), &folder)?;
    let listeners = listeners(&settings.listen)?;
    let addresses = listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<Result<Vec<_>, _>>()
        .context("could not read the address of a listener")?;

    let router =
        router_with(app_state(&settings, &store, &keyring, &gates)?, enrollment_router(&settings, &store, &keyring));
    let router = http::observed(router, metrics.requests.clone());
    let tls = identity.server_config()?;
    let server = Server { listeners, tls, router, header_timeout: HEADER_TIMEOUT };
    let stop = shutdown.clone();
    shutdown.spawn("rest", async move {
        if let Err(error) = serve(server, &stop).await {
            tracing::error!(error = %telemetry::chain(&error), "the REST listener failed");
        }
    });

    let ping_interval = Duration::from_secs(settings.nats.ping_interval_seconds);
    let system = SystemAccount {
        bus: identity.system_bus_settings(&settings.nats.urls, ping_interval),
        credentials: identity.system_credentials(),
        store: store.clone(),
        keyring: keyring.clone(),
        servers_behind: metrics.broker_servers_behind.clone(),
        gates: gates.clone(),
        shutdown: shutdown.clone(),
    };
    shutdown.spawn("account JWTs", system.run());
    let broker = Broker {
        bus: identity.bus_settings(&settings.nats.urls, ping_interval),
        credentials: identity.credentials(),
        store,
        keyring,
        gates,
        relay: relay_settings(&settings.intervals),
        metrics,
        shutdown: shutdown.clone(),
    };
    let stored = metrics::gauges::run(
        broker.store.clone(),
        broker.metrics.stored.clone(),
        broker.relay.stale_after,
        shutdown.clone(),
    );
    shutdown.spawn("database metrics", stored);
    shutdown.spawn("audit log", audit_log::run(broker.store.clone(), shutdown.clone()));
    shutdown.spawn("expiry", expiry::run(broker.store.clone(), settings.retention.clone(), shutdown.clone()));
    shutdown.spawn("rollouts", rollouts::run(broker.store.clone(), shutdown.clone()));
    let key_watch = KeyWatch {
        store: broker.store.clone(),
        envelope,
        trust_domain: settings.trust_domain,
        keyring: keyring_sender,
        gates: broker.gates.clone(),
    };
    shutdown.spawn("key changes", key_changes::run(key_watch, shutdown.clone()));
    shutdown.spawn("own identity", identity.renew(shutdown.clone()));
    shutdown.spawn(BROKER, broker.run());
    Ok(Running { addresses, metrics: metrics_address, _temporary: temporary })
}

/// Registers the metrics and serves them where the settings say.
async fn start_metrics(listen: Option<SocketAddr>, shutdown: &Shutdown) -> Result<(Metrics, Option<SocketAddr>)> {
    let mut registry = Registry::new(metrics::PREFIX);
    let metrics = Metrics::register(&mut registry);
    let Some(address) = listen else { return Ok((metrics, None)) };
    let bound = listen::tcp_for_tasks(address);
    let listener = bound.with_context(|| {
        format!(
            "could not serve metrics on {address}: set metrics.listen to a free address, or to null to switch it off"
        )
    })?;
    let address = listener.local_addr().context("could not read the address of the metrics listener")?;
    shutdown.spawn("metrics", serve_metrics(listener, Arc::new(registry), shutdown.clone()));
    Ok((metrics, Some(address)))
}

fn app_state(settings: &Settings, store: &Store, keyring: &CurrentKeyring, gates: &Gates) -> Result<AppState> {
    let components = match &settings.components {
        Some(chosen) => chosen.to_core()?,
        None => state::default_components(),
    };
    let token_ttl =
        i64::try_from(settings.lifetimes.enrollment_token_seconds).map_or(state::TOKEN_TTL, SignedDuration::from_secs);
    let enrollment = EnrollmentSettings {
        endpoints: settings.endpoints.clone(),
        ca: PinnedCa::Of(keyring.clone()),
        token_ttl,
        chart: settings.chart.clone(),
    };
    Ok(AppState {
        store: store.clone(),
        settings: Arc::new(state::Settings { enrollment, components }),
        gates: gates.clone(),
        listening_since: clock::now(),
        body_timeout: BODY_TIMEOUT,
        writes: WriteSlots::of_pool(store.connections_max()),
    })
}

/// Enrollment and renewal: what clusters ask for without a token of REST.
fn enrollment_router(settings: &Settings, store: &Store, keyring: &CurrentKeyring) -> axum::Router {
    let issuer = IdentityIssuer {
        keyring: keyring.clone(),
        broker_urls: settings.cluster_broker_urls().to_vec(),
        leaf_urls: settings.nats.leaf_public_urls.clone(),
        endpoints: settings.endpoints.clone(),
        certificate_lifetime: settings.lifetimes.certificate(),
        user_jwt_lifetime: settings.lifetimes.user_jwt(),
    };
    let limits = EnrollmentLimits::new(issuer.life());
    let renewal = Renewal { store: store.clone(), issuer: issuer.clone(), limits: limits.clone() };
    enrollment::router(Enrollment { store: store.clone(), issuer, limits }).merge(renewal::router(renewal))
}

const fn relay_settings(intervals: &Intervals) -> RelaySettings {
    RelaySettings {
        poll: Duration::from_millis(intervals.poll_ms),
        send_again_after: Duration::from_millis(intervals.resend_after_ms),
        report_again_after: Duration::from_millis(intervals.report_again_after_ms),
        stale_after: Duration::from_millis(intervals.heartbeat_stale_ms),
    }
}

/// Everything that needs the broker.
struct Broker {
    bus: kubenova_bus::Settings,
    credentials: watch::Receiver<Credentials>,
    store: Store,
    keyring: CurrentKeyring,
    gates: Gates,
    relay: RelaySettings,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl Broker {
    async fn run(self) {
        let Some(connection) = self.connect().await else { return };
        self.ensure_streams(&connection).await;
        self.start_parts(&connection);
        self.watch(connection).await;
    }

    /// The first connection, however long it takes; none when a stop is requested.
    async fn connect(&self) -> Option<Connection> {
        let attempt = || async {
            let mut settings = self.bus.clone();
            settings.credentials = self.credentials.borrow().clone();
            let connected = kubenova_bus::connect(settings).await;
            if let Err(error) = &connected {
                self.gates.set(BROKER, Some(telemetry::chain(error)));
            }
            connected
        };
        Retry::new("connect to the broker").until_ok(&self.shutdown, attempt).await
    }

    async fn ensure_streams(&self, connection: &Connection) {
        if let Err(error) = streams::ensure_all(&connection.jetstream).await {
            tracing::warn!(error = %telemetry::chain(&error), "could not create the streams; each part tries again by itself");
        }
    }

    fn start_parts(&self, connection: &Connection) {
        let receipts_due = ReceiptQueue::default();
        let (signals, billing_wake) = (Arc::new(Signals::default()), Arc::new(Notify::new()));
        let backlog = Arc::new(Backlog::new(Arc::clone(&signals)));
        self.start_commands(connection, &signals, &backlog, &receipts_due);
        self.start_reports(connection, &backlog, &receipts_due, &billing_wake);
        let (jetstream, shutdown) = (&connection.jetstream, &self.shutdown);
        let receipts = Receipts {
            store: self.store.clone(),
            jetstream: jetstream.clone(),
            keyring: self.keyring.clone(),
            due: receipts_due,
            due_count: self.metrics.receipts_due.clone(),
        };
        shutdown.spawn("receipts", receipts::run(receipts, shutdown.clone()));
        let billing = Billing {
            store: self.store.clone(),
            jetstream: jetstream.clone(),
            wake: billing_wake,
            published: self.metrics.billing_published.clone(),
        };
        shutdown.spawn("billing", billing::run(billing, shutdown.clone()));
    }

    /// Out: listener, relay; and the sessions that decide to whom.
    fn start_commands(
        &self,
        connection: &Connection,
        signals: &Arc<Signals>,
        backlog: &Arc<Backlog>,
        receipts: &ReceiptQueue,
    ) {
        let (store, shutdown) = (&self.store, &self.shutdown);
        let listener = outbox_listener::run(store.clone(), Arc::clone(signals), shutdown.clone());
        shutdown.spawn("outbox listener", listener);
        let relay = Relay {
            store: store.clone(),
            jetstream: connection.jetstream.clone(),
            doubt: relay::Doubt::default(),
            keyring: self.keyring.clone(),
            signals: Arc::clone(signals),
            backlog: Arc::clone(backlog),
            settings: self.relay,
            metrics: self.metrics.relay.clone(),
        };
        shutdown.spawn("relay", relay::run(relay, shutdown.clone()));
        let sessions = Sessions {
            store: store.clone(),
            connection: connection.clone(),
            keyring: self.keyring.clone(),
            silent_after: SignedDuration::try_from(self.relay.stale_after).unwrap_or(SignedDuration::MAX),
            receipts: receipts.clone(),
            signals: Arc::clone(signals),
            metrics: self.metrics.sessions.clone(),
        };
        let heartbeats = session::heartbeat::run(sessions.clone(), shutdown.clone());
        shutdown.spawn("listings", session::listing::run(sessions.clone(), shutdown.clone()));
        shutdown.spawn("records", session::records::run(sessions.clone(), shutdown.clone()));
        shutdown.spawn("heartbeats", heartbeats);
        shutdown.spawn("sessions", session::run(sessions, shutdown.clone()));
    }

    /// In: what clusters report.
    fn start_reports(
        &self,
        connection: &Connection,
        backlog: &Arc<Backlog>,
        receipts: &ReceiptQueue,
        billing: &Arc<Notify>,
    ) {
        let shutdown = &self.shutdown;
        let ingest = Ingest {
            store: self.store.clone(),
            jetstream: connection.jetstream.clone(),
            metrics: self.metrics.ingest.clone(),
        };
        let report_again_after = self.relay.report_again_after;
        let outcomes = outcomes::run(ingest.clone(), report_again_after, Arc::clone(backlog), shutdown.clone());
        shutdown.spawn("outcome ingest", outcomes);
        shutdown.spawn("status ingest", status::run(ingest.clone(), shutdown.clone()));
        let wakes = Wakes { receipts: receipts.clone(), billing: Arc::clone(billing) };
        let claims = usage::claim::run(ingest.clone(), Arc::clone(billing), shutdown.clone());
        shutdown.spawn("unclaimed usage", claims);
        shutdown.spawn("usage ingest", usage::run(ingest, wakes, shutdown.clone()));
    }

    /// Keeps the gate, the credentials and, after every reconnect, the streams up to date.
    async fn watch(mut self, mut connection: Connection) {
        let mut check = tokio::time::interval(CHECK);
        connection.connects.mark_unchanged();
        loop {
            tokio::select! {
                () = self.shutdown.requested() => break,
                _ = check.tick() => {
                    let waiting = (!connection.is_connected()).then(|| {
                        connection.last_error.borrow().clone().unwrap_or_else(|| "the connection is lost".to_owned())
                    });
                    self.gates.set(BROKER, waiting);
                }
                Ok(()) = self.credentials.changed() => {
                    let renewed = self.credentials.borrow_and_update().clone();
                    renew(&connection, renewed).await;
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

/// The connection in the broker's system account, and what needs it.
struct SystemAccount {
    bus: kubenova_bus::Settings,
    credentials: watch::Receiver<Credentials>,
    store: Store,
    keyring: CurrentKeyring,
    servers_behind: Gauge,
    gates: Gates,
    shutdown: Shutdown,
}

impl SystemAccount {
    async fn run(mut self) {
        let attempt = || async {
            let mut settings = self.bus.clone();
            settings.credentials = self.credentials.borrow().clone();
            let connected = kubenova_bus::connect(settings).await;
            let problem = connected.as_ref().err().map(|error| {
                let error = telemetry::chain(error);
                format!("not connected in the broker's system account, so its servers get no revocations: {error}")
            });
            self.gates.set(SYSTEM_ACCOUNT, problem);
            connected
        };
        let connecting = Retry::new("connect to the broker's system account").until_ok(&self.shutdown, attempt);
        let Some(connection) = connecting.await else { return };
        let accounts = Accounts {
            store: self.store.clone(),
            keyring: self.keyring.clone(),
            connection: connection.clone(),
            servers_behind: self.servers_behind.clone(),
        };
        let rollout = accounts::run(accounts, self.shutdown.clone());
        let renewal = async {
            while self.credentials.changed().await.is_ok() {
                let renewed = self.credentials.borrow_and_update().clone();
                renew(&connection, renewed).await;
            }
        };
        tokio::select! {
            () = rollout => {}
            () = renewal => {}
        }
    }
}

/// Reconnects with new credentials at a time of our choice: else the broker closes the connection when the old JWT expires.
async fn renew(connection: &Connection, credentials: Credentials) {
    connection.renew(credentials);
    if let Err(error) = connection.client.force_reconnect().await {
        tracing::debug!(%error, "could not reconnect with renewed credentials; the next reconnect has them");
    }
}

/// The sockets to serve on: an inherited one instead of the configured addresses.
fn listeners(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>> {
    if let Ok(text) = std::env::var(LISTEN_FD) {
        return Ok(vec![inherited(&text)?]);
    }
    if addresses.is_empty() {
        bail!("listen is empty: name at least one address, for example [::]:8443");
    }
    addresses
        .iter()
        .map(|address| {
            listen::tcp(*address)
                .with_context(|| format!("could not listen on {address}: free it or set listen to another address"))
        })
        .collect()
}

fn inherited(text: &str) -> Result<TcpListener> {
    use std::os::fd::{FromRawFd as _, OwnedFd};
    let number: i32 =
        text.parse().with_context(|| format!("{LISTEN_FD} is \"{text}\", which is not the number of a socket"))?;
    if number < 3 || !std::path::Path::new(&format!("/proc/self/fd/{number}")).exists() {
        bail!("{LISTEN_FD} is {number}, which is not an open descriptor of this process");
    }
    #[expect(unsafe_code, reason = "the number was given to this process to own, is open, and is taken once")]
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    let listener = TcpListener::from(owned);
    listener.local_addr().with_context(|| format!("{LISTEN_FD} is {number}, which is not a listening socket"))?;
    Ok(listener)
}
