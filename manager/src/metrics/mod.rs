//! What the Manager counts and measures; `docs/metrics.md` is written from here.
//!
//! Each part gets the metrics it changes and nothing else. What only Postgres knows is read by [`gauges`] on a timer, so
//! that a scrape costs the database nothing.

pub mod gauges;

use kubenova_core::command::CommandState;
use kubenova_runtime::metrics::{GaugeSeconds, Labels, Registry, duration, latency};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use std::fmt::Write as _;

/// Begins the name of every metric of the Manager.
pub const PREFIX: &str = "kubenova_manager";

/// All metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// REST and enrollment.
    pub requests: Family<RequestLabels, Histogram>,
    /// The relay.
    pub relay: RelayMetrics,
    /// Sessions.
    pub sessions: SessionMetrics,
    /// Ingest.
    pub ingest: IngestMetrics,
    /// Clusters that wait for a list of receipts.
    pub receipts_due: Gauge,
    /// Billing events that the broker confirmed.
    pub billing_published: Counter,
    /// Servers of the broker that lack an account JWT.
    pub broker_servers_behind: Gauge,
    /// What Postgres holds.
    pub stored: StoredGauges,
}

/// Metrics of the relay.
#[derive(Debug, Clone)]
pub struct RelayMetrics {
    /// Sends by result.
    pub sends: Family<SendLabels, Counter>,
    /// Time to send what was due for one cluster.
    pub round_seconds: Histogram,
}

/// Metrics of sessions.
#[derive(Debug, Clone)]
pub struct SessionMetrics {
    /// Hellos by answer.
    pub hellos: Family<HelloLabels, Counter>,
    /// Requests for a hello by reason.
    pub hello_requests: Family<HelloRequestLabels, Counter>,
    /// Requests for a renewal of credentials.
    pub renewal_requests: Counter,
}

/// Metrics of ingest.
#[derive(Debug, Clone)]
pub struct IngestMetrics {
    /// Messages by consumer and verdict.
    pub messages: Family<IngestLabels, Counter>,
    /// From the broker's storing a message to our commit.
    pub lag_seconds: Family<ConsumerLabels, Histogram>,
    /// Messages that wait at the broker.
    pub pending: Family<ConsumerLabels, Gauge>,
}

/// What [`gauges`] reads from Postgres.
#[derive(Debug, Clone)]
pub struct StoredGauges {
    /// Open commands by state.
    pub commands_open: Family<StateLabels, Gauge>,
    /// Open commands for clusters that are not in session.
    pub commands_without_session: Gauge,
    /// Operations whose cluster has not said by their deadline how they ended.
    pub commands_overdue: Gauge,
    /// Deletes of tenants that wait for a person's confirmation.
    pub deletes_unconfirmed: Gauge,
    /// Age of the oldest command that was not sent.
    pub outbox_oldest_seconds: GaugeSeconds,
    /// Billing events that were not published.
    pub billing_outbox: Gauge,
    /// Age of the oldest of them.
    pub billing_outbox_oldest_seconds: GaugeSeconds,
    /// Billing events that can never be published.
    pub billing_events_set_aside: Gauge,
    /// Sessions whose heartbeat is fresh.
    pub sessions_open: Gauge,
    /// Windows in the ledger without a receipt.
    pub windows_unreceipted: Gauge,
    /// Dead letters.
    pub dead_letters: Gauge,
    /// Usage records of tenants that are not known on their clusters.
    pub unclaimed_usage: Gauge,
    /// Clusters that hold commands which the database lost.
    pub diverged_clusters: Gauge,
    /// Installations that wait for an administrator's approval.
    pub enrollments_waiting: Gauge,
    /// Clusters of which a token was shown by a second installation.
    pub tokens_used_twice: Gauge,
    /// How far the Manager's clock is ahead of Postgres'.
    pub clock_offset_seconds: GaugeSeconds,
}

