//! TCP and TLS: from a port to connections whose peer has shown a certificate of the Manager's authority.
//!
//! TLS is done here and not by the gRPC library, because that one reads certificates once.

use crate::{
    metrics::Metrics,
    peer::{Peer, PeerStream},
};
use futures::Stream;
use kubenova_runtime::{shutdown::Shutdown, telemetry};
use rustls::ServerConfig;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
};
use tokio_rustls::TlsAcceptor;

/// Time for a TLS handshake, as the broker gives.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes at once; a core makes some hundreds a second. More wait in the listener's queue.
const HANDSHAKES_MAX: usize = 256;
/// Connections beside those of sessions: ones that end while their cluster has made another, and health checks.
const CONNECTIONS_BESIDE: usize = 64;
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
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let secure = Arc::new(Secure { config, trust_domain: accepting.trust_domain, ready, metrics });
        shutdown.spawn("listener", async move {
            tokio::select! {
                () = accept(&listener, &connections, &handshakes, &secure) => {}
                () = stop.requested() => {}
            }
        });
        Self(incoming)
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
    handshakes: &Arc<Semaphore>,
    secure: &Arc<Secure>,
) {
    loop {
        let (Ok(connection), Ok(handshake)) =
            (Arc::clone(connections).acquire_owned().await, Arc::clone(handshakes).acquire_owned().await)
        else {
            return;
        };
        match listener.accept().await {
            Ok((stream, from)) => {
                let secure = Arc::clone(secure);
                tokio::spawn(async move {
                    let _handshake = handshake;
                    if let Err(error) = secure.pass(stream, connection).await {
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
    ready: mpsc::Sender<PeerStream>,
    metrics: Metrics,
}

impl Secure {
    async fn pass(&self, stream: TcpStream, counted: OwnedSemaphorePermit) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let config = Arc::clone(&self.config.borrow());
        let handshake = tokio::time::timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(config).accept(stream));
        let stream = handshake.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        // TLS does not complete without one.
        let certificate = shown.ok_or_else(|| io::Error::from(io::ErrorKind::PermissionDenied))?;
        let peer = Peer::of(certificate, &self.trust_domain);
        // It fails while the bridge stops.
        let _stopping = self.ready.send(PeerStream { stream, peer, _counted: counted }).await;
        Ok(())
    }
}
