//! Rollouts: one change of a component, brought to many clusters in waves and stopped when clusters do not become healthy.
//!
//! What is wanted of each cluster is written by the Manager's task as a request would write it; here is decided to which clusters, and
//! when. `plan.rs` puts clusters into waves, `target.rs` assesses one cluster, `step.rs` the rollout as a whole, `verbs.rs` what users
//! ask of it. No step depends on the one before but for what is stored, so that any Manager may take the next one.

#[cfg(test)]
mod example;
pub mod plan;
pub mod step;
pub mod target;
pub mod verbs;

use crate::cluster::{ComponentChange, ComponentName};
use jiff::{SignedDuration, Timestamp};
use std::fmt;
use uuid::Uuid;

/// A rollout's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RolloutId(pub Uuid);

impl RolloutId {
    /// Reads an id.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }
}

impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A rollout, without its clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// Its id.
    pub id: RolloutId,
    /// The component that it changes.
    pub component: ComponentName,
    /// What it changes of it; none in a rollback, where it differs from cluster to cluster.
    pub change: Option<ComponentChange>,
    /// The rollout whose change it takes back.
    pub rollback_of: Option<RolloutId>,
    /// How it goes about it.
    pub policy: Policy,
    /// How many waves it has.
    pub waves: u32,
    /// How far it is.
    pub progress: Progress,
    /// When it was created.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// How a rollout goes about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whether the first wave is a canary: one failure there stops the rollout, whatever `max_failures` says.
    pub canary: bool,
    /// Most clusters that are changed and not yet healthy at once.
    pub max_unavailable: u32,
    /// The rollout stops when more clusters than this have failed.
    pub max_failures: u32,
    /// How long the clusters of a wave must stay healthy before the next one begins.
    pub pause: SignedDuration,
    /// Whether a person lets each next wave begin.
    pub wait_for_resume: bool,
    /// A cluster that is not healthy this long after its change was written has failed.
    pub progress_deadline: SignedDuration,
    /// What happens to a cluster that is not connected when its turn comes.
    pub offline: OfflinePolicy,
}

/// What happens to a cluster that is not connected when its turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OfflinePolicy {
    /// Its wave goes on without it, and it is changed when it is back; the rollout does not end before.
    Wait,
    /// It is left out.
    Skip,
}

impl OfflinePolicy {
    /// Every value.
    pub const ALL: [Self; 2] = [Self::Wait, Self::Skip];

    /// The text in the database and in REST.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Skip => "skip",
        }
    }

    /// The value with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.as_str() == text)
    }
}

/// Where a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RolloutState {
    /// Clusters are changed as their turn comes.
    Running,
    /// No further cluster is changed until a person resumes it.
    Paused,
    /// Too many clusters failed: no further cluster is changed until a person decides.
    Stopped,
    /// It was cancelled; clusters that were changed before are still followed.
    Cancelling,
    /// It was cancelled.
    Cancelled,
    /// Every cluster was changed, or passed over.
    Completed,
}

impl RolloutState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Running, Self::Paused, Self::Stopped, Self::Cancelling, Self::Cancelled, Self::Completed];

    /// The text in the database and in REST.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Completed => "completed",
        }
    }

    /// The state with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// True when nothing changes any more.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Cancelled | Self::Completed)
    }
}

/// How far a rollout is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Its state.
    pub state: RolloutState,
    /// Why it is in this state: one CamelCase word.
    pub reason: String,
    /// Why, and what can be done, for a person.
    pub message: String,
    /// The wave whose turn it is, from 0. Clusters of earlier waves that come back are changed as well.
    pub wave: u32,
    /// Since when every cluster of this wave that can be changed is healthy.
    pub wave_done_at: Option<Timestamp>,
    /// How many clusters had failed when a person resumed the rollout after it had stopped: those are accepted.
    pub accepted_failures: Option<u32>,
}

impl Progress {
    /// A rollout that has not begun.
    #[must_use]
    pub fn begun() -> Self {
        Self {
            state: RolloutState::Running,
            reason: "Created".to_owned(),
            message: "the first wave begins within seconds".to_owned(),
            wave: 0,
            wave_done_at: None,
            accepted_failures: None,
        }
    }

    /// The same progress in another state.
    #[must_use]
    pub fn into_state(self, state: RolloutState, reason: &str, message: impl Into<String>) -> Self {
        Self { state, reason: reason.to_owned(), message: message.into(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_back() {
        for state in RolloutState::ALL {
            assert_eq!(RolloutState::parse(state.as_str()), Some(state));
        }
        for policy in OfflinePolicy::ALL {
            assert_eq!(OfflinePolicy::parse(policy.as_str()), Some(policy));
        }
        assert_eq!((RolloutState::parse("done"), OfflinePolicy::parse("")), (None, None));
    }
}
