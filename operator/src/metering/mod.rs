//! Measuring what tenants use, and reporting it: I/O around `kubenova_operator_core::metering`.
//!
//! ```text
//! follow (one watch a source) ─► meter (the engine) ─► checkpoint, seal ─► reports ─► publish ─► KN_USE
//!                                                                             ▲
//!                                                        receipts ────────────┘ marked, later evicted
//! ```
//!
//! A sealed report lies in the cluster's own API server before anything is published, and stays until the Manager's
//! receipt is a week old. Metering needs no bus and no session: it goes on when the broker is gone.

mod follow;
mod health;
mod meter;
mod publish;
mod reports;
mod steps;

pub use health::UsageHealth;

use kubenova_bus::Connection;
use kubenova_runtime::{clock, probe::Gates, shutdown::Shutdown};
use kubenova_schema::v1::ReceiptList;
use tokio::sync::{mpsc, oneshot, watch};

/// A receipt list whose signature was verified. `marked` is answered once its windows are marked as received: only then
/// is the message acknowledged.
#[derive(Debug)]
pub struct ReceiptDelivery {
    /// The list.
    pub list: ReceiptList,
    /// WatchUpdate when it is taken in; dropped when it was not.
    pub marked: oneshot::Sender<()>,
}

/// What metering needs.
pub struct MeteringContext {
    /// The Operator's own client.
    pub client: kube::Client,
    /// Length of a window.
    pub window_seconds: u32,
    /// Namespace of the reports.
    pub state_namespace: String,
    /// This cluster's id.
    pub cluster_id: String,
    /// Its incarnation.
    pub incarnation: String,
    /// Seed of the enrolled nkey, which signs manifests.
    pub nkey_seed: String,
    /// The present connection to the broker.
    pub bus: watch::Receiver<Option<Connection>>,
    /// Verified receipts.
    pub receipts: mpsc::Receiver<ReceiptDelivery>,
    /// Operator clock minus Manager clock, as measured at the last hello.
    pub clock_offset_ms: watch::Receiver<i64>,
    /// When to stop.
    pub shutdown: Shutdown,
    /// Readiness: gate `metering`.
    pub gates: Gates,
    /// Condition `UsageReporting` and the heartbeat's count come from here.
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

/// The channel of [`UsageHealth`], before metering has begun.
#[must_use]
pub fn health() -> (watch::Sender<UsageHealth>, watch::Receiver<UsageHealth>) {
    watch::channel(UsageHealth::starting())
}

/// Meters until a stop is asked for, or until another Operator turns out to own the window: then it returns early, and
/// the process that spawned it stops.
pub async fn run(context: MeteringContext) {
    context.gates.set("metering", Some("waiting for the first lists of namespaces, pods and applications".to_owned()));
    let (sealed_sender, sealed) = mpsc::channel(64);
    let clock = Clock { offset_ms: context.clock_offset_ms };
    let publisher = publish::Publisher::new(publish::Parts {
        client: context.client.clone(),
        namespace: context.state_namespace.clone(),
        cluster_id: context.cluster_id.clone(),
        window_seconds: context.window_seconds,
        bus: context.bus,
        sealed,
        health: context.health.clone(),
    });
    let meter = meter::Parts {
        client: context.client,
        namespace: context.state_namespace,
        window_seconds: context.window_seconds,
        cluster_id: context.cluster_id,
        incarnation: context.incarnation,
        nkey_seed: context.nkey_seed,
        clock,
        sealed: sealed_sender,
        gates: context.gates,
        health: context.health,
    };
    let shutdown = context.shutdown;
    let publishing = publisher.run(context.receipts, shutdown.clone());
    let metering = meter::run(meter, shutdown.clone());
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

/// The wall clock, corrected towards the Manager's.
#[derive(Debug, Clone)]
struct Clock {
    offset_ms: watch::Receiver<i64>,
}

impl Clock {
    fn offset_ms(&self) -> i64 {
        *self.offset_ms.borrow()
    }

    fn now_ms(&self) -> i64 {
        clock::now_ms().saturating_sub(self.offset_ms())
    }
}
