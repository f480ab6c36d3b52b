//! The way to a broker that the NATS client cannot go by itself: through a proxy, in a WebSocket, by way of the bridge, or to a host of
//! which one family of addresses may not answer.
//!
//! The client connects to a port of the loopback interface. For each connection the relay dials the broker, does TLS with the real name
//! and the cluster's certificate, and from the broker's first message on passes bytes. The client reads that no TLS is needed, which
//! is true of the loopback interface, and of no other server, because it could not reach one. Login stays between client and broker:
//! the relay knows neither JWT nor key.
//!
//! Guarantees: a connection is passed on only when the client has announced one, so no other process gets a connection with our
//! certificate by chance; one at a time; why a connection failed is kept with its type, because the client only sees its end. Must not:
//! hold more than a buffer of each direction.

pub mod broker;
mod copy;
pub mod error;
mod info;
mod upstream;

use crate::{dial::Dialer, tls::Files, transport::BrokerUrl};
use error::RelayError;
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::JoinHandle,
};

/// What the relays of one client tell.
#[derive(Debug, Clone)]
pub(crate) struct RelayState {
    /// Why the last connection was not made, or ended; none since one was made.
    pub(crate) error: watch::Sender<Option<RelayError>>,
    /// The proxy of the last connection that was made.
    pub(crate) proxy: watch::Sender<Option<String>>,
}

/// One listener for one URL.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    wanted: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens on a free port of the loopback interface.
    pub(crate) async fn start(url: BrokerUrl, dialer: Dialer, files: Files, state: RelayState) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let wanted = Arc::new(Notify::new());
        let destination = Arc::new(Destination { url, dialer, files, state });
        let task = tokio::spawn(accept(listener, Arc::clone(&wanted), destination));
        Ok(Self { address, wanted, task })
    }

    /// Where the client connects.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// The client is about to connect.
    pub(crate) fn want(&self) {
        self.wanted.notify_one();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// To one broker.
struct Destination {
    url: BrokerUrl,
    dialer: Dialer,
    files: Files,
    state: RelayState,
}

/// A connection that ends with the value.
struct Passing(JoinHandle<()>);

impl Drop for Passing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

async fn accept(listener: TcpListener, wanted: Arc<Notify>, destination: Arc<Destination>) {
    // A client has one connection; when it makes another, it has given up the one before.
    let mut _passing: Option<Passing> = None;
    loop {
        loop {
            tokio::select! {
                biased;
                () = wanted.notified() => break,
                // Our client announces its own, so this is another's.
                other = listener.accept() => pause_after_error(&other).await,
            }
        }
        let accepted = listener.accept().await;
        pause_after_error(&accepted).await;
        if let Ok((near, _)) = accepted {
            _passing = Some(Passing(tokio::spawn(pass(near, Arc::clone(&destination)))));
        }
    }
}

/// A process without free descriptors gets the same error at once, again and again.
async fn pause_after_error<T>(accepted: &io::Result<T>) {
    if let Err(error) = accepted {
        tracing::warn!(%error, "the relay to the broker could not accept a connection; trying again");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

async fn pass(near: TcpStream, destination: Arc<Destination>) {
    let passed = tokio::select! {
        passed = connect(&near, &destination) => passed,
        // The client has given up.
        () = closed(&near) => return,
    };
    // Both are open until the reason is kept.
    let (mut from_near, mut to_near) = near.into_split();
    let ended = match passed {
        Ok(upstream) => {
            destination.state.error.send_replace(None);
            destination.state.proxy.send_replace(upstream.proxy.clone());
            copy::both(&mut from_near, &mut to_near, upstream).await
        }
        Err(error) => Err(error),
    };
    record(&destination, &ended);
}

async fn connect(near: &TcpStream, destination: &Destination) -> Result<upstream::Upstream, RelayError> {
    near.set_nodelay(true).map_err(RelayError::ended)?;
    upstream::open(&destination.url, &destination.dialer, &destination.files).await
}

/// Before the client's connection is closed: it asks for the reason as soon as it sees the end.
fn record(destination: &Destination, ended: &Result<(), RelayError>) {
    if let Err(error) = ended {
        tracing::debug!(url = destination.url.text, error = %kubenova_runtime::telemetry::chain(error), "a connection to the broker ended");
        destination.state.error.send_replace(Some(error.clone()));
    }
}

/// Resolves when the other side has closed. It sends nothing before it was sent something.
async fn closed(near: &TcpStream) {
    if let Ok(1..) = near.peek(&mut [0]).await {
        std::future::pending::<()>().await;
    }
}
