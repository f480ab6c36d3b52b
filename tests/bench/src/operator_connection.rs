//! The Operator's side of the raw chain: a connection to the broker by the transport of the run, made as an Operator makes its own.
//!
//! Guarantees: URLs, certificate and client are those of a cluster that enrolled for it, so what lies between (TLS, a WebSocket, the
//! bridge, a leaf node) is what lies between an Operator and the broker. The user is the Manager's, because what the raw chain
//! consumes is no cluster's.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kubenova_bus::transport::TransportChoice;
use kubenova_bus::{Connection, Settings};
use kubenova_env::process::Process;
use kubenova_scenarios::broker;
use kubenova_scenarios::platform::{self, Platform};
use kubenova_scenarios::site::text;
use kubenova_scenarios::steps;
use kubenova_simulator::cluster::{Options, SimulatedCluster};
use kubenova_trust::keyring::Keyring;

use crate::raw_leaf;

/// Name of the cluster at the Manager.
const NAME: &str = "raw-chain";
/// For its first command: it must not stay open.
const APPLIED_MAX: Duration = Duration::from_secs(60);

/// Connects; with the leaf node, where the connection goes by one.
pub(crate) async fn connect(platform: &Platform, keyring: &Keyring) -> Result<(Connection, Option<Process>)> {
    let wanted = platform::transport();
    let own = broker::settings(platform, keyring)?;
    let as_operator = enrolled(platform).await?;
    let settings = Settings {
        credentials: own.credentials,
        inbox_prefix: None,
        api_prefix: None,
        name: NAME.to_owned(),
        ..as_operator
    };
    let (settings, leaf_node) = if wanted == "leaf" {
        let (leaf, process) = raw_leaf::start(platform, keyring).await?;
        let api_prefix = Some(raw_leaf::API_PREFIX.to_owned());
        (Settings { leaf: Some(leaf), transport: TransportChoice::Leaf, api_prefix, ..settings }, Some(process))
    } else {
        (settings, None)
    };
    let connection = kubenova_bus::connect(settings).await.context("the raw chain could not connect as an Operator")?;
    let taken = connection.via().transport;
    ensure!(taken.name() == wanted, "the raw chain's consumer is connected by {taken}, not by {wanted}");
    Ok((connection, leaf_node))
}

/// How a cluster connects that joined only for this. It runs until its first command has ended.
async fn enrolled(platform: &Platform) -> Result<Settings> {
    let created = platform.create_cluster(NAME).await?;
    let token = text(&created, "/enrollment/token")?;
    let folder = platform.sandbox.memory("simulated")?;
    let mut cluster = SimulatedCluster::enroll(NAME, &token, &folder, Options::default()).await?;
    cluster.start();
    cluster.applied(APPLIED_MAX).await?;
    steps::wait_no_open_commands(platform, APPLIED_MAX).await?;
    Ok(cluster.bus_settings())
}
