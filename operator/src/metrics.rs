//! What the Operator counts and measures. Served only when `metrics.listen` is set.

use kubenova_runtime::{
    listen,
    metrics::{self, Labels, Registry},
    shutdown::Shutdown,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::Instant;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ControllerLabels {
    controller: &'static str,
}

impl Labels for ControllerLabels {
    const LABELS: &'static [(&'static str, &'static str)] =
        &[("controller", "`dispatch`, `cluster config`, `tenants`, `applications`, `report`")];
}

/// What became of a delivered command.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VerdictLabels {
    verdict: &'static str,
}

impl Labels for VerdictLabels {
    const LABELS: &'static [(&'static str, &'static str)] = &[(
        "verdict",
        "`stored`, `replayed`, `refused`, `superseded`, `unsupported`, `deferred`, `unverified`, `redelivered`",
    )];
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    reconcile_seconds: Family<ControllerLabels, Histogram>,
    reconcile_errors: Family<ControllerLabels, Counter>,
    commands: Family<VerdictLabels, Counter>,
    pub outcomes_pending: Gauge,
    pub session_open: Gauge,
    pub credentials_expire: Gauge,
    pub renewal_failures: Counter,
    pub windows_sealed: Counter,
    pub windows_unreceipted: Gauge,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            reconcile_seconds: registry.histograms("reconcile_seconds", "Time of a reconcile", metrics::duration),
            reconcile_errors: registry.counters(
                "reconcile_errors",
                "Reconciles that failed or found something not ready, and are tried again",
            ),
            commands: registry.counters("commands", "Delivered commands by what became of them"),
            outcomes_pending: registry.gauge("outcomes_pending", "Outcomes that wait to be published"),
            session_open: registry.gauge("session_open", "1 while a session with the Manager is open, else 0"),
            credentials_expire: registry.gauge(
                "credentials_expire_timestamp_seconds",
                "When certificate and broker credentials expire unless they are renewed, in seconds since 1970",
            ),
            renewal_failures: registry.counter(
                "credentials_renewal_failures",
                "Attempts to renew certificate and broker credentials that failed since the start",
            ),
            windows_sealed: registry.counter("usage_windows_sealed", "Usage windows sealed since the start"),
            windows_unreceipted: registry
                .gauge("usage_windows_unreceipted", "Sealed usage windows that the Manager has not confirmed"),
        }
    }

    /// Counts a delivered command.
    pub fn command(&self, verdict: &'static str) {
        self.commands.get_or_create(&VerdictLabels { verdict }).inc();
    }

    /// Measures a reconcile that began at this moment.
    pub fn reconciled(&self, controller: &'static str, began: Instant, failed: bool) {
        let labels = ControllerLabels { controller };
        self.reconcile_seconds.get_or_create(&labels).observe(Duration::as_secs_f64(&began.elapsed()));
        if failed {
            self.reconcile_errors.get_or_create(&labels).inc();
        }
    }
}

/// The Operator's registry with its metrics.
#[must_use]
pub fn registry() -> (Registry, Metrics) {
    let mut registry = Registry::new("kubenova_operator");
    let metrics = Metrics::register(&mut registry);
    (registry, metrics)
}

/// Listens on this address and serves until a stop is requested.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve(address: SocketAddr, registry: Registry, shutdown: &Shutdown) -> io::Result<()> {
    let listener = listen::tcp_for_tasks(address)?;
    tracing::info!(%address, "serving metrics");
    shutdown.spawn("metrics", metrics::serve(listener, Arc::new(registry), shutdown.clone()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reconcile_and_a_command_are_exposed_with_closed_labels() {
        let (registry, metrics) = registry();
        metrics.reconciled("cluster config", Instant::now(), true);
        metrics.command("stored");
        let exposed = registry.encode();
        for line in [
            "kubenova_operator_reconcile_seconds_count{controller=\"cluster config\"} 1",
            "kubenova_operator_reconcile_errors_total{controller=\"cluster config\"} 1",
            "kubenova_operator_commands_total{verdict=\"stored\"} 1",
            "kubenova_operator_session_open 0",
        ] {
            assert!(exposed.contains(line), "{line} in {exposed}");
        }
    }
}
