//! What the parts of a joined Operator share, in two halves: the cluster they work on, and the broker they answer to.
//! A part is handed only the half it needs.

use crate::{
    apiserver::{cache::Cache, client::Apiserver},
    inbound::{highest::Highest, just_stored::JustStored},
    join::current::{CurrentIdentity, CurrentVerifier},
    manager_clock::ManagerClock,
    metrics::Metrics,
    outbound::{outcome_queue::OutcomeQueue, status_cache::StatusCache},
    session::state::Session,
    settings::Settings,
};
use kubenova_bus::Connection;
use kubenova_operator_core::{
    components::standing::StandingComponents, digest::RecordDigest, tenant::digest::TenantDigest,
};
use kubenova_runtime::{probe::Gates, shutdown::Shutdown};
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// The cluster: its API server, and where results for the Manager are left. Holds no private key.
#[derive(Debug, Clone)]
pub struct ClusterContext {
    pub apiserver: Apiserver,
    pub settings: Arc<Settings>,
    pub shutdown: Shutdown,
    /// Readiness by name.
    pub gates: Gates,
    /// Status of objects, for the next status report.
    pub status: StatusCache,
    /// Outcomes of commands, for publishing.
    pub outcomes: OutcomeQueue,
    /// Every inbox record without its body.
    pub inbox: Cache<RecordDigest>,
    /// What inbox records are verified with.
    pub verifier: CurrentVerifier,
    /// Inbox records that were stored and not dispatched yet.
    pub just_stored: JustStored,
    /// Every NovaTenant, as far as commands wait for it.
    pub tenants: Cache<TenantDigest>,
    /// The cluster's configuration, as far as commands wait for its components.
    pub configs: Cache<StandingComponents>,
    /// The highest revision in the inbox, for heartbeats.
    pub highest: Highest,
    /// The Manager's clock, for deadlines.
    pub manager_clock: ManagerClock,
    pub metrics: Metrics,
}

/// The broker: who this cluster is there, the connection and the session.
#[derive(Debug, Clone)]
pub struct BrokerContext {
    /// Ids, keys and accepted command keys; its credentials are renewed meanwhile.
    pub identity: CurrentIdentity,
    /// `None` until the first connection is established.
    pub bus: watch::Receiver<Option<Connection>>,
    /// `None` while no session is open.
    pub session: watch::Receiver<Option<Session>>,
    /// Requests a new hello: a stream or the durable consumer was found missing, or a clock may be wrong.
    pub rehello: Arc<Notify>,
}

impl BrokerContext {
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        self.identity.cluster_id()
    }

    #[must_use]
    pub fn connection(&self) -> Option<Connection> {
        self.bus.borrow().clone()
    }
}
