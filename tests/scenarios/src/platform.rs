//! The hub of one run: PostgreSQL, NATS and the Manager, made the way the README says.
//!
//! Guarantees: every key and configuration comes from the product's own commands (`init`, `nats config`), nothing is
//! prepared by hand; metering windows and lifetimes are short, because tests and users of the demo wait for them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kubenova_env::hub::Hub;
use kubenova_env::manager::ManagerProcess;
use kubenova_env::poll::{self, Step};
use kubenova_env::postgres::{Durability, Postgres};
use kubenova_env::sandbox::{HUB_ADDRESS, HUB_ADDRESS_IPV6, HUB_HOST_DUAL, MANAGER_HOST_IPV6, Sandbox};
use kubenova_env::servers::Servers;
use serde_json::{Value, json};

use crate::nats_cli::NatsCli;
use crate::rest::Rest;

/// Name under which clusters know the Manager; the sandbox's hosts file resolves it.
pub const MANAGER_HOST: &str = "manager.kubenova.test";
/// Name under which clusters know the hub.
pub const HUB_HOST: &str = "hub.kubenova.test";
/// The Manager's port.
pub const MANAGER_PORT: u16 = 8443;
/// The hub's port.
pub const HUB_PORT: u16 = 4222;
/// The hub's port for WebSockets, where it has one.
pub const HUB_WEBSOCKET_PORT: u16 = 9443;
/// The hub's port for leaf nodes, where it has one.
pub const HUB_LEAF_PORT: u16 = 7422;
/// Port of the bridge, where a scenario runs one.
pub const BRIDGE_PORT: u16 = 9444;
/// What leaf nodes of clusters listen at is counted from here.
const FIRST_LEAF_PORT: u16 = 7430;
/// Name of the Manager that no file and no name server of the sandbox knows.
pub const HIDDEN_MANAGER_HOST: &str = "manager.hidden.kubenova.test";
/// Name of the hub that no file and no name server of the sandbox knows.
pub const HIDDEN_HUB_HOST: &str = "hub.hidden.kubenova.test";
/// Seconds of one metering window in tests and demo.
pub const WINDOW_SECONDS: u32 = 10;

/// What a Manager logs unless a run decides otherwise.
const LOG: &str = "info,kubenova_manager=debug,kubenova_bus=debug";
/// Two missed pings end a connection.
const PING_SECONDS: u32 = 5;

/// Names the transport by which clusters reach the broker (`nats`, `websocket`, `leaf` or `grpc`); `nats` when it is not set. Simulated
/// clusters have no leaf node and go by `nats` then.
pub const TRANSPORT: &str = "KUBENOVA_TRANSPORT";

/// The URLs that clusters are given, of one transport or of all.
fn public_urls(options: &PlatformOptions) -> Result<Vec<String>> {
    let host = match options {
        PlatformOptions { is_hidden: true, .. } => HIDDEN_HUB_HOST,
        PlatformOptions { is_ipv6: true, .. } => HUB_HOST_DUAL,
        _ => HUB_HOST,
    };
    let grpc = format!("grpcs://{host}:{BRIDGE_PORT}");
    let websocket = format!("wss://{host}:{HUB_WEBSOCKET_PORT}/nats");
    let nats = format!("tls://{host}:{HUB_PORT}");
    if options.is_hidden {
        return Ok(vec![grpc, websocket, nats]);
    }
    Ok(match transport().as_str() {
        "nats" if options.names_bridge => vec![nats, grpc],
        "nats" | "leaf" => vec![nats],
        "websocket" => vec![websocket],
        "grpc" => vec![grpc],
        other => bail!("{TRANSPORT} is \"{other}\": use nats, websocket, leaf or grpc"),
    })
}

/// The transport of this run.
pub fn transport() -> String {
    std::env::var(TRANSPORT).unwrap_or_else(|_| "nats".to_owned())
}

/// The port at which the cluster with this index reaches the broker in this run.
pub fn broker_port(index: u8) -> u16 {
    match transport().as_str() {
        "websocket" => HUB_WEBSOCKET_PORT,
        "grpc" => BRIDGE_PORT,
        "leaf" => leaf_port(index),
        _ => HUB_PORT,
    }
}

/// Where the leaf node of the cluster with this index listens, on the hub's side of its uplink.
pub fn leaf_port(index: u8) -> u16 {
    FIRST_LEAF_PORT + u16::from(index)
}

