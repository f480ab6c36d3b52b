//! A nats-server of its own for a test, on a port of its own; it ends with the value, and its folder with it. And what may stand in front
//! of it: an HTTP proxy ([`connect_proxy`]), or a load balancer ([`forwarder`]).
//!
//! Needs `KUBENOVA_SERVERS`, a folder with `bin/nats-server` (made by `cargo dev servers`). This is a crate beside `tests/env` because
//! that one brings the Kubernetes client and the sandbox, and the tests of the bus should compile without them.

pub mod connect_proxy;
pub mod forwarder;
mod passing;

use kubenova_schema::streams;
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// Longest that a server may take to say where it listens; only a failing test waits so long.
const LISTENS_MAX: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A running server.
#[derive(Debug)]
pub struct NatsServer {
    process: Child,
    folder: TempDir,
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.end();
    }
}

impl NatsServer {
    /// One with JetStream and without authentication.
    ///
    /// # Panics
    /// When there is no server; the message says what to do.
    #[must_use]
    pub fn with_jetstream() -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files can be written");
        Self { process: with_store(folder.path(), "-1"), folder }
    }

    /// One with this configuration, which is in this folder.
    ///
    /// # Panics
    /// As [`Self::with_jetstream`].
    #[must_use]
    pub fn with_config(folder: TempDir, config: &Path) -> Self {
        let process = spawn(folder.path(), &["--config".as_ref(), config.as_os_str()]);
        Self { process, folder }
    }

    /// Kills one that was started [`Self::with_config`], and starts it again from this configuration, which is in its folder.
    ///
    /// # Panics
    /// As [`Self::with_jetstream`].
    pub fn restart_with(&mut self, config: &Path) {
        self.end();
        self.process = spawn(self.folder.path(), &["--config".as_ref(), config.as_os_str()]);
    }

    /// Kills one that was started [`Self::with_jetstream`], and starts it again with its store on this port.
    ///
    /// # Panics
    /// As [`Self::with_jetstream`].
    pub fn restart(&mut self, port: u16) {
        self.end();
        self.process = with_store(self.folder.path(), &port.to_string());
    }

    /// Where it says that it listens: `nats://` or `tls://`.
    ///
    /// # Panics
    /// When it does not say so in time.
    pub async fn url(&self) -> String {
        self.listens(&["tls://", "nats://"]).await
    }

    /// Where it says that it listens for WebSockets: `ws://` or `wss://`.
    ///
    /// # Panics
    /// When it does not say so in time.
    pub async fn websocket_url(&self) -> String {
        self.listens(&["wss://", "ws://"]).await
    }

    /// Where it says that its HTTP monitor listens.
    ///
    /// # Panics
    /// When it does not say so in time.
    pub async fn monitor_url(&self) -> String {
        self.listens(&["http://"]).await
    }

    async fn listens(&self, schemes: &[&str]) -> String {
        let ports = self.folder.path().join(format!("nats-server_{}.ports", self.process.id()));
        let read = async {
            loop {
                let text = std::fs::read_to_string(&ports).unwrap_or_default();
                if let Some(start) = schemes.iter().find_map(|scheme| text.find(scheme)) {
                    return text[start..].split('"').next().unwrap_or_default().to_owned();
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let listens = tokio::time::timeout(LISTENS_MAX, read).await;
        listens.unwrap_or_else(|_| panic!("nats-server wrote no {} within {LISTENS_MAX:?}", ports.display()))
    }

    /// Id of its process, for signals.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Kills it; it can be started again.
    pub fn kill(&mut self) {
        self.end();
    }

    /// Kills one that was started [`Self::with_config`], and starts it again with the same configuration.
    ///
    /// # Panics
    /// As [`Self::with_jetstream`].
    pub fn start_again(&mut self, config: &Path) {
        self.end();
        self.process = spawn(self.folder.path(), &["--config".as_ref(), config.as_os_str()]);
    }

    /// Has it read its configuration again, with the command that the documentation names.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn reload(&self) {
        let signal = format!("reload={}", self.pid());
        let status = Command::new(program()).args(["--signal", &signal]).status().expect("nats-server starts");
        assert!(status.success(), "{status}");
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn end(&mut self) {
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// As the product's own configuration has it: without a limit nats-server takes a part of the free disk as its own, and refuses
/// the product's streams on a disk that is nearly full.
fn with_store(folder: &Path, port: &str) -> Child {
    let config = folder.join("nats-server.conf");
    let (store, limit) = (folder.display(), streams::FILE_STORE_BYTES);
    let text =
        format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{store}\", max_file_store: {limit} }}\n");
    std::fs::write(&config, text).expect("a file in the folder for temporary files can be written");
    spawn(folder, &["--config".as_ref(), config.as_os_str()])
}

fn program() -> PathBuf {
    let servers = std::env::var_os("KUBENOVA_SERVERS")
        .expect("KUBENOVA_SERVERS is not set: run `cargo dev servers` and set it to ~/.cache/kubenova/sets/latest");
    Path::new(&servers).join("bin/nats-server")
}

fn spawn(folder: &Path, arguments: &[&OsStr]) -> Child {
    Command::new(program())
        .args(arguments)
        .args(["--ports_file_dir".as_ref(), folder.as_os_str()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server starts")
}
