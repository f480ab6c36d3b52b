//! An HTTP proxy that knows `CONNECT` only, and does what proxies do to those behind them: it resolves names that they cannot, refuses,
//! wants a login, answers in one packet with what the server said first, says nothing, or forgets connections.
//!
//! Guarantees: what it was asked to connect to is recorded; it can change while it runs. Must not: look into what it passes.

use crate::passing::Passing;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// Longest request that is read.
const REQUEST_MAX: usize = 8 * 1024;

/// What it does with the next request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behavior {
    /// Connects.
    Connect,
    /// Waits for the server's first bytes and sends them in one write with its own answer.
    Coalesce,
    /// Answers with this status.
    Refuse(u16),
    /// Connects when the request has this `Proxy-Authorization`, else answers with 407.
    Login(String),
    /// Accepts the connection and never answers.
    Hang,
    /// Answers with something else than HTTP.
    Nonsense,
}

/// A running proxy; it ends with the value, and its connections with it.
#[derive(Debug)]
pub struct ConnectProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    names: BTreeMap<String, SocketAddr>,
    behavior: watch::Sender<Behavior>,
    asked: Mutex<Vec<String>>,
    blocked: Mutex<Vec<String>>,
    passing: Passing,
    over: watch::Sender<bool>,
}

impl ConnectProxy {
    /// Listens at `address`. It knows these names (`host:port`), and addresses.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(address: &str, names: &[(&str, SocketAddr)]) -> Self {
        Self::listen(address, names, None).await
    }

    /// [`Self::start`], with TLS: an `https://` proxy.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start_tls(address: &str, names: &[(&str, SocketAddr)], acceptor: TlsAcceptor) -> Self {
        Self::listen(address, names, Some(acceptor)).await
    }

    async fn listen(address: &str, names: &[(&str, SocketAddr)], acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.expect("a proxy can listen");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            names: names.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect(),
            behavior: watch::Sender::new(Behavior::Connect),
            asked: Mutex::default(),
            blocked: Mutex::default(),
            passing: Passing::new(None),
            over: watch::Sender::new(false),
        });
        let accepting = tokio::spawn(accept(listener, acceptor, Arc::clone(&shared)));
        Self { address, shared, accepting }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does from the next request on.
    pub fn behave(&self, behavior: Behavior) {
        self.shared.behavior.send_replace(behavior);
    }

    /// Answers every further request for this target, `host:port`, with 403.
    pub fn block(&self, target: &str) {
        self.shared.blocked.lock().unwrap_or_else(PoisonError::into_inner).push(target.to_owned());
    }

    /// Passes nothing more of the connections that it has, and keeps them open, as a load balancer does without a word to those that
    /// were quiet for long.
    pub fn forget_connections(&self) {
        self.shared.passing.forget();
    }

    /// What it was asked to connect to, `host:port`, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.over.send_replace(true);
    }
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let (shared, acceptor) = (Arc::clone(&shared), acceptor.clone());
        tokio::spawn(async move {
            let mut over = shared.over.subscribe();
            tokio::select! {
                _ = over.wait_for(|over| *over) => {}
                _ended = async {
                    match acceptor {
                        None => serve(client, &shared).await,
                        Some(acceptor) => serve(acceptor.accept(client).await?, &shared).await,
                    }
                } => {}
            }
        });
    }
}

async fn serve(mut client: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) -> std::io::Result<()> {
    let request = read_request(&mut client).await?;
    let target = request.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    shared.asked.lock().unwrap_or_else(PoisonError::into_inner).push(target.to_owned());
    let behavior = shared.behavior.borrow().clone();
    match &behavior {
        Behavior::Hang => std::future::pending().await,
        Behavior::Nonsense => return client.write_all(b"220 mail ready\r\n").await,
        Behavior::Refuse(status) => return answer(&mut client, *status).await,
        Behavior::Login(wanted) if !has_authorization(&request, wanted) => return answer(&mut client, 407).await,
        Behavior::Login(_) | Behavior::Connect | Behavior::Coalesce => {}
    }
    if shared.blocked.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|blocked| blocked == target) {
        return answer(&mut client, 403).await;
    }
    let address = shared.names.get(target).copied().or_else(|| target.parse().ok());
    let Some(address) = address else { return answer(&mut client, 502).await };
    let Ok(mut server) = TcpStream::connect(address).await else { return answer(&mut client, 503).await };
    let mut first = b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec();
    if behavior == Behavior::Coalesce {
        server.read_buf(&mut first).await?;
    }
    client.write_all(&first).await?;
    client.flush().await?;
    shared.passing.run(client, server).await
}

async fn answer(client: &mut (impl AsyncWrite + Unpin), status: u16) -> std::io::Result<()> {
    let login = if status == 407 { "Proxy-Authenticate: Basic realm=\"test\"\r\n" } else { "" };
    let text = format!("HTTP/1.1 {status} No\r\n{login}Content-Length: 0\r\n\r\n");
    client.write_all(text.as_bytes()).await?;
    client.shutdown().await
}

async fn read_request(client: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") && read.len() < REQUEST_MAX {
        if client.read_buf(&mut read).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(String::from_utf8_lossy(&read).into_owned())
}

fn has_authorization(request: &str, wanted: &str) -> bool {
    request.lines().any(|line| {
        line.split_once(": ")
            .is_some_and(|(name, value)| name.eq_ignore_ascii_case("proxy-authorization") && value == wanted)
    })
}