/// What differs between runs.
#[derive(Debug, Clone, Default)]
pub struct PlatformOptions {
    /// Life of enrollment tokens in seconds; 72 h when none.
    pub token_seconds: Option<u32>,
    /// Life of clusters' certificates and user JWTs in seconds; 14 days when none.
    pub credentials_seconds: Option<u32>,
    /// Milliseconds after which a command that is running is sent again; 10 minutes when none.
    pub report_again_after_ms: Option<u32>,
    /// What a commit survives.
    pub durability: Durability,
    /// What the Manager logs (a tracing filter); much, for whoever looks for the cause of a failure, when none.
    pub log: Option<&'static str>,
    /// Clusters know Manager and hub only by names that they cannot resolve ([`HIDDEN_MANAGER_HOST`], [`HIDDEN_HUB_HOST`]), and the hub
    /// also in a WebSocket; and a bridge is named to them, which a scenario starts by itself ([`Platform::start_bridge`]).
    pub is_hidden: bool,
    /// Clusters know a bridge beside the hub, which whoever starts the platform starts by itself; its certificate is made.
    pub names_bridge: bool,
    /// Manager and hub listen on all addresses, and clusters know them by names and addresses of IPv6: the Manager by a name with no other
    /// one, the hub by a name with both, and for leaf nodes by an address.
    pub is_ipv6: bool,
    /// The hub takes leaf nodes, and the Manager names their URL to clusters.
    pub takes_leaf_nodes: bool,
    /// Seconds between the broker's pings of each client; few, because scenarios wait for dead connections, when none.
    pub ping_seconds: Option<u32>,
}

/// A running hub.
#[derive(Debug)]
pub struct Platform {
    /// The sandbox everything lives in.
    pub sandbox: Sandbox,
    /// The database server.
    pub postgres: Postgres,
    /// URL of the Manager's database.
    pub database_url: String,
    /// The broker.
    pub hub: Hub,
    /// Folder of the broker's configuration and store.
    pub nats_folder: PathBuf,
    /// The Manager.
    pub manager: ManagerProcess,
    /// The administrator's view of it.
    pub rest: Rest,
    /// File with the administrator's token.
    pub token_file: PathBuf,
    /// File with the CA to trust.
    pub ca_file: PathBuf,
    /// The bridge, where clusters reach the broker by it.
    pub bridge: Option<ManagerProcess>,
}

/// A client of the Manager with the token of the administrator.
fn administrator(ca_file: &Path, token_file: &Path) -> Result<Rest> {
    let token = fs::read_to_string(token_file).context("init wrote no admin token")?;
    Rest::new(&format!("https://{MANAGER_HOST}:{MANAGER_PORT}"), ca_file, &token)
}

impl Platform {
    /// Starts PostgreSQL, makes all keys, starts the hub and the Manager, and waits until the Manager is ready.
    pub async fn start(options: &PlatformOptions) -> Result<Self> {
        let sandbox = Sandbox::require()?;
        let postgres = Postgres::start_with(&sandbox, options.durability).await?;
        let database_url = postgres.database("kubenova")?;
        let folder = sandbox.folder("manager")?;
        let nats_folder = sandbox.folder("hub")?;
        let token_file = folder.join("admin.token");
        let kek = folder.join("kek");
        let ports = Ports { rest: MANAGER_PORT, hub: HUB_PORT };
        let config = configuration(&folder, &kek, &database_url, ports, options)?;
        let mut manager = ManagerProcess::configure(&sandbox, "manager", &config)?;
        manager.set_variable("RUST_LOG", options.log.unwrap_or(LOG));
        let token = token_file.to_str().context("the token file's name is not text")?;
        manager.run(&["init", "--admin-token-file", token]).context("kubenova-manager init failed")?;
        manager.write_nats_config(&nats_folder).context("kubenova-manager nats config failed")?;
        let hub = Hub::start(&sandbox, &nats_folder).await?;
        manager.serve()?;
        let address: SocketAddr = format!("{HUB_ADDRESS}:{MANAGER_PORT}").parse().context("the Manager's address")?;
        manager.wait_listening(address).await?;
        let ca_file = nats_folder.join("ca.crt");
        let rest = administrator(&ca_file, &token_file)?;
        let bridge = None;
        let mut platform =
            Self { sandbox, postgres, database_url, hub, nats_folder, manager, rest, token_file, ca_file, bridge };
        platform.wait_ready().await?;
        if !options.is_hidden && transport() == "grpc" {
            platform.bridge = Some(platform.start_bridge().await?);
        }
        Ok(platform)
    }

    /// Waits until `/readyz` says yes.
    pub async fn wait_ready(&self) -> Result<()> {
        poll::until("the Manager to be ready", Duration::from_secs(60), || async {
            let answer = match self.rest.get("/readyz").await {
                Ok(answer) => answer,
                Err(error) => return Ok(Step::Waiting(format!("{error:#}"))),
            };
            Ok(Step::when(answer.status == 200, (), format!("{} {}", answer.status, answer.body)))
        })
        .await
    }

    /// Reads the CA to trust again: it was rotated.
    pub fn trust_rotated(&mut self) -> Result<()> {
        self.rest = administrator(&self.ca_file, &self.token_file)?;
        Ok(())
    }

