//! What users ask of a rollout: pause, resume, cancel, roll back.

use super::{
    Policy, Progress, Rollout, RolloutId, RolloutState,
    plan::CLUSTERS_MAX,
    target::{Target, TargetState},
};
use crate::{
    cluster::{ClusterId, Component, ComponentChange},
    refusal::{Reason, Refusal},
};
use jiff::{SignedDuration, Timestamp};

/// No further cluster is changed.
///
/// # Errors
/// With [`Reason::RolloutStateUnfit`] unless it runs.
pub fn pause(rollout: &Rollout, by: &str) -> Result<Progress, Refusal> {
    match rollout.progress.state {
        RolloutState::Running => {
            let message = format!("paused by {by}; resume to go on");
            Ok(rollout.progress.clone().into_state(RolloutState::Paused, "Requested", message))
        }
        _ => Err(unfit(rollout, "only one that runs can be paused")),
    }
}

/// It goes on. After a stop the clusters that have failed are accepted; a wave that is done gives way to the next.
///
/// # Errors
/// With [`Reason::RolloutStateUnfit`] unless it is paused or stopped.
pub fn resume(rollout: &Rollout, targets: &[Target], by: &str) -> Result<Progress, Refusal> {
    let before = rollout.progress.clone();
    let accepted = match before.state {
        RolloutState::Paused => before.accepted_failures,
        RolloutState::Stopped => {
            let failed = targets.iter().filter(|target| target.state == TargetState::Failed).count();
            Some(u32::try_from(failed).unwrap_or(u32::MAX))
        }
        _ => return Err(unfit(rollout, "only one that is paused or stopped can be resumed")),
    };
    let next_wave = before.state == RolloutState::Paused && before.reason == "WaveDone";
    let progress = Progress {
        accepted_failures: accepted,
        wave: before.wave + u32::from(next_wave),
        wave_done_at: before.wave_done_at.filter(|_| !next_wave),
        ..before
    };
    Ok(progress.into_state(RolloutState::Running, "Resumed", format!("resumed by {by}")))
}

/// No further cluster is changed for good; what was changed stays. Clusters that are being changed are followed to their end.
///
/// # Errors
/// With [`Reason::RolloutStateUnfit`] when it has ended.
pub fn cancel(
    rollout: &Rollout,
    targets: &[Target],
    by: &str,
    now: Timestamp,
) -> Result<(Progress, Vec<Target>), Refusal> {
    if rollout.progress.state.has_ended() || rollout.progress.state == RolloutState::Cancelling {
        return Err(unfit(rollout, "it cannot be cancelled any more"));
    }
    let skip = |target: &Target| {
        target.clone().ended(TargetState::Skipped, "RolloutCancelled", "the rollout was cancelled before its turn", now)
    };
    let left = targets.iter().filter(|target| target.state == TargetState::Pending).map(skip).collect();
    let message = format!("cancelled by {by}; clusters that are being changed are followed to their end");
    Ok((rollout.progress.clone().into_state(RolloutState::Cancelling, "Cancelled", message), left))
}

/// A cluster that a rollout changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The cluster as the rollout knows it.
    pub target: Target,
    /// What was wanted there before.
    pub before: Component,
    /// What the rollout changed of it.
    pub change: ComponentChange,
}

/// A cluster of a rollback, with what is changed there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undone {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Its name.
    pub cluster_name: String,
    /// What takes the rollout's change back.
    pub change: ComponentChange,
}

/// What a rollback does: on every cluster that the rollout changed, what it changed is again what it was before.
///
/// # Errors
/// With [`Reason::RolloutStateUnfit`] while the rollout runs, and when it has changed no cluster.
pub fn roll_back(rollout: &Rollout, changed: &[Changed]) -> Result<Vec<Undone>, Refusal> {
    if rollout.progress.state == RolloutState::Running {
        return Err(unfit(rollout, "pause or cancel it first, so that it does not go on meanwhile"));
    }
    let undone = |one: &Changed| Undone {
        cluster_id: one.target.cluster_id.clone(),
        cluster_name: one.target.cluster_name.clone(),
        change: one.change.taken_back(&one.before),
    };
    let left = |one: &&Changed| !matches!(one.target.reason.as_str(), "ClusterPurged" | "ChangedSince");
    let clusters: Vec<Undone> = changed.iter().filter(left).take(CLUSTERS_MAX).map(undone).collect();
    if clusters.is_empty() {
        return Err(unfit(rollout, "it has changed no cluster, so that there is nothing to roll back"));
    }
    Ok(clusters)
}

/// What becomes of the rollout itself when it is rolled back: it ends, and its clusters are the rollback's.
#[must_use]
pub fn rolled_back(rollout: &Rollout, targets: &[Target], by: RolloutId, now: Timestamp) -> (Progress, Vec<Target>) {
    if rollout.progress.state.has_ended() {
        return (rollout.progress.clone(), Vec::new());
    }
    let message = format!("rolled back by rollout {by}");
    let end = |target: &Target| target.clone().ended(TargetState::Skipped, "RolledBack", message.clone(), now);
    let ended = targets.iter().filter(|target| target.state.is_open()).map(end).collect();
    (rollout.progress.clone().into_state(RolloutState::Cancelled, "RolledBack", message.clone()), ended)
}

