//! The session with the Manager: connect to the broker, say hello after every connect, keep what the answer says.
//!
//! Only with an open session does the Operator pull commands and report status; usage needs none. While there is no
//! session, the condition `BusConnected` says why. Before this: `join`. After it: `inbound` and `outbound`.

pub mod broker;
pub mod hello;
mod listing;
mod requests;
pub mod state;

use crate::{
    apiserver,
    inbound::record::Records,
    join::{
        conditions::{self, JoinError, StatusReporter},
        current::CurrentIdentity,
        identity::Identity,
    },
    leaf::LeafFiles,
    settings::Settings,
};
use hello::{Answered, HelloClient};
use kubenova_bus::{Connection, Credentials};
use kubenova_crds::cluster_config::condition;
use kubenova_operator_core::conditions::ConditionSet;
use kubenova_runtime::{probe::Gates, retry::Retry, shutdown::Shutdown};
use prometheus_client::metrics::gauge::Gauge;
use requests::Requests;
use state::Session;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// Where the session's state is published.
#[derive(Debug)]
pub struct Senders {
    pub bus: watch::Sender<Option<Connection>>,
    pub session: watch::Sender<Option<Session>>,
    /// Requests a new hello.
    pub rehello: Arc<Notify>,
}

/// What the session needs.
#[derive(Debug)]
pub struct SessionContext {
    pub settings: Arc<Settings>,
    pub identity: CurrentIdentity,
    /// Written before each connection; none without a leaf node.
    pub leaf: Option<LeafFiles>,
    /// Notified when the broker refuses the credentials, and when the Manager asks for new ones.
    pub renewal_wanted: Arc<Notify>,
    pub reporter: StatusReporter,
    pub hello: HelloClient,
    /// The inbox with the bodies of its records.
    pub records: Records,
    pub senders: Senders,
    pub gates: Gates,
    /// 1 while a session is open.
    pub open: Gauge,
}

/// Two hellos are never closer than this: for each the Manager purges the commands on the wire and sends them again.
pub const HELLO_INTERVAL_MIN: Duration = Duration::from_secs(3);
/// Waits between hellos that fail: at least a second, since each makes the Manager work; at most as long as a healed
/// link may go unnoticed.
pub const HELLO_WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// Time between looks at the connection's state, which the client library does not announce.
const STATE_INTERVAL: Duration = Duration::from_secs(1);
/// A connection that is down for longer is looked for by every transport that may be used: its own may be blocked for good. A broker
/// that restarts is back sooner.
const OTHER_TRANSPORT_AFTER: Duration = Duration::from_secs(20);
/// Time between attempts by the way that the site wants, while another one is in use.
const FIRST_CHOICE_EVERY: Duration = Duration::from_secs(60);
/// The first connect is announced a moment after the connection is there.
pub const FIRST_CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Runs until the process stops.
pub async fn run(context: SessionContext, shutdown: Shutdown) {
    context.closed();
    context.gates.set("session", Some("not connected to the broker yet".to_owned()));
    let Some(mut connected) = context.connect(&shutdown).await else { return };
    loop {
        let connection = connected.connection.clone();
        context.senders.bus.send_replace(Some(connection.clone()));
        connected = tokio::select! {
            () = keep_open(&context, &connection, &shutdown) => return,
            next = context.next_connection(&connected, &shutdown) => match next {
                Some(next) => next,
                None => return,
            },
        };
        tracing::info!(via = %connected.connection.via(), "opening a new session: connected again");
        context.closed();
    }
}

/// A connection, and what it was made with.
struct Connected {
    connection: Connection,
    identity: Arc<Identity>,
}

