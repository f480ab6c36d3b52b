//! A TCP link that can be cut: a listener here, connections to somewhere else, and a switch between them.
//!
//! Guarantees: a silent link keeps every connection open and passes nothing, as a firewall does that drops packets; an open one
//! passes everything. Must not: look into what it passes.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes passed at once.
const CHUNK: usize = 16 * 1024;

/// What the link does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Silent,
}

/// A link.
#[derive(Debug)]
pub struct Link {
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

impl Link {
    /// Listens at `from` and connects each connection to `to`.
    pub async fn open(from: SocketAddr, to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(from).await.with_context(|| format!("could not listen at {from}"))?;
        let (state, seen) = watch::channel(State::Open);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(client, to, seen.clone()));
            }
        });
        Ok(Self { state, accepting })
    }

    /// From now on nothing passes; connections stay open.
    pub fn silence(&self) {
        self.state.send_replace(State::Silent);
    }

    /// From now on everything passes, what was held back first.
    pub fn restore(&self) {
        self.state.send_replace(State::Open);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connect(client: TcpStream, to: SocketAddr, mut state: watch::Receiver<State>) {
    if state.wait_for(|state| *state == State::Open).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(to).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass(from_client, to_server, state.clone()) => {}
        () = pass(from_server, to_client, state) => {}
    }
}

/// Passes bytes on while the link is open; returns when one side has ended.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut state: watch::Receiver<State>) {
    let mut bytes = vec![0; CHUNK];
    loop {
        let Ok(count) = from.read(&mut bytes).await else { return };
        if state.wait_for(|state| *state == State::Open).await.is_err() || count == 0 {
            return;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_silent_link_holds_what_is_sent_until_it_is_restored() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let link = Link::open(free, server.local_addr().unwrap()).await.unwrap();
        let mut client = TcpStream::connect(free).await.unwrap();
        let (mut served, _) = server.accept().await.unwrap();
        let mut byte = [0];
        client.write_all(b"a").await.unwrap();
        served.read_exact(&mut byte).await.unwrap();
        link.silence();
        client.write_all(b"b").await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), served.read_exact(&mut byte)).await.is_err());
        link.restore();
        served.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"b");
    }
}
