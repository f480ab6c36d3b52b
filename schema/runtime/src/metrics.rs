//! Metrics: what a process counts and measures, for Prometheus.
//!
//! Guarantees: every label is a closed set, so a process has a bounded number of series; names, ids and error texts are
//! never labels. What is registered is described in `docs/metrics.md`, written from the same calls. A scrape reads numbers
//! that are there: it never asks Postgres or the API server.
//!
//! ```
//! use kubenova_runtime::metrics::{Labels, Registry};
//! use prometheus_client::encoding::EncodeLabelSet;
//!
//! #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
//! struct OutcomeLabels {
//!     outcome: &'static str,
//! }
//! impl Labels for OutcomeLabels {
//!     const LABELS: &'static [(&'static str, &'static str)] = &[("outcome", "`ok`, `failed`")];
//! }
//!
//! let mut registry = Registry::new("kubenova_example");
//! let reconciles = registry.counters::<OutcomeLabels>("reconciles", "Reconciles that ended");
//! reconciles.get_or_create(&OutcomeLabels { outcome: "ok" }).inc();
//! assert!(registry.encode().contains("kubenova_example_reconciles_total{outcome=\"ok\"} 1"));
//! ```

mod listener;

use crate::shutdown::Shutdown;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry as Inner},
};
use std::{
    fmt::{Debug, Write as _},
    hash::Hash,
    sync::{Arc, atomic::AtomicU64},
};
use tokio::net::TcpListener;

/// A gauge of seconds.
pub type GaugeSeconds = Gauge<f64, AtomicU64>;

/// The labels of a family. Fields are enums or `&'static str`, so that the set is closed.
pub trait Labels: EncodeLabelSet + Debug + Clone + Hash + Eq + Send + Sync + 'static {
    /// Each label with its possible values, for the documentation.
    const LABELS: &'static [(&'static str, &'static str)];
}

/// Upper bounds for the time of a request or a statement, in seconds: from a read of one row to the request timeout.
pub const LATENCY_SECONDS: [f64; 12] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// Upper bounds for what takes as long as a cluster or a broker needs, in seconds: to an hour.
pub const DURATION_SECONDS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];

/// A histogram with the bounds of [`LATENCY_SECONDS`].
#[must_use]
pub fn latency() -> Histogram {
    Histogram::new(LATENCY_SECONDS)
}

/// A histogram with the bounds of [`DURATION_SECONDS`].
#[must_use]
pub fn duration() -> Histogram {
    Histogram::new(DURATION_SECONDS)
}

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A registered metric, for the documentation.
#[derive(Debug)]
struct Description {
    name: String,
    kind: Kind,
    labels: &'static [(&'static str, &'static str)],
    help: &'static str,
}

/// The metrics of one process.
#[derive(Debug)]
pub struct Registry {
    prefix: &'static str,
    inner: Inner,
    described: Vec<Description>,
}

impl Registry {
    /// Without metrics. The prefix begins every name.
    #[must_use]
    pub fn new(prefix: &'static str) -> Self {
        Self { prefix, inner: Inner::with_prefix(prefix), described: Vec::new() }
    }

    /// A counter. It is exposed with the suffix `_total`.
    pub fn counter(&mut self, name: &'static str, help: &'static str) -> Counter {
        self.register(name, help, Kind::Counter, &[], Counter::default())
    }

    /// Counters by label. They are exposed with the suffix `_total`.
    pub fn counters<L: Labels>(&mut self, name: &'static str, help: &'static str) -> Family<L, Counter> {
        self.register(name, help, Kind::Counter, L::LABELS, Family::default())
    }

    /// A gauge of whole numbers.
    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> Gauge {
        self.register(name, help, Kind::Gauge, &[], Gauge::default())
    }

    /// Gauges of whole numbers by label.
    pub fn gauges<L: Labels>(&mut self, name: &'static str, help: &'static str) -> Family<L, Gauge> {
        self.register(name, help, Kind::Gauge, L::LABELS, Family::default())
    }

    /// A gauge of seconds.
    pub fn gauge_seconds(&mut self, name: &'static str, help: &'static str) -> GaugeSeconds {
        self.register(name, help, Kind::Gauge, &[], GaugeSeconds::default())
    }

    /// A histogram made by [`latency`] or [`duration`].
    pub fn histogram(&mut self, name: &'static str, help: &'static str, make: fn() -> Histogram) -> Histogram {
        self.register(name, help, Kind::Histogram, &[], make())
    }

    /// Histograms by label, each made by [`latency`] or [`duration`].
    pub fn histograms<L: Labels>(
        &mut self,
        name: &'static str,
        help: &'static str,
        make: fn() -> Histogram,
    ) -> Family<L, Histogram> {
        self.register(name, help, Kind::Histogram, L::LABELS, Family::new_with_constructor(make))
    }

    fn register<M: Metric + Clone>(
        &mut self,
        name: &'static str,
        help: &'static str,
        kind: Kind,
        labels: &'static [(&'static str, &'static str)],
        metric: M,
    ) -> M {
        let suffix = if kind == Kind::Counter { "_total" } else { "" };
        self.described.push(Description { name: format!("{}_{name}{suffix}", self.prefix), kind, labels, help });
        self.inner.register(name, help, metric.clone());
        metric
    }

    /// Every value in the OpenMetrics text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut encoded = String::new();
        // Writing to a String cannot fail, and our own metrics encode without an error of their own.
        let _never_fails = text::encode(&mut encoded, &self.inner);
        encoded
    }

    /// The metrics as rows of a Markdown table: name, kind, labels, meaning.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut table = String::from("| Metric | Kind | Labels | Meaning |\n| --- | --- | --- | --- |\n");
        for Description { name, kind, labels, help } in &self.described {
            let labels: Vec<String> = labels.iter().map(|(label, values)| format!("`{label}`: {values}")).collect();
            let _never_fails = writeln!(table, "| `{name}` | {} | {} | {help}. |", kind.as_str(), labels.join("<br>"));
        }
        table
    }
}

/// Serves the registry at `/metrics` until a stop is requested.
pub async fn serve(listener: TcpListener, registry: Arc<Registry>, shutdown: Shutdown) {
    listener::run(listener, Arc::new(move || registry.encode()), &shutdown).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct StateLabels {
        state: &'static str,
    }

    impl Labels for StateLabels {
        const LABELS: &'static [(&'static str, &'static str)] = &[("state", "`open`, `done`")];
    }

    #[test]
    fn what_is_registered_is_exposed_and_described_under_the_same_name() {
        let mut registry = Registry::new("kubenova_test");
        registry.counter("rounds", "Rounds that ended").inc();
        registry.gauges::<StateLabels>("windows", "Windows").get_or_create(&StateLabels { state: "open" }).set(3);
        registry.histogram("round_seconds", "Time of a round", latency).observe(0.003);
        let (exposed, described) = (registry.encode(), registry.markdown());
        for name in ["kubenova_test_rounds_total", "kubenova_test_windows", "kubenova_test_round_seconds"] {
            assert!(exposed.contains(name), "{name} in {exposed}");
            assert!(described.contains(&format!("| `{name}` |")), "{name} in {described}");
        }
        assert!(exposed.contains("kubenova_test_windows{state=\"open\"} 3"), "{exposed}");
        assert!(described.contains("| gauge | `state`: `open`, `done` | Windows. |"), "{described}");
    }
}