/// Opens a session after the other.
async fn keep_open(context: &SessionContext, connection: &Connection, shutdown: &Shutdown) {
    let Senders { session, rehello, .. } = &context.senders;
    let mut connects = connection.connects.clone();
    let renewal_wanted = Arc::clone(&context.renewal_wanted);
    let mut requests = Requests::subscribe(connection, context.identity.cluster_id(), renewal_wanted).await;
    // Without this the announcement of the first connect would end the first session.
    let _announced = tokio::time::timeout(FIRST_CONNECT_LIMIT, connects.wait_for(|count| *count > 0)).await.is_ok();
    while let Some(open) = context.open(connection, &mut connects, shutdown).await {
        session.send_replace(Some(open.clone()));
        context.gates.set("session", None);
        context.open.set(1);
        if !shutdown.sleep(HELLO_INTERVAL_MIN).await {
            return;
        }
        // What came before or during the last hello was answered by it.
        requests.forget();
        tokio::select! {
            () = shutdown.requested() => return,
            () = context.send_listing(connection, &open) => {}
            reason = requests.next() => tracing::info!(reason, "opening a new session: the Manager asks for a hello"),
            () = rehello.notified() => tracing::info!("opening a new session: a stream or the durable consumer is missing, or a clock may be wrong"),
            changed = connects.changed() => {
                if changed.is_err() {
                    return;
                }
                tracing::info!("opening a new session: reconnected to the broker");
            }
            () = disconnected(connection) => tracing::info!("the session has ended: the connection to the broker is down"),
        }
        context.closed();
    }
}

/// Resolves when the connection is down. The client reconnects by itself; a hello follows then.
async fn disconnected(connection: &Connection) {
    while connection.is_connected() {
        tokio::time::sleep(STATE_INTERVAL).await;
    }
}

/// Resolves when the connection was down for so long without a break.
async fn down_for(connection: &Connection, time: Duration) {
    let mut down_since = None;
    loop {
        down_since = if connection.is_connected() { None } else { down_since.or_else(|| Some(Instant::now())) };
        if down_since.is_some_and(|since| since.elapsed() >= time) {
            return;
        }
        tokio::time::sleep(STATE_INTERVAL).await;
    }
}

/// Files that could not be written come first among the causes, unless the broker was reached and refuses the credentials.
fn with_files(error: JoinError, files: Result<(), JoinError>) -> JoinError {
    match files {
        Err(files) if !broker::may_renewal_help(&error) => {
            let message = format!("{}; {}", files.message, error.message);
            JoinError { message, ..files }
        }
        _ => error,
    }
}

impl SessionContext {
    /// No session is open.
    fn closed(&self) {
        self.senders.session.send_replace(None);
        self.open.set(0);
    }

    /// The connection that takes the place of the one in use, which goes on meanwhile: with renewed credentials, or by another transport.
    /// None when a stop was requested.
    async fn next_connection(&self, in_use: &Connected, shutdown: &Shutdown) -> Option<Connected> {
        let mut identity = self.identity.clone();
        tokio::select! {
            renewed = identity.other_than(&in_use.identity) => self.with_renewed(in_use, &renewed, shutdown).await,
            next = self.by_another_transport(in_use) => Some(next),
            next = self.by_first_choice(in_use) => Some(next),
        }
    }

    /// Once the one in use has been down for a while, whatever leads to the broker, its own transport included.
    async fn by_another_transport(&self, in_use: &Connected) -> Connected {
        if !broker::has_alternatives(&self.settings, &in_use.identity) {
            return std::future::pending().await;
        }
        loop {
            down_for(&in_use.connection, OTHER_TRANSPORT_AFTER).await;
            // Why there is none is said by the session that cannot be opened.
            if let Ok(next) = self.try_connect().await {
                return next;
            }
        }
    }

