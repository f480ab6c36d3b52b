//! A load balancer for TCP in front of one server, that forgets connections which are quiet for too long.
//!
//! Guarantees: each direction counts for itself, so a connection stays only while both ends send something. Must not: look into what it
//! passes.

use crate::passing::Passing;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// A running load balancer; it ends with the value, and its connections with it.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    passing: Arc<Passing>,
    accepting: JoinHandle<()>,
}

impl Forwarder {
    /// Listens on the loopback interface in front of `to`, and forgets what is quiet for longer than the limit.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(to: SocketAddr, idle_limit: Duration) -> Self {
        let listener = TcpListener::bind((to.ip(), 0)).await.expect("a load balancer can listen");
        let address = listener.local_addr().expect("a listener has an address");
        let passing = Arc::new(Passing::new(Some(idle_limit)));
        let accepting = tokio::spawn(accept(listener, to, Arc::clone(&passing)));
        Self { address, passing, accepting }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that it has passed on so far.
    #[must_use]
    pub fn begun(&self) -> usize {
        self.passing.begun()
    }

    /// Connections that it has forgotten.
    #[must_use]
    pub fn forgotten(&self) -> usize {
        self.passing.idle()
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, passing: Arc<Passing>) {
    // They end with this task.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let passing = Arc::clone(&passing);
        connections.spawn(async move {
            if let Ok(server) = TcpStream::connect(to).await {
                let _ended = passing.run(client, server).await;
            }
        });
    }
}
