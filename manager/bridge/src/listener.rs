//! TCP and TLS: from a port to connections of clusters.
//!
//! TLS is done here and not by the gRPC library, because that one reads certificates once. Guarantees: neither one address nor one cluster
//! keeps others from connecting, and accepting never waits for a connection to end.

use crate::{
    metrics::Metrics,
    peer::{self, PeerStream, Places},
    shares::Shares,
};
use futures::Stream;
use kubenova_runtime::{peer::Peer, shutdown::Shutdown, telemetry};
use rustls::{ServerConfig, server::Acceptor};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

/// Time for a TLS handshake, as the broker gives.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Time for its first message, which a client sends at once: three round trips of the slowest lines.
const HELLO_LIMIT: Duration = Duration::from_secs(3);
/// Handshakes at once; a core makes some hundreds a second. More wait in the listener's queue.
const HANDSHAKES_MAX: usize = 256;
/// Handshakes at once of one address: half of all, since many clusters, or all of them, may come from the address of a load balancer. More
/// are closed, and a cluster connects again after a pause.
const HANDSHAKES_OF_ADDRESS_MAX: usize = HANDSHAKES_MAX / 2;
/// Connections beside those of sessions: ones that end while their cluster has made another, and health checks.
const CONNECTIONS_BESIDE: usize = 64;
/// Connections of one cluster: those of its sessions, and as many as half of them beside.
const CONNECTIONS_OF_CLUSTER_MAX: usize = 12;
/// Pause after a connection that could not be accepted, for example for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is accepted.
#[derive(Debug)]
pub(crate) struct Accepting {
    pub(crate) trust_domain: String,
    pub(crate) sessions_max: usize,
}

/// Connections as they come.
pub(crate) struct Incoming(mpsc::Receiver<PeerStream>);

impl Stream for Incoming {
    type Item = io::Result<PeerStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.0.poll_recv(cx) {
            Poll::Ready(Some(stream)) => Poll::Ready(Some(Ok(stream))),
            // The listener has stopped; that the server does, too, it is told by the stop itself.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Incoming {
    /// Accepts until a stop is requested.
    pub(crate) fn start(
        listener: TcpListener,
        config: Arc<watch::Sender<Arc<ServerConfig>>>,
        accepting: Accepting,
        metrics: Metrics,
        shutdown: &Shutdown,
    ) -> Self {
        let (ready, incoming) = mpsc::channel(1);
        let stop = shutdown.clone();
        let connections = Arc::new(Semaphore::new(accepting.sessions_max.saturating_add(CONNECTIONS_BESIDE)));
        let clusters = Arc::new(Shares::new(CONNECTIONS_OF_CLUSTER_MAX));
        let trust_domain = accepting.trust_domain;
        let secure = Arc::new(Secure { config, trust_domain, connections, clusters, ready, metrics });
        shutdown.spawn("listener", async move {
            tokio::select! {
                () = accept(&listener, &secure) => {}
                () = stop.requested() => {}
            }
        });
        Self(incoming)
    }
}

async fn accept(listener: &TcpListener, secure: &Arc<Secure>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let addresses: Arc<Shares<Peer>> = Arc::new(Shares::new(HANDSHAKES_OF_ADDRESS_MAX));
    loop {
        let Ok(handshake) = Arc::clone(&handshakes).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, from)) => {
                let Some(of_address) = addresses.take(&Peer::from(from.ip())) else {
                    secure.metrics.closed("address");
                    tracing::debug!(%from, "closed a connection: its address has {HANDSHAKES_OF_ADDRESS_MAX} handshakes");
                    continue;
                };
                let secure = Arc::clone(secure);
                tokio::spawn(async move {
                    let _held = (handshake, of_address);
                    if let Err(error) = secure.pass(stream).await {
                        secure.metrics.handshake_failures.inc();
                        tracing::debug!(%from, error = %telemetry::chain(&error), "a TLS handshake failed");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Secure {
    config: Arc<watch::Sender<Arc<ServerConfig>>>,
    trust_domain: String,
    connections: Arc<Semaphore>,
    clusters: Arc<Shares<Arc<str>>>,
    ready: mpsc::Sender<PeerStream>,
    metrics: Metrics,
}

impl Secure {
    async fn pass(&self, stream: TcpStream) -> io::Result<()> {
        let stream = self.handshake(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let cluster = shown.and_then(|certificate| peer::cluster(certificate, &self.trust_domain));
        // TLS does not complete without one.
        let cluster: Arc<str> = cluster.ok_or_else(|| io::Error::from(io::ErrorKind::PermissionDenied))?.into();
        let Some(places) = self.places(&cluster) else {
            return Ok(());
        };
        // It fails while the bridge stops.
        let _stopping = self.ready.send(PeerStream::new(stream, cluster, places, self.metrics.clone())).await;
        Ok(())
    }

    async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        stream.set_nodelay(true)?;
        let end = Instant::now() + HANDSHAKE_LIMIT;
        let hello = timeout(HELLO_LIMIT, LazyConfigAcceptor::new(Acceptor::default(), stream)).await??;
        let config = Arc::clone(&self.config.borrow());
        timeout_at(end, hello.into_stream(config)).await?
    }

    /// Places for a connection of this cluster; none when it has its share, or there are none.
    fn places(&self, cluster: &Arc<str>) -> Option<Places> {
        let Some(of_cluster) = self.clusters.take(cluster) else {
            self.metrics.closed("cluster");
            tracing::debug!(
                cluster.id = &**cluster,
                "closed a connection: the cluster has {CONNECTIONS_OF_CLUSTER_MAX} already"
            );
            return None;
        };
        let Ok(of_all) = Arc::clone(&self.connections).try_acquire_owned() else {
            self.metrics.closed("full");
            tracing::debug!(cluster.id = &**cluster, "closed a connection: there are as many as there may be");
            return None;
        };
        Some(Places { _of_cluster: of_cluster, _of_all: of_all })
    }
}