    /// Starts the gRPC bridge; it ends with the value.
    pub async fn start_bridge(&self) -> Result<ManagerProcess> {
        let at = |file: &str| self.nats_folder.join(file);
        let settings = json!({
            "listen": format!("{HUB_ADDRESS}:{BRIDGE_PORT}"),
            "tls": { "caFile": at("ca.crt"), "certificateFile": at("tls/bridge.pem"), "keyFile": at("tls/bridge.key") },
            "nats": { "urls": [format!("tls://{HUB_HOST}:{HUB_PORT}")] },
        });
        let mut bridge = ManagerProcess::configure(&self.sandbox, "bridge", &settings.to_string())?;
        bridge.serve_bridge()?;
        let address: SocketAddr = format!("{HUB_ADDRESS}:{BRIDGE_PORT}").parse().context("the bridge's address")?;
        bridge.wait_listening(address).await?;
        Ok(bridge)
    }

    /// Kills the Manager (SIGKILL) and starts it again.
    pub async fn restart_manager(&mut self) -> Result<()> {
        self.manager.kill();
        self.manager.restart()?;
        self.wait_ready().await
    }

    /// Kills the broker and deletes its whole JetStream store, then starts it again.
    pub async fn lose_broker_store(&mut self) -> Result<()> {
        let store = self.nats_folder.join("jetstream");
        self.hub.lose_store(&store)?;
        self.hub.restart().await
    }

    /// The `nats` CLI with the read-only context for administrators.
    pub fn nats(&self) -> Result<NatsCli> {
        Ok(NatsCli {
            program: Servers::find()?.binary("nats")?,
            config_home: self.nats_folder.join("cli"),
            context: "kubenova-ops".to_owned(),
        })
    }

    /// Makes a cluster at the Manager; returns the whole answer of `POST /clusters`.
    pub async fn create_cluster(&self, name: &str) -> Result<Value> {
        self.rest
            .post("/api/v1/clusters", &json!({ "name": name, "datacenter": format!("dc-{name}") }))
            .await?
            .expect(201)
    }
}

/// Where a Manager listens, and where it reaches the hub.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) rest: u16,
    pub(crate) hub: u16,
}

/// The Manager's settings, written out: all that an administrator must decide.
pub(crate) fn configuration(
    folder: &Path,
    kek: &Path,
    database_url: &str,
    ports: Ports,
    options: &PlatformOptions,
) -> Result<String> {
    let rest = ports.rest;
    let credentials = options.credentials_seconds.unwrap_or(14 * 24 * 3600);
    let manager_host = match options {
        PlatformOptions { is_hidden: true, .. } => HIDDEN_MANAGER_HOST,
        PlatformOptions { is_ipv6: true, .. } => MANAGER_HOST_IPV6,
        _ => MANAGER_HOST,
    };
    // To nats-server 0.0.0.0 is both families, as the defaults have it.
    let (own, broker) = if options.is_ipv6 { ("[::]", "0.0.0.0") } else { (HUB_ADDRESS, HUB_ADDRESS) };
    let public_urls = public_urls(options)?;
    let has_websocket = public_urls.iter().any(|url| url.starts_with("wss:"));
    let websocket = has_websocket.then(|| format!("{broker}:{HUB_WEBSOCKET_PORT}"));
    let takes_leaf_nodes = options.takes_leaf_nodes || transport() == "leaf";
    let leaf = takes_leaf_nodes.then(|| format!("{broker}:{HUB_LEAF_PORT}"));
    let leaf_host = if options.is_ipv6 { format!("[{HUB_ADDRESS_IPV6}]") } else { HUB_HOST.to_owned() };
    let leaf_urls: Vec<String> = leaf.iter().map(|_| format!("tls://{leaf_host}:{HUB_LEAF_PORT}")).collect();
    let text = json!({
        "database": { "url": database_url },
        "kekFile": kek,
        "stateDir": folder.join("state"),
        "listen": [format!("{own}:{rest}")],
        "publicNames": [
            MANAGER_HOST, HUB_HOST, HIDDEN_MANAGER_HOST, HIDDEN_HUB_HOST, MANAGER_HOST_IPV6, HUB_HOST_DUAL,
            "localhost", "127.0.0.1", HUB_ADDRESS, HUB_ADDRESS_IPV6,
        ],
        "endpoints": [format!("https://{manager_host}:{MANAGER_PORT}")],
        "nats": {
            "urls": [format!("tls://{HUB_HOST}:{}", ports.hub)],
            "publicUrls": public_urls,
            "websocketListen": websocket,
            "leafListen": leaf,
            "leafPublicUrls": leaf_urls,
            "listen": format!("{broker}:{HUB_PORT}"),
            "pingIntervalSeconds": options.ping_seconds.unwrap_or(PING_SECONDS),
        },
        "usage": { "windowSeconds": WINDOW_SECONDS },
        "intervals": { "reportAgainAfterMs": options.report_again_after_ms.unwrap_or(600_000) },
        // Two scenarios may run beside each other.
        "metrics": { "listen": "127.0.0.1:0" },
        "lifetimes": {
            "enrollmentTokenSeconds": options.token_seconds.unwrap_or(72 * 3600),
            "certificateSeconds": credentials,
            "userJwtSeconds": credentials,
        },
    });
    serde_json::to_string_pretty(&text).context("settings are plain text")
}
