//! How far the join got, as conditions of `NovaClusterConfig/default`: the first one that is False names the fix. What
//! changed is also an event and one log line.

use crate::apiserver::{self, client::Apiserver, event, status, verbs};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Api, Resource as _};
use kubenova_crds::{
    cluster_config::{ClusterConfigSpec, ClusterConfigStatus, NAME, NovaClusterConfig, condition},
    conditions::ConditionStatus,
};
use kubenova_operator_core::{
    conditions::{ConditionSet, ConditionUpdate},
    ready,
};
use kubenova_runtime::clock;

/// The conditions that join and session own, in order.
const STEPS: [&str; 7] = [
    condition::DNS_RESOLVED,
    condition::ENDPOINT_REACHABLE,
    condition::TLS_VERIFIED,
    condition::CLOCK_IN_SYNC,
    condition::TOKEN_ACCEPTED,
    condition::IDENTITY_ISSUED,
    condition::BUS_CONNECTED,
];

/// Clocks that differ by more make certificates, tokens and deadlines unreliable.
const CLOCK_TOLERANCE_MS: i64 = 30_000;

/// Why the cluster cannot join, as its condition says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct JoinError {
    /// The condition that is False.
    pub condition: &'static str,
    pub reason: String,
    /// What happened and what to do about it.
    pub message: String,
}

impl JoinError {
    #[must_use]
    pub fn new(condition: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { condition, reason: reason.into(), message: message.into() }
    }

    /// How far the join got: a later condition is nearer to success.
    #[must_use]
    pub fn step(&self) -> usize {
        STEPS.iter().position(|step| *step == self.condition).unwrap_or_default()
    }
}

/// Keeps, of the errors of several endpoints, that of the one that got furthest, with what was found on the way there.
pub fn keep_furthest<T>(kept: &mut Option<(JoinError, T)>, error: JoinError, found: T) {
    if kept.as_ref().is_none_or(|(known, _)| error.step() > known.step()) {
        *kept = Some((error, found));
    }
}

/// Sets the condition that stopped the join to False, and those that were not reached to Unknown.
pub fn set_stopped(conditions: &mut ConditionSet, error: &JoinError) {
    conditions.set_false(error.condition, &error.reason, &error.message);
    // The session reports BusConnected itself.
    for later in STEPS.iter().skip(error.step() + 1).filter(|step| **step != condition::BUS_CONNECTED) {
        conditions.set_unknown(later, "NotReached", format!("waits for {}", error.condition));
    }
}

/// The same where nothing was joined before either: there is no session, whatever an earlier process said of one.
pub fn set_not_joined(conditions: &mut ConditionSet, error: &JoinError) {
    set_stopped(conditions, error);
    if error.condition != condition::BUS_CONNECTED {
        conditions.set_unknown(condition::BUS_CONNECTED, "NotReached", format!("waits for {}", error.condition));
    }
}

/// Says how well the clocks agree, as measured at enrollment or at the last hello.
pub fn set_clock(conditions: &mut ConditionSet, offset_ms: Option<i64>) {
    match offset_ms {
        Some(offset) if offset.abs() > CLOCK_TOLERANCE_MS => {
            let message = format!(
                "this cluster's clock differs from the Manager's by {} s; correct the time synchronization of the nodes",
                offset / 1000
            );
            conditions.set_false(condition::CLOCK_IN_SYNC, "ClockSkewed", message);
        }
        Some(offset) => {
            let message = format!("within {} s of the Manager's clock", offset.abs() / 1000 + 1);
            conditions.set_true(condition::CLOCK_IN_SYNC, "InSync", message);
        }
        None => conditions.set_true(condition::CLOCK_IN_SYNC, "NotMeasured", "the Manager's answer carried no time"),
    }
}

/// Writes conditions and facts into the object's status.
#[derive(Debug, Clone)]
pub struct StatusReporter {
    apiserver: Apiserver,
    api: Api<NovaClusterConfig>,
}

impl StatusReporter {
    #[must_use]
    pub fn new(apiserver: &Apiserver) -> Self {
        Self { apiserver: apiserver.clone(), api: Api::all(apiserver.client()) }
    }

    /// Creates the object when it is missing, with every condition Unknown.
    ///
    /// # Errors
    /// When a call fails; not found means that the CRD is missing.
    pub async fn open(&self) -> Result<(), apiserver::Error> {
        let empty = NovaClusterConfig::new(NAME, ClusterConfigSpec::default());
        verbs::create_if_absent(&self.api, &empty).await?;
        self.update(|status, generation| {
            let mut missing = ConditionSet::new();
            for step in STEPS {
                if !status.conditions.iter().any(|condition| condition.type_ == step) {
                    missing.set_unknown(step, "NotReached", "not tried yet");
                }
            }
            let changed = missing.merge_into(&mut status.conditions, generation, clock::now()).changed;
            sum_up(status, generation) || changed
        })
        .await
        .map(drop)
    }

