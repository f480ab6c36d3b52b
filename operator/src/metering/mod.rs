//! Measures what tenants use and reports it: I/O around `kubenova_operator_core::metering`.
//!
//! ```text
//! follow (one watch a source) ─► meter (the engine) ─► checkpoint, seal ─► reports ─► publish ─► KN_USE
//!                                                                             ▲
//!                                                        receipts ────────────┘ marked, later evicted
//! ```
//!
//! A sealed report is stored in the cluster's own API server before anything is published, and stays there until the
//! Manager's receipt is a week old. Metering needs no broker and no session: it continues without them.

mod follow;
mod health;
mod meter;
mod publish;
pub mod receipt;
mod reports;
mod start;
mod steps;
mod unlabelled;
mod verify;

pub use health::UsageHealth;

use crate::{manager_clock::ManagerClock, metrics::Metrics};
use kubenova_bus::Connection;
use kubenova_runtime::{probe::Gates, shutdown::Shutdown};
use receipt::ReceiptDelivery;
use tokio::sync::{mpsc, watch};

/// What metering needs.
pub struct MeteringContext {
    pub client: kube::Client,
    pub window_seconds: u32,
    /// Namespace of the reports.
    pub state_namespace: String,
    pub cluster_id: String,
    pub incarnation: String,
    /// Seed of the enrolled nkey, which signs manifests.
    pub nkey_seed: String,
    pub bus: watch::Receiver<Option<Connection>>,
    pub receipts: mpsc::Receiver<ReceiptDelivery>,
    pub manager_clock: ManagerClock,
    pub shutdown: Shutdown,
    pub metrics: Metrics,
    /// For the gate `metering`.
    pub gates: Gates,
    /// For the condition `UsageReporting` and the heartbeat.
    pub health: watch::Sender<UsageHealth>,
}

impl std::fmt::Debug for MeteringContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeteringContext")
            .field("cluster_id", &self.cluster_id)
            .field("window_seconds", &self.window_seconds)
            .finish_non_exhaustive()
    }
}

/// The channel of [`UsageHealth`], before metering has started.
#[must_use]
pub fn health() -> (watch::Sender<UsageHealth>, watch::Receiver<UsageHealth>) {
    watch::channel(UsageHealth::starting())
}

/// Meters until a stop is requested. Returns early when another Operator owns the window: the process must stop then.
pub async fn run(context: MeteringContext) {
    context.gates.set("metering", Some("waiting for the first lists of namespaces, pods and applications".to_owned()));
    // Without a bound, so that the meter never waits for a broker: it holds one short notice for each stored report at most.
    let (sealed_sender, sealed) = mpsc::unbounded_channel();
    let publisher = publish::Publisher::new(publish::Parts {
        client: context.client.clone(),
        namespace: context.state_namespace.clone(),
        cluster_id: context.cluster_id.clone(),
        window_seconds: context.window_seconds,
        bus: context.bus,
        sealed,
        unreceipted: context.metrics.windows_unreceipted.clone(),
        health: context.health.clone(),
    });
    let meter = meter::Parts {
        client: context.client,
        namespace: context.state_namespace,
        window_seconds: context.window_seconds,
        cluster_id: context.cluster_id,
        incarnation: context.incarnation,
        nkey_seed: context.nkey_seed,
        clock: context.manager_clock,
        sealed: sealed_sender,
        windows_sealed: context.metrics.windows_sealed.clone(),
        gates: context.gates,
        health: context.health,
        shutdown: context.shutdown.clone(),
    };
    let shutdown = context.shutdown;
    let publishing = publisher.run(context.receipts, shutdown.clone());
    let metering = meter::run(meter);
    tokio::pin!(publishing, metering);
    tokio::select! {
        // The meter writes a last checkpoint on a stop; publishing may end first.
        () = &mut metering => {}
        () = &mut publishing => {
            if shutdown.is_requested() {
                metering.await;
            }
        }
    }
}
