//! What the bridge counts. Ids of clusters are in the log only: a label is a closed set.

use kubenova_runtime::metrics::{Labels, Registry};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

/// Begins every name.
pub const PREFIX: &str = "kubenova_bridge";

/// Which way bytes go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DirectionLabels {
    pub(crate) direction: &'static str,
}

impl Labels for DirectionLabels {
    const LABELS: &'static [(&'static str, &'static str)] = &[("direction", "`from_cluster`, `to_cluster`")];
}

/// How a session ended, or was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct EndLabels {
    pub(crate) end: &'static str,
}

impl Labels for EndLabels {
    const LABELS: &'static [(&'static str, &'static str)] = &[(
        "end",
        "`closed` by either side in good order, `lost` by the cluster, `broker` was lost, `draining`, `stalled`",
    )];
}

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RefusalLabels {
    pub(crate) reason: &'static str,
}

impl Labels for RefusalLabels {
    const LABELS: &'static [(&'static str, &'static str)] = &[("reason", "`broker` not reached, `draining`, `full`")];
}

/// Why the bridge closed a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ClosedLabels {
    pub(crate) reason: &'static str,
}

impl Labels for ClosedLabels {
    const LABELS: &'static [(&'static str, &'static str)] =
        &[("reason", "`address` or `cluster` has as many as it may, `full`, `unused` by a session for 20 seconds")];
}

/// The bridge's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) sessions: Gauge,
    pub(crate) clusters: Gauge,
    pub(crate) ended: Family<EndLabels, Counter>,
    pub(crate) refused: Family<RefusalLabels, Counter>,
    pub(crate) bytes: Family<DirectionLabels, Counter>,
    pub(crate) closed: Family<ClosedLabels, Counter>,
    pub(crate) handshake_failures: Counter,
    pub(crate) certificate_failures: Counter,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            sessions: registry.gauge("sessions", "Sessions that are open"),
            clusters: registry.gauge("clusters", "Clusters that have one or more sessions"),
            ended: registry.counters::<EndLabels>("sessions_ended", "Sessions that ended"),
            refused: registry.counters::<RefusalLabels>("sessions_refused", "Sessions that were refused"),
            bytes: registry.counters::<DirectionLabels>("bytes", "Bytes of the NATS protocol that were passed on"),
            closed: registry
                .counters::<ClosedLabels>("connections_closed", "Connections that the bridge closed by itself"),
            handshake_failures: registry.counter(
                "handshake_failures",
                "Connections whose TLS handshake failed, for want of a cluster's certificate or another reason",
            ),
            certificate_failures: registry.counter(
                "certificate_failures",
                "Looks at the bridge's own certificate files that found nothing usable",
            ),
        }
    }

    /// Counts a connection that the bridge closes.
    pub(crate) fn closed(&self, reason: &'static str) {
        self.closed.get_or_create(&ClosedLabels { reason }).inc();
    }
}
