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

/// What is served, and where.
#[derive(Debug)]
pub struct Server {
    /// Where to listen.
    pub listeners: Vec<TcpListener>,
    /// Provides the certificate through its resolver, so that it can be renewed; the protocols (HTTP/2, HTTP/1.1) are set
    /// here. No client certificate is requested: callers bring tokens.
    pub tls: ServerConfig,
    /// The routes.
    pub router: Router,
    /// [`HEADER_TIMEOUT`], or less in a test.
    pub header_timeout: Duration,
}

/// Serves until shutdown is requested, then lets running requests finish.
pub async fn serve(server: Server, shutdown: &Shutdown) -> Result<(), ServeError> {
    let Server { listeners, mut tls, router, header_timeout } = server;
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
        let mut server = server.map(|tls| FirstByte { tls, timeout: header_timeout });
        let http = server.http_builder();
        http.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout);
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
    timeout: Duration,
}

impl<S: Send + 'static> Accept<TcpStream, S> for FirstByte {
    type Stream = TlsStream<TcpStream>;
    type Service = S;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        // Else the first response waits for the client's delayed acknowledgement of the handshake, some 40 ms.
        let nodelay = stream.set_nodelay(true);
        let (accepted, timeout) = (self.tls.accept(stream, service), self.timeout);
        Box::pin(async move {
            nodelay?;
            let (mut stream, service) = accepted.await?;
            // Reads into the buffer of the TLS session without consuming anything.
            tokio::time::timeout(timeout, stream.fill_buf()).await??;
            Ok((stream, service))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::{TlsConnector, client};

    /// The limit in these tests. Nothing here has to be faster than it; it is only waited for.
    const SHORT: Duration = Duration::from_millis(200);
    /// Far above the limit, also on a loaded machine: a connection that is still open then is never cut.
    const LONG: Duration = Duration::from_secs(30);

    /// A server with a certificate of its own for `localhost`, and a client that trusts it.
    struct Served {
        address: SocketAddr,
        client: TlsConnector,
        shutdown: Shutdown,
    }

    impl Served {
        fn start(header_timeout: Duration) -> Self {
            let provider = Arc::new(aws_lc_rs::default_provider());
            let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let key = own.signing_key.serialize_der().try_into().unwrap();
            let tls = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
            let tls = tls.unwrap().with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key).unwrap();
            let mut roots = RootCertStore::empty();
            roots.add(own.cert.der().clone()).unwrap();
            let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
            let client = client.with_root_certificates(roots).with_no_client_auth();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let router = Router::new().route("/", get(async || "served"));
            let (shutdown, server) =
                (Shutdown::new(), Server { listeners: vec![listener], tls, router, header_timeout });
            let stop = shutdown.clone();
            tokio::spawn(async move { serve(server, &stop).await });
            Self { address, client: TlsConnector::from(Arc::new(client)), shutdown }
        }

        async fn connect(&self) -> client::TlsStream<TcpStream> {
            let stream = TcpStream::connect(self.address).await.unwrap();
            self.client.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
        }
    }

    impl Drop for Served {
        fn drop(&mut self) {
            self.shutdown.request();
        }
    }

    /// What comes until the server closes the connection; none when it does not.
    async fn until_closed(mut stream: client::TlsStream<TcpStream>) -> Option<String> {
        let mut bytes = Vec::new();
        // A connection that is cut may end without TLS's own goodbye, which is an error with the bytes before it.
        let closed = tokio::time::timeout(LONG, stream.read_to_end(&mut bytes)).await;
        closed.is_ok().then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    #[tokio::test]
    async fn a_client_that_is_slow_with_its_headers_is_cut() {
        let served = Served::start(SHORT);
        for sent in ["", "GET / HTTP/1.1\r\nHost: localhost\r\n"] {
            let mut stream = served.connect().await;
            stream.write_all(sent.as_bytes()).await.unwrap();
            let answer = until_closed(stream).await;
            assert!(answer.is_some_and(|answer| !answer.contains("served")), "after {sent:?}");
        }
    }

    #[tokio::test]
    async fn a_client_that_sends_no_further_request_is_cut_after_its_answer() {
        let served = Served::start(SHORT);
        let mut stream = served.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\n").await.unwrap();
        let answer = until_closed(stream).await.expect("the connection is closed");
        assert_eq!(answer.matches("served").count(), 1, "{answer}");
    }
}