impl Metrics {
    /// Registers every metric.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            requests: registry.histograms(
                "http_request_duration_seconds",
                "Time from a request's headers to the headers of its response",
                latency,
            ),
            relay: RelayMetrics {
                sends: registry.counters("command_sends", "Attempts to publish a command, repeated sends included"),
                round_seconds: registry.histogram(
                    "relay_round_seconds",
                    "Time to send what was due for one cluster, acknowledgements of the broker included",
                    duration,
                ),
            },
            sessions: SessionMetrics {
                hellos: registry.counters("hellos", "Hellos of clusters by the Manager's answer"),
                hello_requests: registry.counters("hello_requests", "Requests to a cluster for a hello, by reason"),
                renewal_requests: registry.counter(
                    "renewal_requests",
                    "Requests to a cluster to renew credentials that were issued with other keys than the Manager has now",
                ),
            },
            ingest: IngestMetrics {
                messages: registry.counters("ingest_messages", "Messages of clusters by what became of them"),
                lag_seconds: registry.histograms(
                    "ingest_lag_seconds",
                    "Time from the broker's storing of a message to its commit in Postgres",
                    duration,
                ),
                pending: registry
                    .gauges("ingest_pending", "Messages that waited at the broker behind the last one handled"),
            },
            receipts_due: registry.gauge(
                "receipts_due_clusters",
                "Clusters with windows in the ledger whose list of receipts is not sent yet",
            ),
            billing_published: registry.counter("billing_events_published", "Billing events that the broker confirmed"),
            broker_servers_behind: registry.gauge(
                "broker_servers_behind",
                "Servers of the broker that did not have the current account JWTs when they were asked last",
            ),
            stored: StoredGauges::register(registry),
        }
    }
}

impl StoredGauges {
    fn register(registry: &mut Registry) -> Self {
        Self {
            commands_open: registry.gauges(
                "commands_open",
                "Commands that did not end yet, by state; those in state `queued` are the depth of the outbox",
            ),
            commands_without_session: registry.gauge(
                "commands_without_session",
                "Commands that did not end yet and whose cluster is not in session: they wait until it connects",
            ),
            commands_overdue: registry.gauge(
                "commands_overdue",
                "Operations that were sent and whose cluster has not said by their deadline how they ended",
            ),
            deletes_unconfirmed: registry.gauge(
                "tenant_deletes_unconfirmed",
                "Deletes of tenants that wait for a person's confirmation, or until fewer were deleted lately",
            ),
            outbox_oldest_seconds: registry.gauge_seconds(
                "outbox_oldest_seconds",
                "Age of the oldest command that was not sent yet, 0 without one",
            ),
            billing_outbox: registry.gauge("billing_outbox_events", "Billing events that were not published yet"),
            billing_outbox_oldest_seconds: registry.gauge_seconds(
                "billing_outbox_oldest_seconds",
                "Age of the oldest billing event that was not published yet, 0 without one",
            ),
            billing_events_set_aside: registry.gauge(
                "billing_events_set_aside",
                "Billing events that no broker accepts, with the reason in table billing_outbox: usage without an invoice",
            ),
            sessions_open: registry.gauge("sessions_open", "Clusters in session, with a fresh heartbeat"),
            windows_unreceipted: registry.gauge(
                "usage_windows_unreceipted",
                "Sealed usage windows in the ledger that came after the newest list of receipts made for their cluster",
            ),
            dead_letters: registry
                .gauge("dead_letters", "Messages of clusters that can never be handled, as kept in table dead_letters"),
            unclaimed_usage: registry.gauge(
                "unclaimed_usage_records",
                "Usage records of tenants that are not known on their clusters, as after a restore of the database",
            ),
            diverged_clusters: registry.gauge(
                "clusters_diverged",
                "Clusters that hold commands which the database lost in a restore; nothing is sent to them before kubenova-manager recover",
            ),
            enrollments_waiting: registry.gauge(
                "enrollments_waiting_for_approval",
                "Installations that wait for an administrator's approval with a token that has not expired",
            ),
            tokens_used_twice: registry.gauge(
                "clusters_token_used_twice",
                "Clusters of which a second installation showed an enrollment token, and which did not enroll with another token since: the token may have been stolen",
            ),
            clock_offset_seconds: registry.gauge_seconds(
                "clock_offset_seconds",
                "How far the Manager's clock is ahead of that of Postgres; below zero when it is behind",
            ),
        }
    }
}

/// Labels of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The method.
    pub method: Method,
    /// The route's template.
    pub route: Route,
    /// The status.
    pub status: u16,
}

impl Labels for RequestLabels {
    const LABELS: &'static [(&'static str, &'static str)] = &[
        ("method", "the HTTP method, `other` for an unusual one"),
        ("route", "the template of the route as in the OpenAPI document, `none` where no route matched"),
        ("status", "the HTTP status"),
    ];
}