    /// Writes what was found; a transition is also an event and a log line.
    pub async fn report(&self, found: &ConditionSet) -> Result<(), apiserver::Error> {
        let mut transitions = Vec::new();
        let updated = self.update(|status, generation| {
            let merged = found.merge_into(&mut status.conditions, generation, clock::now());
            transitions = merged.transitions;
            sum_up(status, generation) || merged.changed
        });
        let Some(config) = updated.await? else { return Ok(()) };
        for update in transitions {
            self.announce(&update, config.object_ref(&())).await;
        }
        Ok(())
    }

    async fn announce(&self, update: &ConditionUpdate, about: ObjectReference) {
        let ConditionUpdate { condition, status, reason, message } = update;
        match status {
            ConditionStatus::False => {
                // Whoever tries again logs the error.
                tracing::debug!(condition, reason, detail = message, "a join condition is False");
                event::publish(&self.apiserver, event::Kind::Warning, reason, message, about).await;
            }
            ConditionStatus::True => tracing::info!(condition, reason, detail = message, "a join condition is True"),
            ConditionStatus::Unknown => {}
        }
    }

    /// Writes which cluster this is and until when its certificate is valid.
    pub async fn report_identity(&self, cluster_id: &str, certificate_expires: &str) -> Result<(), apiserver::Error> {
        self.update(|status, _| {
            let mut changed = false;
            for (present, desired) in [
                (&mut status.cluster_id, cluster_id),
                (&mut status.operator_version, env!("CARGO_PKG_VERSION")),
                (&mut status.certificate_expires, certificate_expires),
            ] {
                if present != desired {
                    desired.clone_into(present);
                    changed = true;
                }
            }
            changed
        })
        .await
        .map(drop)
    }

    /// Writes how the broker is reached.
    pub async fn report_transport(&self, transport: &str) -> Result<(), apiserver::Error> {
        self.update(|status, _| {
            let changed = status.transport != transport;
            transport.clone_into(&mut status.transport);
            changed
        })
        .await
        .map(drop)
    }

    async fn update(
        &self,
        mut change: impl FnMut(&mut ClusterConfigStatus, Option<i64>) -> bool,
    ) -> Result<Option<NovaClusterConfig>, apiserver::Error> {
        let updated = status::update(&self.api, NAME, |config| {
            let generation = config.metadata.generation;
            change(config.status.get_or_insert_default(), generation)
        });
        updated.await
    }
}

/// `Ready`, also of a cluster that has not joined: without it `kubectl get nova` would say nothing. True when it changed.
fn sum_up(status: &mut ClusterConfigStatus, generation: Option<i64>) -> bool {
    ready::of_cluster(&status.conditions).merge_into(&mut status.conditions, generation, clock::now()).changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stopped_the_join_is_false_and_later_steps_are_unknown_but_for_the_session_s() {
        let mut found = ConditionSet::new();
        found.set_true(condition::DNS_RESOLVED, "Resolved", "");
        let error = JoinError::new(condition::ENDPOINT_REACHABLE, "NoRoute", "no route");
        set_stopped(&mut found, &error);
        let status = |name| found.get(name).map(|update| update.status);
        assert_eq!(status(condition::DNS_RESOLVED), Some(ConditionStatus::True));
        assert_eq!(status(condition::ENDPOINT_REACHABLE), Some(ConditionStatus::False));
        assert_eq!(status(condition::IDENTITY_ISSUED), Some(ConditionStatus::Unknown));
        assert_eq!(status(condition::BUS_CONNECTED), None);
        set_not_joined(&mut found, &error);
        assert_eq!(found.get(condition::BUS_CONNECTED).map(|update| update.status), Some(ConditionStatus::Unknown));
    }

    #[test]
    fn of_several_endpoints_the_first_that_got_furthest_is_shown() {
        let mut kept = None;
        for (endpoint, condition) in [
            ("a", condition::DNS_RESOLVED),
            ("b", condition::TLS_VERIFIED),
            ("c", condition::TLS_VERIFIED),
            ("d", condition::ENDPOINT_REACHABLE),
        ] {
            keep_furthest(&mut kept, JoinError::new(condition, "Failed", ""), endpoint);
        }
        assert_eq!(kept, Some((JoinError::new(condition::TLS_VERIFIED, "Failed", ""), "b")));
    }

    #[test]
    fn a_clock_beyond_the_tolerance_is_reported() {
        let reason = |offset| {
            let mut found = ConditionSet::new();
            set_clock(&mut found, offset);
            found.get(condition::CLOCK_IN_SYNC).map(|update| update.reason.clone()).unwrap()
        };
        assert_eq!(reason(Some(-30_001)), "ClockSkewed");
        assert_eq!(reason(Some(30_000)), "InSync");
        assert_eq!(reason(None), "NotMeasured");
    }
}
