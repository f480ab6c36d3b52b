//! The join as people read it: conditions in `NovaClusterConfig/default`, in order, the first False one naming the fix;
//! the same as an event and as one log line.

use crate::apiserver::{self, client::Apiserver, event, status, verbs};
use kube::{Api, Resource as _};
use kubenova_crds::{
    cluster_config::{ClusterConfigSpec, NAME, NovaClusterConfig, condition},
    conditions::{self, ConditionStatus},
};
use kubenova_runtime::clock;

/// The conditions this part of the Operator owns, in order.
const STEPS: [&str; 7] = [
    condition::DNS_RESOLVED,
    condition::ENDPOINT_REACHABLE,
    condition::TLS_VERIFIED,
    condition::CLOCK_IN_SYNC,
    condition::TOKEN_ACCEPTED,
    condition::IDENTITY_ISSUED,
    condition::BUS_CONNECTED,
];

/// What stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinError {
    /// The condition that is False.
    pub condition: &'static str,
    /// Its reason.
    pub reason: String,
    /// A sentence with the remedy.
    pub message: String,
}

impl JoinError {
    /// A fault.
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

/// One line of the conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ConditionUpdate {
    condition: &'static str,
    truth: ConditionStatus,
    reason: String,
    message: String,
}

/// What one attempt found, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConditionSet {
    lines: Vec<ConditionUpdate>,
}

impl ConditionSet {
    /// A step that went well.
    pub fn passed(&mut self, condition: &'static str, reason: &str, message: impl Into<String>) {
        self.put(condition, ConditionStatus::True, reason, message.into());
    }

    /// A step that did not hold but does not stop the join.
    pub fn warned(&mut self, condition: &'static str, reason: &str, message: impl Into<String>) {
        self.put(condition, ConditionStatus::False, reason, message.into());
    }

    /// The step that stopped the join; later ones become unknown.
    pub fn stopped(&mut self, fault: &JoinError) {
        self.put(fault.condition, ConditionStatus::False, &fault.reason, fault.message.clone());
        for later in STEPS.iter().skip(fault.step() + 1).filter(|step| **step != condition::BUS_CONNECTED) {
            self.put(later, ConditionStatus::Unknown, "NotReached", format!("waits for {}", fault.condition));
        }
    }

    fn put(&mut self, condition: &'static str, truth: ConditionStatus, reason: &str, message: String) {
        self.lines.retain(|line| line.condition != condition);
        self.lines.push(ConditionUpdate { condition, truth, reason: reason.to_owned(), message });
    }
}

/// The object that carries the conditions.
#[derive(Debug, Clone)]
pub struct StatusReporter {
    apiserver: Apiserver,
    api: Api<NovaClusterConfig>,
}

impl StatusReporter {
    /// For this cluster.
    #[must_use]
    pub fn new(apiserver: &Apiserver) -> Self {
        Self { apiserver: apiserver.clone(), api: Api::all(apiserver.client()) }
    }

    /// Makes the object when it is not there, with every condition unknown.
    ///
    /// # Errors
    /// When the call fails: not found means that the CRD is missing.
    pub async fn open(&self) -> Result<(), apiserver::Error> {
        let empty = NovaClusterConfig::new(NAME, ClusterConfigSpec::default());
        verbs::create_if_absent(&self.api, &empty).await?;
        self.change(|_, conditions, generation| {
            let mut changed = false;
            for step in STEPS {
                if !conditions.iter().any(|condition| condition.type_ == step) {
                    changed |= conditions::set(
                        conditions,
                        step,
                        ConditionStatus::Unknown,
                        "NotReached",
                        "not tried yet",
                        generation,
                        clock::now(),
                    );
                }
            }
            changed
        })
        .await
    }

    /// Writes what an attempt found; an event and a log line for what stopped it, when that is new.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn tell(&self, found: &ConditionSet) -> Result<(), apiserver::Error> {
        let mut news: Vec<ConditionUpdate> = Vec::new();
        self.change(|_, conditions, generation| {
            news.clear();
            let mut changed = false;
            for line in &found.lines {
                let before = conditions
                    .iter()
                    .find(|condition| condition.type_ == line.condition)
                    .map(|condition| (condition.status.clone(), condition.reason.clone()));
                changed |= conditions::set(
                    conditions,
                    line.condition,
                    line.truth,
                    &line.reason,
                    &line.message,
                    generation,
                    clock::now(),
                );
                if before != Some((line.truth.as_str().to_owned(), line.reason.clone())) {
                    news.push(line.clone());
                }
            }
            changed
        })
        .await?;
        for line in news {
            match line.truth {
                ConditionStatus::False => {
                    tracing::warn!(
                        condition = line.condition,
                        reason = line.reason,
                        message = line.message,
                        "the join is held up"
                    );
                    self.event(event::Kind::Warning, &line.reason, &line.message).await;
                }
                ConditionStatus::True => {
                    tracing::info!(condition = line.condition, reason = line.reason, "the join went on")
                }
                ConditionStatus::Unknown => {}
            }
        }
        Ok(())
    }

    /// An event on the object.
    pub async fn event(&self, kind: event::Kind, reason: &str, message: &str) {
        let about = NovaClusterConfig::new(NAME, ClusterConfigSpec::default()).object_ref(&());
        event::publish(&self.apiserver, kind, reason, message, about).await;
    }

    /// Writes facts about this Operator.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn facts(&self, cluster_id: &str, certificate_expires: &str) -> Result<(), apiserver::Error> {
        self.change(|status, _, _| {
            let wanted = [
                (&mut status.cluster_id, cluster_id),
                (&mut status.operator_version, env!("CARGO_PKG_VERSION")),
                (&mut status.certificate_expires, certificate_expires),
            ];
            let mut changed = false;
            for (present, wanted) in wanted {
                if present != wanted {
                    wanted.clone_into(present);
                    changed = true;
                }
            }
            changed
        })
        .await
    }

    async fn change(
        &self,
        mut change: impl FnMut(
            &mut kubenova_crds::cluster_config::ClusterConfigStatus,
            &mut Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>,
            Option<i64>,
        ) -> bool,
    ) -> Result<(), apiserver::Error> {
        status::update(&self.api, NAME, |config| {
            let generation = config.metadata.generation;
            let status = config.status.get_or_insert_default();
            let mut conditions = std::mem::take(&mut status.conditions);
            let changed = change(status, &mut conditions, generation);
            status.conditions = conditions;
            changed
        })
        .await
        .map(|_| ())
    }
}
