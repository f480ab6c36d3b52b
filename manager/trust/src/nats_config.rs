//! Writes everything that the `nats-server` of one installation needs to a folder, and a read-only context for the `nats`
//! CLI.
//!
//! Guarantees: clients without a certificate of our authority are refused in the TLS handshake; accounts and roles are
//! those of [`crate::nats`]; files with secrets have mode 0600. Before it: [`crate::keyring`]. After it: `nats-server
//! -c <folder>/nats-server.conf`, and `XDG_CONFIG_HOME=<folder>/cli nats ...` to inspect it.
//!
//! Repeated, it renews certificates; a running server loads new ones after a reload signal. Account JWTs reach running servers over the
//! broker itself (the Manager's `accounts`).

use crate::{
    TrustError,
    authority::{Authority, Validity},
    claims,
    nats::{AccountJwt, NatsIdentity, Nkeys, ops_inbox_prefix},
};
use jiff::Timestamp;
use kubenova_runtime::file::{self, Readers};
use kubenova_schema::{
    nats_files::{MAX_PAYLOAD, quoted},
    streams,
};
use std::{
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// 10,000 clusters, their reconnects while the old connection lingers, and users of the CLI.
const MAX_CONNECTIONS: u32 = 20_000;
/// The default of 2 s turns a storm of reconnects into failures.
const TLS_TIMEOUT_SECONDS: u32 = 10;
const AUTHORIZATION_TIMEOUT_SECONDS: u32 = 20;

/// What to write.
#[derive(Debug)]
pub struct NatsConfig<'a> {
    /// The folder; created when it is missing.
    pub folder: &'a Path,
    /// `host:port` to listen on; port 0 takes any free one.
    pub listen: &'a str,
    /// `host:port` to listen on for WebSockets, with the same certificate; none without. Port 0 takes any free one.
    pub websocket: Option<&'a str>,
    /// `host:port` to listen on for leaf nodes of clusters, with the same certificate; none without.
    pub leaf: Option<&'a str>,
    /// `host:port` of the HTTP monitor, if any. It has no access control: loopback only.
    pub monitor: Option<&'a str>,
    /// Names and addresses clients reach the server by.
    pub hosts: &'a [String],
    /// The same of the gRPC bridge; none where none runs.
    pub bridge_hosts: &'a [String],
    /// URL in the context of the `nats` CLI.
    pub url: &'a str,
    /// Time between pings.
    pub ping_interval: Duration,
    /// When the files are made.
    pub now: Timestamp,
    /// Lifetime of the certificates, and of the JWT of the `nats` CLI.
    pub lifetime: Duration,
    /// The accounts with which a server begins whose own store is empty.
    pub accounts: &'a [AccountJwt],
}

impl<'a> NatsConfig<'a> {
    /// Of a server on a free port of the loopback interface, with nothing that need not be: for tests.
    #[must_use]
    pub const fn on_loopback(
        folder: &'a Path,
        hosts: &'a [String],
        now: Timestamp,
        accounts: &'a [AccountJwt],
    ) -> Self {
        Self {
            folder,
            listen: "127.0.0.1:0",
            websocket: None,
            leaf: None,
            monitor: None,
            hosts,
            bridge_hosts: hosts,
            url: "tls://127.0.0.1:4222",
            ping_interval: Duration::from_secs(20),
            now,
            lifetime: Duration::from_secs(600),
            accounts,
        }
    }

    /// Writes the files and returns the path of `nats-server.conf`.
    ///
    /// # Errors
    /// When something cannot be issued or written.
    pub fn write(&self, authority: &Authority, nkeys: &Nkeys) -> Result<PathBuf, TrustError> {
        let folder = absolute(self.folder)?;
        for part in ["", "tls", "jwt", "jetstream", "cli/nats/context"] {
            make_folder(&folder.join(part))?;
        }
        let validity = Validity { now: self.now, lifetime: self.lifetime };
        let server = authority.server("hub", self.hosts, validity)?;
        // For clusters and for the broker. It must not do for another server's host: a bridge stands where attackers come first.
        if !self.bridge_hosts.is_empty() {
            let bridge = authority.server("bridge", self.bridge_hosts, validity)?;
            write(&folder.join("tls/bridge.pem"), &bridge.chain_pem, Readers::Everybody)?;
            write(&folder.join("tls/bridge.key"), &bridge.key_pem, Readers::Owner)?;
        }
        write(&folder.join("ca.crt"), authority.bundle_pem(), Readers::Everybody)?;
        write(&folder.join("tls/server.pem"), &server.chain_pem, Readers::Everybody)?;
        write(&folder.join("tls/server.key"), &server.key_pem, Readers::Owner)?;

        // A server that runs refuses to reload a configuration with another operator JWT, be it another in its time of issue alone.
        let path = folder.join("operator.jwt");
        let signed = nkeys.operator_jwt(self.now)?;
        let kept = std::fs::read_to_string(&path).ok().filter(|kept| claims::say_the_same(kept, &signed));
        write(&path, &kept.unwrap_or(signed), Readers::Everybody)?;
        for account in self.accounts {
            write(&folder.join(format!("{}.jwt", account.name)), &account.signed.jwt, Readers::Everybody)?;
        }
        let text = self.server_text(&folder, &nkeys.public(NatsIdentity::System));
        let path = folder.join("nats-server.conf");
        write(&path, &text, Readers::Everybody)?;
        self.write_ops(&folder, authority, nkeys, validity)?;
        Ok(path)
    }

