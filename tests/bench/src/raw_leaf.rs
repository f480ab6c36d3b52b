//! A leaf node for the raw chain: configured by the product as that of a cluster, with the Manager's user at the hub and for its client.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kubenova_bus::leaf::Leaf;
use kubenova_env::process::{Process, ProcessSpec};
use kubenova_env::sandbox::HUB_ADDRESS;
use kubenova_env::servers::Servers;
use kubenova_operator_core::leaf::{FOLDER, LeafNode, configuration, file};
use kubenova_runtime::clock;
use kubenova_scenarios::platform::{HUB_HOST, HUB_LEAF_PORT, Platform};
use kubenova_trust::authority::Validity;
use kubenova_trust::keyring::Keyring;
use kubenova_trust::nats::NatsIdentity;

/// Below those of the clusters' leaf nodes.
const PORT: u16 = 7429;
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
const BOOT_MAX: Duration = Duration::from_secs(30);
/// Prefix of the JetStream API of the hub across a leaf node: by its domain. A leaf node passes no other one on.
pub(crate) const API_PREFIX: &str = "$JS.hub.API";

/// Starts it, and says how it is reached.
pub(crate) async fn start(platform: &Platform, keyring: &Keyring) -> Result<(Leaf, Process)> {
    let folder = platform.sandbox.folder("raw-leaf")?;
    let here = folder.to_str().context("the folder's name is not text")?;
    let validity = Validity { now: clock::now(), lifetime: LIFETIME };
    let (nkeys, authority) = (&keyring.nkeys, &keyring.authority);
    let nkey = nkeys.public(NatsIdentity::ManagerUser);
    let hub_urls = [format!("tls://{HUB_HOST}:{HUB_LEAF_PORT}")];
    let leaf = LeafNode { server_name: "raw", nkey: &nkey, port: PORT, hub_urls: &hub_urls, proxy: None };
    let config = configuration(&leaf);
    let (client, server) =
        (authority.client("raw-leaf", validity)?, authority.server("raw-leaf", &[HUB_ADDRESS.to_owned()], validity)?);
    let files = [
        (file::CONFIGURATION, config.replace(FOLDER, here)),
        (file::CREDENTIALS, nkeys.manager_user(validity)?.to_file()),
        (file::CERTIFICATE, client.chain_pem),
        (file::KEY, client.key_pem),
        (file::AUTHORITY, authority.bundle_pem().to_owned()),
        (file::SERVER_CERTIFICATE, server.chain_pem),
        (file::SERVER_KEY, server.key_pem),
    ];
    for (name, text) in files {
        fs::write(folder.join(name), text).with_context(|| format!("could not write {name}"))?;
    }
    let config = folder.join(file::CONFIGURATION).into_os_string();
    let spec = ProcessSpec::new("raw-leaf", Servers::find()?.binary("nats-server")?, &folder)
        .args(["--config".into(), config]);
    let mut process = Process::start(spec)?;
    let address: SocketAddr = format!("{HUB_ADDRESS}:{PORT}").parse().context("the leaf node's address")?;
    process.wait_listening("the raw chain's leaf node", address, BOOT_MAX).await?;
    let ca = folder.join(file::AUTHORITY);
    Ok((Leaf { url: format!("tls://{HUB_ADDRESS}:{PORT}"), ca, asks: format!("{API_PREFIX}.INFO") }, process))
}
