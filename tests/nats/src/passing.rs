//! Bytes between two streams, and a way between them that can forget the connection: it passes nothing more, keeps both ends open, and
//! tells neither, as a load balancer or a firewall does.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::watch,
    time::timeout,
};

/// Bytes passed at once.
const CHUNK: usize = 16 * 1024;

/// What all connections of one way share.
#[derive(Debug)]
pub(crate) struct Passing {
    /// Longest that a direction of a connection may be quiet.
    idle_limit: Option<Duration>,
    /// Rises when all connections of before are forgotten.
    generation: watch::Sender<u64>,
    begun: AtomicUsize,
    idle: AtomicUsize,
}

/// Why nothing passes any more.
enum End {
    Io(io::Error),
    Idle,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Passing {
    pub(crate) fn new(idle_limit: Option<Duration>) -> Self {
        let generation = watch::Sender::new(0);
        Self { idle_limit, generation, begun: AtomicUsize::new(0), idle: AtomicUsize::new(0) }
    }

    /// Connections that were passed so far.
    pub(crate) fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    /// Connections that were forgotten because one of their directions was quiet for too long.
    pub(crate) fn idle(&self) -> usize {
        self.idle.load(Ordering::SeqCst)
    }

    /// Forgets the connections that there are.
    pub(crate) fn forget(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Passes bytes until both ends are through; for ever, and none, once the connection is forgotten.
    pub(crate) async fn run(
        &self,
        one: impl AsyncRead + AsyncWrite + Unpin,
        other: impl AsyncRead + AsyncWrite + Unpin,
    ) -> io::Result<()> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let mut generation = self.generation.subscribe();
        let (mut from_one, mut to_one) = tokio::io::split(one);
        let (mut from_other, mut to_other) = tokio::io::split(other);
        let passed = async {
            tokio::try_join!(
                pass(&mut from_one, &mut to_other, self.idle_limit),
                pass(&mut from_other, &mut to_one, self.idle_limit)
            )
        };
        let ended = tokio::select! {
            ended = passed => ended,
            _ = generation.changed() => std::future::pending().await,
        };
        match ended {
            Ok(_) => Ok(()),
            Err(End::Io(error)) => Err(error),
            Err(End::Idle) => {
                self.idle.fetch_add(1, Ordering::SeqCst);
                std::future::pending().await
            }
        }
    }
}

async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    idle_limit: Option<Duration>,
) -> Result<(), End> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk);
        let count = match idle_limit {
            Some(limit) => timeout(limit, read).await.map_err(|_| End::Idle)??,
            None => read.await?,
        };
        if count == 0 {
            return Ok(to.shutdown().await?);
        }
        to.write_all(&chunk[..count]).await?;
        to.flush().await?;
    }
}
