//! Rollouts and clusters that tests begin with.

use super::{
    OfflinePolicy, Policy, Progress, Rollout, RolloutId,
    target::{Facts, Newest, Target},
};
use crate::{
    cluster::{ClusterId, ClusterState, ComponentChange, ComponentName, Connectivity, component_health::Health},
    command::CommandState,
};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

/// A rollout with a canary, one cluster at a time, no failure allowed, ten minutes for each.
pub(crate) fn rollout(waves: u32) -> Rollout {
    Rollout {
        id: RolloutId(Uuid::from_u128(1)),
        component: ComponentName::Capsule,
        change: Some(ComponentChange { version: Some("0.15.0".to_owned()), ..ComponentChange::default() }),
        rollback_of: None,
        policy: Policy {
            canary: true,
            max_unavailable: 1,
            max_failures: 0,
            pause: SignedDuration::ZERO,
            wait_for_resume: false,
            progress_deadline: SignedDuration::from_mins(10),
            offline: OfflinePolicy::Wait,
        },
        waves,
        progress: Progress::begun(),
        created_at: at(0),
        created_by: "ann".to_owned(),
        ended_at: None,
    }
}

pub(crate) fn target(number: u32, wave: u32) -> Target {
    let id = ClusterId::from_uuid(Uuid::from_u128(number.into()));
    Target::pending(id, format!("dc{number}"), wave)
}

/// A connected cluster that was not changed.
pub(crate) fn facts() -> Facts {
    Facts {
        cluster_state: ClusterState::Enrolled,
        connectivity: Connectivity::Connected,
        last_heartbeat_at: Some(at(0)),
        carries_change: false,
        newest: None,
        observed_revision: 0,
        health: Health::Unknown,
    }
}

/// A connected cluster whose change has revision 7.
pub(crate) fn changed(state: CommandState, health: Health) -> Facts {
    let newest =
        Newest { revision: 7, state, reason: "Reported".to_owned(), message: "the cluster says why".to_owned() };
    Facts { carries_change: true, newest: Some(newest), observed_revision: 7, health, ..facts() }
}
