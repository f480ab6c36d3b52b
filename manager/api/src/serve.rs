//! Serves the API over TLS on one or more listeners. A client that is too slow to send its request is disconnected: the
//! TLS handshake has ten seconds (axum-server), the first bytes and HTTP/1.1 headers [`HEADER_TIMEOUT`], a body
//! `body::BODY_TIMEOUT`, the request as a whole `problem::REQUEST_TIMEOUT`. How many connections are open at once is bounded
//! by `connection_slots.rs`.

use crate::{
    connection_slots::{ConnectionSlot, ConnectionSlots},
    http_stream::HttpStream,
};
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
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Longest a client may take for its first bytes, those of the preface of HTTP/2 included, and for the headers of a request,
/// also of a further one on the same connection. HTTP/2 has no such limit for headers; a peer that is gone is found by pings
/// instead.
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
    serve_within(&ConnectionSlots::of_process(), server, shutdown).await
}

/// The same with so many connections.
async fn serve_within(slots: &ConnectionSlots, server: Server, shutdown: &Shutdown) -> Result<(), ServeError> {
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
        let slots = slots.clone();
        let mut server = server.map(|tls| Opening { tls, slots, timeout: header_timeout });
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

/// Accepts TLS connections that have a slot and whose client says which version of HTTP follows. hyper's own time limits begin
/// once it knows the version: a client that sends nothing after the handshake, or part of a preface, would never reach them.
#[derive(Debug, Clone)]
struct Opening {
    tls: RustlsAcceptor,
    slots: ConnectionSlots,
    timeout: Duration,
}

impl Opening {
    fn slot(&self, stream: &TcpStream) -> io::Result<ConnectionSlot> {
        let address = stream.peer_addr()?.ip();
        self.slots.take(address).ok_or_else(|| io::Error::other("too many connections are open"))
    }
}

impl<S: Send + 'static> Accept<TcpStream, S> for Opening {
    type Stream = HttpStream<TlsStream<TcpStream>>;
    type Service = S;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let slot = self.slot(&stream);
        // Else the first response waits for the client's delayed acknowledgement of the handshake, some 40 ms.
        let nodelay = stream.set_nodelay(true);
        // Nothing of the handshake happens before it is awaited.
        let (accepted, timeout) = (self.tls.accept(stream, service), self.timeout);
        Box::pin(async move {
            let slot = slot?;
            nodelay?;
            let (stream, service) = accepted.await?;
            let stream = tokio::time::timeout(timeout, HttpStream::open(stream, slot)).await??;
            Ok((stream, service))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpSocket,
    };
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
            Self::start_within(ConnectionSlots::of_process(), header_timeout)
        }

        fn start_within(slots: ConnectionSlots, header_timeout: Duration) -> Self {
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
            tokio::spawn(async move { serve_within(&slots, server, &stop).await });
            Self { address, client: TlsConnector::from(Arc::new(client)), shutdown }
        }

        async fn connect(&self) -> client::TlsStream<TcpStream> {
            self.connect_from([127, 0, 0, 1]).await.unwrap()
        }

        /// A connection from this address of the machine.
        async fn connect_from(&self, address: [u8; 4]) -> io::Result<client::TlsStream<TcpStream>> {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((address, 0)))?;
            let stream = socket.connect(self.address).await?;
            self.client.connect(ServerName::try_from("localhost").unwrap(), stream).await
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
        let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let all_but_one = &preface[..preface.len() - 1];
        for sent in ["", "P", "PRI", all_but_one, "GET / HTTP/1.1\r\nHost: localhost\r\n"] {
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

    #[tokio::test]
    async fn a_request_that_begins_like_the_preface_of_http2_is_answered() {
        let served = Served::start(LONG);
        let mut stream = served.connect().await;
        for part in ["P", "UT / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"] {
            stream.write_all(part.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        }
        let answer = until_closed(stream).await.expect("the connection is closed");
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    }

    #[tokio::test]
    async fn a_preface_of_http2_in_parts_begins_a_connection() {
        let served = Served::start(LONG);
        let mut stream = served.connect().await;
        // The second part ends with an empty SETTINGS frame.
        for part in [&b"PRI * HTTP"[..], b"/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
            stream.write_all(part).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut frame = [0; 9];
        let read = tokio::time::timeout(LONG, stream.read_exact(&mut frame)).await;
        read.expect("an answer").unwrap();
        assert_eq!(frame[3], 4, "the server's SETTINGS: {frame:?}");
    }

    #[tokio::test]
    async fn connections_of_one_address_are_bounded_and_another_address_gets_in() {
        let served = Served::start_within(ConnectionSlots::new(4, 2), LONG * 10);
        let (one, other, third) = ([127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 3]);
        let held = [served.connect_from(one).await.unwrap(), served.connect_from(one).await.unwrap()];
        assert!(served.connect_from(one).await.is_err(), "one address has its part");
        let _of_other = [served.connect_from(other).await.unwrap(), served.connect_from(other).await.unwrap()];
        assert!(served.connect_from(third).await.is_err(), "all slots are taken");
        drop(held);
        let free_again = async {
            while served.connect_from(third).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, free_again).await.expect("closed connections leave their slots");
    }
}
