//! What every part of a joined Operator is handed.

use crate::{
    apiserver::client::Apiserver,
    join::identity::Identity,
    metering::UsageHealth,
    outbound::{outcomes::Outcomes, status::StatusCache},
    session::Session,
    settings::Settings,
};
use kubenova_bus::Connection;
use kubenova_runtime::{probe::Gates, shutdown::Shutdown};
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// Shared by all parts; cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// The cluster's API server.
    pub apiserver: Apiserver,
    /// The settings.
    pub settings: Arc<Settings>,
    /// Who this cluster is: ids, keys, accepted command keys. Fixed for the life of the process.
    pub identity: Arc<Identity>,
    /// Changes with every start of the process.
    pub boot_id: String,
    /// Rises with every start of an Operator of this cluster.
    pub lease_term: u64,
    /// Version of the API server, as at start.
    pub kubernetes_version: String,
    /// The connection to the broker; `None` until the first one stands.
    pub bus: watch::Receiver<Option<Connection>>,
    /// The open session; `None` while there is none.
    pub session: watch::Receiver<Option<Session>>,
    /// Asks for a new hello: somebody found a stream or the durable gone.
    pub hello_again: Arc<Notify>,
    /// How metering is.
    pub usage: watch::Receiver<UsageHealth>,
    /// Takes what is to be said about commands.
    pub outcomes: Outcomes,
    /// Takes what is to be said about objects.
    pub status_cache: StatusCache,
    /// Asks parts to stop.
    pub shutdown: Shutdown,
    /// Readiness by name.
    pub gates: Gates,
}
