//! Health without a port: named gates, read over a Unix socket by `probe ready` and `probe live`.
//!
//! The process is ready when every gate is open; the answer lists the closed ones with what they wait for.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};

/// The gates of one process.
#[derive(Debug, Clone, Default)]
pub struct Gates(Arc<Mutex<BTreeMap<&'static str, Option<String>>>>);

impl Gates {
    /// Opens a gate (`None`), or closes it with what it waits for.
    pub fn set(&self, name: &'static str, waiting_for: Option<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, waiting_for);
    }

    /// The closed gates with what they wait for.
    #[must_use]
    pub fn closed(&self) -> Vec<(&'static str, String)> {
        let gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates.iter().filter_map(|(name, waiting)| waiting.clone().map(|text| (*name, text))).collect()
    }
}

/// Answers probes on a Unix socket until it is dropped.
///
/// # Errors
/// When the socket cannot be bound.
pub async fn serve(path: &Path, gates: Gates) -> std::io::Result<()> {
    let _absent = tokio::fs::remove_file(path).await;
    let listener = UnixListener::bind(path)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        let closed = gates.closed();
        let answer = if closed.is_empty() {
            "ok".to_owned()
        } else {
            closed.iter().map(|(name, text)| format!("{name}: {text}")).collect::<Vec<_>>().join("\n")
        };
        let _peer_left = stream.write_all(answer.as_bytes()).await;
    }
}

/// Reads the gates from the socket: `ok` when all are open, else the closed ones, one a line.
///
/// # Errors
/// When no process answers within two seconds.
pub async fn ask(path: &Path) -> std::io::Result<String> {
    let exchange = async {
        let mut stream = UnixStream::connect(path).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(std::time::Duration::from_secs(2), exchange)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut)))
}