/// A method. What a client invents is `other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Method(&'static str);

impl Method {
    /// Of a request.
    #[must_use]
    pub fn of(method: &axum::http::Method) -> Self {
        const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        Self(KNOWN.into_iter().find(|known| method == known).unwrap_or("other"))
    }

    /// The text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl EncodeLabelValue for Method {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        encoder.write_str(self.0)
    }
}

/// The template of a route. Made from the router's match only, so there are as many as routes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route(std::sync::Arc<str>);

impl Route {
    /// Of the route that matched.
    #[must_use]
    pub fn of(matched: Option<&axum::extract::MatchedPath>) -> Self {
        Self(matched.map_or("none", axum::extract::MatchedPath::as_str).into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl EncodeLabelValue for Route {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        encoder.write_str(&self.0)
    }
}

/// Labels of a send.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SendLabels {
    /// `stored`, `unconfirmed` or `too_large`.
    pub result: &'static str,
}

impl Labels for SendLabels {
    const LABELS: &'static [(&'static str, &'static str)] =
        &[("result", "`stored` by the broker, `unconfirmed` (sent again later), `too_large` (the command failed)")];
}

/// Labels of a hello.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HelloLabels {
    /// `accepted`, `refused` or `not_ready`.
    pub answer: &'static str,
}

impl Labels for HelloLabels {
    const LABELS: &'static [(&'static str, &'static str)] =
        &[("answer", "`accepted`, `refused`, `not_ready` (Postgres or the broker did not answer)")];
}

/// Labels of a request for a hello.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HelloRequestLabels {
    /// `HeartbeatNotCounted`, `AfterSilence` or `PostgresStarted`.
    pub reason: &'static str,
}

impl Labels for HelloRequestLabels {
    const LABELS: &'static [(&'static str, &'static str)] = &[(
        "reason",
        "`HeartbeatNotCounted` (of another session, or with a revision that Postgres does not know), `AfterSilence` (the first \
         heartbeat after minutes), `PostgresStarted` (Postgres was started since the session was opened), \
         `ListingDiffers` (the cluster holds other documents than it was commanded)",
    )];
}

/// Labels of a consumer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConsumerLabels {
    /// The durable.
    pub consumer: &'static str,
}

const CONSUMERS: &str = "`manager-outcomes`, `manager-status`, `manager-usage`";

impl Labels for ConsumerLabels {
    const LABELS: &'static [(&'static str, &'static str)] = &[("consumer", CONSUMERS)];
}

/// Labels of a message of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct IngestLabels {
    /// The durable.
    pub consumer: &'static str,
    /// `done`, `later` or `dead_letter`.
    pub verdict: &'static str,
}

impl Labels for IngestLabels {
    const LABELS: &'static [(&'static str, &'static str)] = &[
        ("consumer", CONSUMERS),
        ("verdict", "`done`, `later` (Postgres did not answer, delivered again), `dead_letter` (can never be handled)"),
    ];
}

/// Labels of open commands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabels {
    /// The state.
    pub state: &'static str,
}

impl Labels for StateLabels {
    const LABELS: &'static [(&'static str, &'static str)] = &[("state", "`queued`, `sent`, `acknowledged`, `running`")];
}

/// The states that a command passes before it ends.
pub(crate) const OPEN: [CommandState; 4] =
    [CommandState::Queued, CommandState::Sent, CommandState::Acknowledged, CommandState::Running];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_routes_are_closed_sets() {
        let invented = axum::http::Method::from_bytes(b"BREW").unwrap();
        assert_eq!(Method::of(&invented), Method("other"));
        assert_eq!(Method::of(&axum::http::Method::PUT), Method("PUT"));
        assert_eq!(Route::of(None), Route("none".into()));
    }

    #[test]
    fn open_states_are_those_that_are_not_terminal() {
        for state in CommandState::ALL {
            assert_eq!(OPEN.contains(&state), !state.is_terminal(), "{state:?}");
        }
    }

    #[test]
    fn every_metric_is_described() {
        let mut registry = Registry::new(PREFIX);
        let metrics = Metrics::register(&mut registry);
        metrics.stored.commands_open.get_or_create(&StateLabels { state: "queued" }).set(1);
        assert!(registry.encode().contains("kubenova_manager_commands_open{state=\"queued\"} 1"));
        assert!(registry.markdown().contains("`kubenova_manager_http_request_duration_seconds`"));
    }
}
