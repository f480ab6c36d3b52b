//! Serves the API over TLS on one or more listeners. A client that is too slow to send its request is disconnected: the
//! TLS handshake has ten seconds (axum-server), the first byte and HTTP/1.1 headers [`HEADER_TIMEOUT`], a body
//! `body::BODY_TIMEOUT`, the request as a whole `problem::REQUEST_TIMEOUT`.

use axum::Router;
use axum_server::{
    Handle,
    accept::Accept,
    tls_rustls::{RustlsAcceptor, RustlsConfig, from_tcp_rustls},
};
use futures::future::BoxFuture;
use hyper_util::rt::TokioTimer;
use kubenova_runtime::shutdown::Shutdown;
use rustls::ServerConfig;
use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};
use tokio::{io::AsyncBufReadExt as _, net::TcpStream};
use tokio_rustls::server::TlsStream;

/// Longest a client may take for its first byte and for the headers of a request, also of a further one on the same
/// connection. HTTP/2 has no such limit for headers; a peer that is gone is found by pings instead.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an HTTP/2 connection is checked, and how long its peer has to respond.
const HTTP2_PING: Duration = Duration::from_secs(20);
/// How long running requests may go on after shutdown was requested.
const GRACE: Duration = Duration::from_secs(10);

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A listener cannot be used.
    #[error("could not listen on {address:?}")]
    Listen {
        /// Its address, if it has one.
        address: Option<SocketAddr>,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Serves until shutdown is requested, then lets running requests finish.
///
/// No client certificate is requested: callers bring tokens. `tls` provides the certificate through its resolver, so that
/// it can be renewed; the protocols (HTTP/2, HTTP/1.1) are set here.
pub async fn serve(
    listeners: Vec<TcpListener>,
    tls: ServerConfig,
    router: Router,
    shutdown: &Shutdown,
) -> Result<(), ServeError> {
    let mut tls = tls;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tls = RustlsConfig::from_config(Arc::new(tls));
    let handle = Handle::new();
    let stop = {
        let (handle, shutdown) = (handle.clone(), shutdown.clone());
        async move {
            shutdown.requested().await;
            handle.graceful_shutdown(Some(GRACE));
        }
    };
    let mut servers = tokio::task::JoinSet::new();
    for listener in listeners {
        let address = listener.local_addr().ok();
        let failed = move |source| ServeError::Listen { address, source };
        listener.set_nonblocking(true).map_err(failed)?;
        let server = from_tcp_rustls(listener, tls.clone()).map_err(failed)?.handle(handle.clone());
        let mut server = server.map(|tls| FirstByte { tls });
        let http = server.http_builder();
        http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        http.http2().timer(TokioTimer::new()).keep_alive_interval(HTTP2_PING).keep_alive_timeout(HTTP2_PING);
        let service = router.clone().into_make_service_with_connect_info::<SocketAddr>();
        servers.spawn(async move { server.serve(service).await.map_err(failed) });
    }
    let mut stop = std::pin::pin!(stop);
    let mut stopping = false;
    loop {
        tokio::select! {
            () = &mut stop, if !stopping => stopping = true,
            ended = servers.join_next() => match ended {
                None => return Ok(()),
                Some(Ok(result)) => result?,
                Some(Err(panic)) => tracing::error!(error = %panic, "a listener ended unexpectedly"),
            },
        }
    }
}

/// Accepts TLS connections whose client sends something. Without it a client that sends nothing after the handshake would
/// never reach hyper's own time limit, which begins once the HTTP version is known.
#[derive(Debug, Clone)]
struct FirstByte {
    tls: RustlsAcceptor,
}

impl<S: Send + 'static> Accept<TcpStream, S> for FirstByte {
    type Stream = TlsStream<TcpStream>;
    type Service = S;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let accepted = self.tls.accept(stream, service);
        Box::pin(async move {
            let (mut stream, service) = accepted.await?;
            // Reads into the buffer of the TLS session without consuming anything.
            tokio::time::timeout(HEADER_TIMEOUT, stream.fill_buf()).await??;
            Ok((stream, service))
        })
    }
}