/// How a rollback goes about it: as the rollout did, without waiting between clusters.
#[must_use]
pub fn policy_of_rollback(policy: &Policy) -> Policy {
    Policy { canary: false, pause: SignedDuration::ZERO, wait_for_resume: false, ..policy.clone() }
}

fn unfit(rollout: &Rollout, why: &str) -> Refusal {
    let state = rollout.progress.state.as_str();
    Refusal::new(Reason::RolloutStateUnfit, format!("the rollout is {state} ({}); {why}", rollout.progress.reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::example::{at, rollout, target};

    fn in_state(state: RolloutState, reason: &str) -> Rollout {
        let rollout = rollout(3);
        Rollout { progress: rollout.progress.clone().into_state(state, reason, ""), ..rollout }
    }

    fn failed(number: u32) -> Target {
        target(number, 0).ended(TargetState::Failed, "X", "", at(1))
    }

    #[test]
    fn each_verb_fits_some_states() {
        use RolloutState as S;
        for state in RolloutState::ALL {
            let rollout = in_state(state, "X");
            assert_eq!(pause(&rollout, "ann").is_ok(), state == S::Running, "{state:?}");
            assert_eq!(resume(&rollout, &[], "ann").is_ok(), matches!(state, S::Paused | S::Stopped), "{state:?}");
            let cancellable = matches!(state, S::Running | S::Paused | S::Stopped);
            assert_eq!(cancel(&rollout, &[], "ann", at(1)).is_ok(), cancellable, "{state:?}");
        }
        let refused = pause(&in_state(RolloutState::Paused, "WaveDone"), "ann").unwrap_err();
        assert_eq!(refused.detail, "the rollout is paused (WaveDone); only one that runs can be paused");
    }

    #[test]
    fn resuming_begins_the_next_wave_where_that_was_waited_for() {
        let resumed = resume(&in_state(RolloutState::Paused, "WaveDone"), &[], "ann").unwrap();
        assert_eq!((resumed.state, resumed.wave, resumed.accepted_failures), (RolloutState::Running, 1, None));
        let resumed = resume(&in_state(RolloutState::Paused, "Requested"), &[failed(1)], "ann").unwrap();
        assert_eq!((resumed.wave, resumed.accepted_failures), (0, None));
        let resumed =
            resume(&in_state(RolloutState::Stopped, "CanaryFailed"), &[failed(1), target(2, 1)], "ann").unwrap();
        assert_eq!((resumed.wave, resumed.accepted_failures), (0, Some(1)));
    }

    #[test]
    fn cancelling_leaves_what_runs_and_what_is_under_way() {
        let updating = Target { state: TargetState::Updating, ..target(2, 0) };
        let targets = [failed(1), updating, target(3, 1)];
        let (progress, left) = cancel(&rollout(2), &targets, "ann", at(9)).unwrap();
        assert_eq!(progress.state, RolloutState::Cancelling);
        let left: Vec<_> = left.iter().map(|target| (target.cluster_name.as_str(), target.state)).collect();
        assert_eq!(left, [("dc3", TargetState::Skipped)]);
    }

    #[test]
    fn a_rollback_takes_back_what_was_changed_where_it_was_changed() {
        let before = Component { enabled: true, version: "0.14.0".to_owned(), replicas: 2, ..Component::default() };
        let change = ComponentChange { version: Some("0.15.0".to_owned()), ..ComponentChange::default() };
        let changed = |number, reason: &str| Changed {
            target: Target { reason: reason.to_owned(), ..failed(number) },
            before: before.clone(),
            change: change.clone(),
        };
        let stopped = in_state(RolloutState::Stopped, "CanaryFailed");
        let undone =
            roll_back(&stopped, &[changed(1, "X"), changed(2, "ClusterPurged"), changed(3, "ChangedSince")]).unwrap();
        let back = ComponentChange { version: Some("0.14.0".to_owned()), ..ComponentChange::default() };
        assert_eq!(undone.iter().map(|one| &one.change).collect::<Vec<_>>(), [&back], "and nothing else of it");
        assert!(roll_back(&in_state(RolloutState::Running, "X"), &[changed(1, "X")]).is_err());
        assert!(roll_back(&stopped, &[]).is_err());
    }

    #[test]
    fn a_rollout_that_is_rolled_back_has_ended() {
        let by = RolloutId(uuid::Uuid::from_u128(9));
        let (progress, ended) =
            rolled_back(&in_state(RolloutState::Stopped, "X"), &[failed(1), target(2, 1)], by, at(9));
        assert_eq!((progress.state, ended.len()), (RolloutState::Cancelled, 1));
        let completed = in_state(RolloutState::Completed, "X");
        assert_eq!(rolled_back(&completed, &[failed(1)], by, at(9)), (completed.progress.clone(), Vec::new()));
    }
}