    /// Credentials, client certificate and context of the read-only users of the `nats` CLI.
    fn write_ops(
        &self,
        folder: &Path,
        authority: &Authority,
        nkeys: &Nkeys,
        validity: Validity,
    ) -> Result<(), TrustError> {
        let client = authority.client("ops", validity)?;
        write(&folder.join("tls/ops.pem"), &client.chain_pem, Readers::Everybody)?;
        write(&folder.join("tls/ops.key"), &client.key_pem, Readers::Owner)?;
        write(&folder.join("ops.creds"), &nkeys.ops_user(validity)?.to_file(), Readers::Owner)?;
        let context = serde_json::json!({
            "description": "KubeNova, read only",
            "url": self.url,
            "creds": folder.join("ops.creds"),
            "cert": folder.join("tls/ops.pem"),
            "key": folder.join("tls/ops.key"),
            "ca": folder.join("ca.crt"),
            "inbox_prefix": ops_inbox_prefix(),
        });
        let text = format!("{context:#}\n");
        write(&folder.join("cli/nats/context/kubenova-ops.json"), &text, Readers::Everybody)?;
        write(&folder.join("cli/nats/context.txt"), "kubenova-ops", Readers::Everybody)
    }

    fn server_text(&self, folder: &Path, system: &str) -> String {
        let at = |part: &str| quoted(&folder.join(part).display().to_string());
        let (host, port) = host_and_port(self.listen);
        let mut text = String::from("# Written by `kubenova-manager nats config`; run it again instead of editing.\n");
        let mut line = |content: String| {
            text.push_str(&content);
            text.push('\n');
        };
        line("server_name: kubenova-hub".to_owned());
        line(format!("host: {}", quoted(host)));
        line(format!("port: {port}"));
        if let Some(monitor) = self.monitor {
            line(format!("http: {}", quoted(monitor)));
        }
        line(format!("max_payload: {MAX_PAYLOAD}"));
        line(format!("max_connections: {MAX_CONNECTIONS}"));
        line(format!("ping_interval: {}", quoted(&format!("{}ms", self.ping_interval.as_millis()))));
        line("ping_max: 2".to_owned());
        line("write_deadline: \"10s\"".to_owned());
        line(format!("authorization {{ timeout: {AUTHORIZATION_TIMEOUT_SECONDS} }}"));
        let (certificate, key, ca) = (at("tls/server.pem"), at("tls/server.key"), at("ca.crt"));
        line(format!(
            "tls {{\n  cert_file: {certificate}\n  key_file: {key}\n  ca_file: {ca}\n  verify: true\n  timeout: {TLS_TIMEOUT_SECONDS}\n}}",
        ));
        if let Some(websocket) = self.websocket {
            let (host, port) = host_and_port(websocket);
            // Mutual TLS as on the other port, so whatever stands in front must pass TLS through. It has no TLS timeout of its own:
            // the handshake of TLS and HTTP together has one.
            line(format!(
                "websocket {{\n  host: {}\n  port: {port}\n  tls {{ cert_file: {certificate}, key_file: {key}, ca_file: {ca}, verify: true }}\n  \
                 handshake_timeout: \"{TLS_TIMEOUT_SECONDS}s\"\n  authorization {{ timeout: {AUTHORIZATION_TIMEOUT_SECONDS} }}\n}}",
                quoted(host),
            ));
        }
        if let Some(leaf) = self.leaf {
            let (host, port) = host_and_port(leaf);
            // Else each leaf would be sent the interest of all others: with thousands of them, millions of subscriptions.
            line(format!(
                "leafnodes {{\n  host: {}\n  port: {port}\n  no_advertise: true\n  isolate_leafnode_interest: true\n  \
                 tls {{ cert_file: {certificate}, key_file: {key}, ca_file: {ca}, verify: true, timeout: {TLS_TIMEOUT_SECONDS} }}\n}}",
                quoted(host),
            ));
        }
        // Without it nats-server reserves three quarters of the free disk and refuses streams whose limits add up to
        // more, however empty they are.
        line(format!(
            "jetstream {{\n  store_dir: {}\n  domain: hub\n  max_file_store: {}\n}}",
            at("jetstream"),
            streams::FILE_STORE_BYTES
        ));
        line(format!("operator: {}", at("operator.jwt")));
        line(format!("system_account: {system}"));
        line(format!("resolver {{\n  type: full\n  dir: {}\n  allow_delete: false\n  interval: \"2m\"\n}}", at("jwt")));
        line("resolver_preload {".to_owned());
        for account in self.accounts {
            line(format!("  # {}\n  {}: {}", account.name, account.public, account.signed.jwt));
        }
        line("}".to_owned());
        text
    }
}

/// nats-server takes any free port for -1, and its default one for 0.
fn host_and_port(listen: &str) -> (&str, &str) {
    let (host, port) = listen.rsplit_once(':').unwrap_or((listen, "4222"));
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (host, if port == "0" { "-1" } else { port })
}

fn absolute(folder: &Path) -> Result<PathBuf, TrustError> {
    std::path::absolute(folder).map_err(|source| TrustError::Write { path: folder.display().to_string(), source })
}

fn make_folder(path: &Path) -> Result<(), TrustError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| TrustError::Write { path: path.display().to_string(), source })
}

fn write(path: &Path, text: &str, readers: Readers) -> Result<(), TrustError> {
    file::replace(path, text.as_bytes(), readers)
        .map_err(|source| TrustError::Write { path: path.display().to_string(), source })
}
