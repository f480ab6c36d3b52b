//! A TCP link that can be cut or slow: a listener here, connections to somewhere else, and a switch between them.
//!
//! Guarantees: a silent link keeps every connection open and passes nothing, as a firewall does that drops packets; a slow one passes
//! everything late, or a little at a time; an open one passes everything. Must not: look into what it passes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes passed at once.
const CHUNK: usize = 16 * 1024;
/// Pieces that a slow link passes in a second.
const PIECES: u32 = 10;

/// How a link is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    /// What is sent comes so much later.
    Late(Duration),
    /// So many bytes pass in a second, at least ten.
    Narrow(u32),
}

/// What the link does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Slow(Slow),
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

    /// From now on everything passes slowly, in each direction.
    pub fn slow_down(&self, slow: Slow) {
        self.state.send_replace(State::Slow(slow));
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
    if state.wait_for(|state| *state != State::Silent).await.is_err() {
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

/// Passes bytes on while the link is not silent; returns when one side has ended.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut state: watch::Receiver<State>) {
    let mut bytes = vec![0; CHUNK];
    loop {
        let Ok(count) = from.read(&mut bytes).await else { return };
        let now = state.wait_for(|state| *state != State::Silent).await.map(|state| *state);
        let Ok(now) = now else { return };
        if count == 0 || write(&mut to, &bytes[..count], now).await.is_err() {
            return;
        }
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8], state: State) -> std::io::Result<()> {
    match state {
        State::Slow(Slow::Late(by)) => {
            tokio::time::sleep(by).await;
            to.write_all(bytes).await
        }
        State::Slow(Slow::Narrow(bytes_per_second)) => {
            let piece = usize::try_from(bytes_per_second / PIECES).unwrap_or(CHUNK).max(1);
            for piece in bytes.chunks(piece) {
                to.write_all(piece).await?;
                tokio::time::sleep(Duration::from_secs(1) / PIECES).await;
            }
            Ok(())
        }
        State::Open | State::Silent => to.write_all(bytes).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_link_passes_late_or_a_little_at_a_time() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let link = Link::open(free, server.local_addr().unwrap()).await.unwrap();
        let mut client = TcpStream::connect(free).await.unwrap();
        let (mut served, _) = server.accept().await.unwrap();
        let mut bytes = [0; 25];
        let cases = [(Slow::Late(Duration::from_millis(50)), 50), (Slow::Narrow(100), 200)];
        for (slow, least_ms) in cases {
            link.slow_down(slow);
            let began = std::time::Instant::now();
            client.write_all(&[7; 25]).await.unwrap();
            served.read_exact(&mut bytes).await.unwrap();
            assert!(began.elapsed() >= Duration::from_millis(least_ms), "{slow:?}");
        }
    }

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