    /// As soon as the way that the site wants works: a leaf node gets its files only once the cluster has enrolled, so it starts after the
    /// first session.
    async fn by_first_choice(&self, in_use: &Connected) -> Connected {
        if in_use.connection.is_first_choice() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(FIRST_CHOICE_EVERY).await;
            let identity = self.identity.get();
            match broker::connect_by_first_choice(&self.settings, &identity).await {
                Ok(connection) => return Connected { connection, identity },
                Err(error) => tracing::debug!(reason = error.reason, "the leaf node does not lead to the hub yet"),
            }
        }
    }

    /// To wherever the credentials say: a connection lasts no longer than the credentials that it was made with.
    async fn with_renewed(&self, in_use: &Connected, renewed: &Identity, shutdown: &Shutdown) -> Option<Connected> {
        let Identity { keys, answer, .. } = renewed;
        // The one in use may be reconnecting, and takes no command then: with these it ends its attempts.
        in_use.connection.renew(Credentials { user_jwt: answer.user_jwt.clone(), seed: keys.nkey_seed.clone() });
        Retry::new("connect with the renewed credentials").until_ok(shutdown, || self.try_connect()).await
    }

    async fn connect(&self, shutdown: &Shutdown) -> Option<Connected> {
        let attempt = || async {
            let connected = self.try_connect().await;
            if let Err(error) = &connected {
                self.report_error(error).await;
            }
            connected
        };
        Retry::new("connect to the broker").until_ok(shutdown, attempt).await
    }

    /// With the credentials as they are now.
    async fn try_connect(&self) -> Result<Connected, JoinError> {
        let identity = self.identity.get();
        let files = match &self.leaf {
            Some(leaf) => leaf.write().await,
            None => Ok(()),
        };
        // Without them the leaf node may work with those that it has, and so may another transport.
        let connected = broker::connect(&self.settings, &identity).await;
        let connection = connected.map_err(|error| with_files(error, files))?;
        Ok(Connected { connection, identity })
    }

    /// Says hello until the Manager accepts it; at once when the client has reconnected.
    async fn open(
        &self,
        connection: &Connection,
        connects: &mut watch::Receiver<u64>,
        shutdown: &Shutdown,
    ) -> Option<Session> {
        let retry = Retry::new("open a session").backoff(HELLO_WAITS.0, HELLO_WAITS.1).on_signal(connects.clone());
        let attempt = || {
            // A connect before the hello is part of this session, a later one ends it.
            connects.mark_unchanged();
            async {
                let opened = self.attempt(connection).await;
                match &opened {
                    Ok(session) => self.report_open(session, connection).await,
                    Err(error) => self.report_error(error).await,
                }
                opened
            }
        };
        retry.until_ok(shutdown, attempt).await
    }

    async fn attempt(&self, connection: &Connection) -> Result<Session, JoinError> {
        let mut connects = connection.connects.clone();
        connects.mark_unchanged();
        if !connection.is_connected() {
            let identity = self.identity.get();
            tokio::select! {
                error = broker::diagnose(&self.settings, &identity) => return Err(error),
                _ = connects.changed() => {}
            }
        }
        match self.hello.send(connection).await {
            Err(error) => Err(broker::unanswered(connection, &self.identity.get()).await.unwrap_or(error)),
            Ok(Answered::Open(session)) => Ok(session),
            Ok(Answered::Diverged(error)) => {
                // Said before, because it takes a while.
                self.report_error(&error).await;
                listing::send_diverged(connection, self.identity.cluster_id(), &self.hello.inbox, &self.records).await;
                Err(error)
            }
        }
    }

    /// Sends the listing if it is wanted; resolves never, so that it ends with the session.
    async fn send_listing(&self, connection: &Connection, session: &Session) {
        if session.listing_wanted {
            listing::send(connection, self.identity.cluster_id(), &self.hello.inbox, session).await;
        }
        std::future::pending::<()>().await;
    }

    async fn report_open(&self, session: &Session, connection: &Connection) {
        let via = connection.via();
        tracing::info!(
            %via,
            session = session.number,
            epoch = session.epoch,
            clock.offset_ms = session.clock_offset_ms,
            "opened a session"
        );
        let mut found = ConditionSet::new();
        conditions::set_clock(&mut found, Some(session.clock_offset_ms));
        let message = format!("connected to the broker by {via}, and the Manager answers");
        found.set_true(condition::BUS_CONNECTED, "SessionOpen", message);
        self.report(&found).await;
        if let Err(error) = self.reporter.report_transport(&via.to_string()).await {
            tracing::warn!(error = %apiserver::error::chain(&error), "could not write the transport");
        }
    }

    async fn report_error(&self, error: &JoinError) {
        if broker::may_renewal_help(error) {
            self.renewal_wanted.notify_one();
        }
        self.gates.set("session", Some(error.message.clone()));
        let mut found = ConditionSet::new();
        conditions::set_stopped(&mut found, error);
        self.report(&found).await;
    }

    async fn report(&self, found: &ConditionSet) {
        if let Err(error) = self.reporter.report(found).await {
            tracing::warn!(error = %apiserver::error::chain(&error), "could not write the condition BusConnected");
        }
    }
}
