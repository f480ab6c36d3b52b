//! One cluster of a rollout: what is known of it, and how far its change is.

use super::{OfflinePolicy, Policy};
use crate::{
    cluster::{
        ClusterId, ClusterState, Component, ComponentChange, ComponentName, Connectivity, component_health::Health,
    },
    command::CommandState,
    pointer::Pointer,
};
use jiff::{SignedDuration, Timestamp};

/// A cluster that was healthy has failed when it is not for this long: a controller that is rescheduled is back within it.
pub const HEALTH_LOST_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// Where a cluster is in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetState {
    /// Its turn has not come, or it is not connected.
    Pending,
    /// What is wanted was changed, and the cluster has not reported that the component is healthy.
    Updating,
    /// The component is healthy there, with the change.
    Succeeded,
    /// It did not become healthy, or refused the change.
    Failed,
    /// It is left out, or is not followed any more.
    Skipped,
}

impl TargetState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Updating, Self::Succeeded, Self::Failed, Self::Skipped];

    /// The text in the database and in REST.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Updating => "updating",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    /// The state with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// True while something is still to be done or to be waited for.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Updating)
    }
}

/// One cluster of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Its name.
    pub cluster_name: String,
    /// The wave it belongs to, from 0.
    pub wave: u32,
    /// How far it is.
    pub state: TargetState,
    /// Why: one CamelCase word; empty where the state says it all.
    pub reason: String,
    /// Why, for a person.
    pub message: String,
    /// Revision of the command that carries the change, once it is written.
    pub revision: Option<i64>,
    /// When the change was written.
    pub begun_at: Option<Timestamp>,
    /// When it was healthy, had failed, or was left out.
    pub ended_at: Option<Timestamp>,
    /// Since when the component is not healthy any more.
    pub unhealthy_since: Option<Timestamp>,
}

/// The newest command with the configuration of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// Its revision.
    pub revision: i64,
    /// Its state.
    pub state: CommandState,
    /// Why it is in this state.
    pub reason: String,
    /// The same as a sentence.
    pub message: String,
}

/// What is known of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whether it is trusted.
    pub cluster_state: ClusterState,
    /// Whether it is connected.
    pub connectivity: Connectivity,
    /// Its last heartbeat; none before the first.
    pub last_heartbeat_at: Option<Timestamp>,
    /// Whether what is wanted of the component there is what the rollout wants.
    pub carries_change: bool,
    /// The newest command with its configuration.
    pub newest: Option<Newest>,
    /// The revision that its report of the configuration is about.
    pub observed_revision: i64,
    /// The component's health at that revision.
    pub health: Health,
}

impl Facts {
    /// Why the cluster cannot take part any more.
    fn gone(&self) -> Option<(&'static str, &'static str)> {
        match self.cluster_state {
            ClusterState::Purged => Some(("ClusterPurged", "the cluster was purged")),
            ClusterState::Detached => Some(("ClusterDetached", "the cluster was detached")),
            ClusterState::Revoking | ClusterState::Revoked => {
                Some(("ClusterRevoked", "the credentials of the cluster were revoked"))
            }
            ClusterState::PendingBootstrap | ClusterState::Enrolled | ClusterState::Quarantined => None,
        }
    }

    /// Why the cluster cannot be changed now; none when it can, or when that is not certain yet.
    fn away(&self) -> Option<(&'static str, String)> {
        if self.cluster_state == ClusterState::Quarantined {
            let message = "the cluster is quarantined: nothing is sent to it until it is released";
            return Some(("ClusterQuarantined", message.to_owned()));
        }
        match (self.last_heartbeat_at, self.connectivity) {
            (None, _) => Some(("ClusterNotJoined", "the cluster has not connected yet".to_owned())),
            (Some(last), Connectivity::Offline) => {
                Some(("ClusterOffline", format!("the cluster has sent no heartbeat since {last:.0}")))
            }
            _ => None,
        }
    }

    /// Whether it can be changed now. One whose heartbeats are only late is waited for.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.cluster_state.takes_changes()
            && self.cluster_state != ClusterState::Quarantined
            && self.connectivity == Connectivity::Connected
    }

    /// The component's health, where it is reported of this revision or a later one.
    fn health_at(&self, revision: i64) -> &Health {
        if self.observed_revision >= revision { &self.health } else { &Health::Unknown }
    }
}

impl Target {
    /// A cluster whose turn has not come.
    #[must_use]
    pub const fn pending(cluster_id: ClusterId, cluster_name: String, wave: u32) -> Self {
        Self {
            cluster_id,
            cluster_name,
            wave,
            state: TargetState::Pending,
            reason: String::new(),
            message: String::new(),
            revision: None,
            begun_at: None,
            ended_at: None,
            unhealthy_since: None,
        }
    }

    /// The same cluster as it is now.
    #[must_use]
    pub fn assessed(self, facts: &Facts, policy: &Policy, wave: u32, now: Timestamp) -> Self {
        match self.state {
            TargetState::Pending => self.waiting(facts, policy, wave, now),
            TargetState::Updating => self.updating(facts, policy, now),
            TargetState::Succeeded => self.followed(facts, now),
            TargetState::Failed => self.recovered(facts, now),
            TargetState::Skipped => self,
        }
    }

    /// True when it waits only because the cluster is not there.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.state == TargetState::Pending && !self.reason.is_empty()
    }

    /// The same cluster, now that its change was written by the command of this revision.
    #[must_use]
    pub fn begun(self, revision: i64, now: Timestamp) -> Self {
        let (reason, message) = (String::new(), String::new());
        Self { state: TargetState::Updating, revision: Some(revision), begun_at: Some(now), reason, message, ..self }
    }

    /// Ends it.
    #[must_use]
    pub fn ended(self, state: TargetState, reason: &str, message: impl Into<String>, now: Timestamp) -> Self {
        let (reason, message) = (reason.to_owned(), message.into());
        Self { state, reason, message, ended_at: Some(now), unhealthy_since: None, ..self }
    }

    fn skipped(self, reason: &str, message: impl Into<String>, now: Timestamp) -> Self {
        self.ended(TargetState::Skipped, reason, message, now)
    }

    fn failed(self, reason: &str, message: impl Into<String>, now: Timestamp) -> Self {
        self.ended(TargetState::Failed, reason, message, now)
    }

    fn waiting(self, facts: &Facts, policy: &Policy, wave: u32, now: Timestamp) -> Self {
        if let Some((reason, message)) = facts.gone() {
            return self.skipped(reason, message, now);
        }
        match facts.away().filter(|_| self.wave <= wave) {
            Some((reason, message)) if policy.offline == OfflinePolicy::Skip => self.skipped(reason, message, now),
            Some((reason, message)) => Self { reason: reason.to_owned(), message, ..self },
            None => Self { reason: String::new(), message: String::new(), ..self },
        }
    }

    fn updating(self, facts: &Facts, policy: &Policy, now: Timestamp) -> Self {
        if let Some((reason, message)) = facts.gone() {
            return self.skipped(reason, format!("{message} after its change was written"), now);
        }
        if !facts.carries_change {
            let message = "the component was changed otherwise since: what is wanted there now is not the rollout's";
            return self.skipped("ChangedSince", message, now);
        }
        let revision = self.revision.unwrap_or_default();
        let health = facts.health_at(revision);
        if *health == Health::Healthy {
            return self.ended(TargetState::Succeeded, "", "", now);
        }
        if let Some(newest) = facts.newest.as_ref().filter(|newest| ended_badly(newest.state)) {
            let message =
                format!("command of revision {} {}: {}", newest.revision, newest.state.as_str(), newest.message);
            return self.failed(&newest.reason, message, now);
        }
        let overdue = self.begun_at.is_some_and(|begun| now.duration_since(begun) > policy.progress_deadline);
        let (reason, message) = not_healthy(facts, health);
        if overdue {
            let deadline = policy.progress_deadline.as_secs();
            return self.failed("ProgressDeadlineExceeded", format!("not healthy within {deadline} s: {message}"), now);
        }
        Self { reason, message, ..self }
    }

    fn followed(self, facts: &Facts, now: Timestamp) -> Self {
        let of_this_change = facts.carries_change && facts.gone().is_none();
        match facts.health_at(self.revision.unwrap_or_default()) {
            Health::Unhealthy { reason, message } if of_this_change => {
                let since = self.unhealthy_since.unwrap_or(now);
                if now.duration_since(since) >= HEALTH_LOST_AFTER {
                    let message = format!("healthy after the change, and not any more ({reason}): {message}");
                    return self.failed("HealthLost", message, now);
                }
                Self { unhealthy_since: Some(since), ..self }
            }
            Health::Healthy | Health::Unhealthy { .. } => Self { unhealthy_since: None, ..self },
            Health::Unknown => self,
        }
    }

    fn recovered(self, facts: &Facts, now: Timestamp) -> Self {
        let is_healthy = *facts.health_at(self.revision.unwrap_or_default()) == Health::Healthy;
        if is_healthy && facts.carries_change && facts.gone().is_none() {
            let was = self.reason.clone();
            return self.ended(
                TargetState::Succeeded,
                "Recovered",
                format!("healthy now; it had failed before ({was})"),
                now,
            );
        }
        self
    }
}

/// Most names that a message lists.
const NAMES_MAX: usize = 10;

/// Names of clusters for a sentence.
pub(super) fn names<'a>(targets: impl Iterator<Item = &'a Target>) -> String {
    let all: Vec<&str> = targets.map(|target| target.cluster_name.as_str()).collect();
    let shown = all[..all.len().min(NAMES_MAX)].join(", ");
    match all.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

const fn ended_badly(state: CommandState) -> bool {
    matches!(state, CommandState::Failed | CommandState::Refused | CommandState::Cancelled | CommandState::Expired)
}

/// What a cluster that is being changed waits for.
fn not_healthy(facts: &Facts, health: &Health) -> (String, String) {
    if let Some((reason, message)) = facts.away() {
        return (reason.to_owned(), message);
    }
    match (health, &facts.newest) {
        (Health::Unhealthy { reason, message }, _) => (reason.clone(), message.clone()),
        (_, Some(newest)) => {
            ("Reporting".to_owned(), format!("command of revision {} is {}", newest.revision, newest.state.as_str()))
        }
        (_, None) => ("Reporting".to_owned(), "the cluster has not reported about the change".to_owned()),
    }
}

/// What becomes of a cluster when its turn comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It is left out.
    Skip {
        /// One CamelCase word.
        reason: &'static str,
        /// The same as a sentence.
        message: String,
    },
    /// This is wanted already, and a command with it is under way or has been carried out: its health decides.
    Follow,
    /// This is to be written.
    Write(Component),
}

/// What becomes of a cluster when its turn comes: `component` is what is wanted there now.
#[must_use]
pub fn turn(
    name: ComponentName,
    component: &Component,
    change: &ComponentChange,
    newest: Option<CommandState>,
) -> Turn {
    let changed = change.applied_to(component);
    // Good when the rollout began; what is wanted beside the change may be another since.
    if let Err(refusal) = changed.check(name, "").and_then(|()| changed.check_settings(name, &Pointer::default())) {
        return Turn::Skip { reason: "ChangeInvalid", message: refusal.detail };
    }
    if !changed.enabled && !component.enabled {
        let message = "the component is off there: switch it on to have it changed".to_owned();
        return Turn::Skip { reason: "ComponentDisabled", message };
    }
    if changed.paused {
        let message = "the component is paused there: take the pause back to have it changed".to_owned();
        return Turn::Skip { reason: "ComponentPaused", message };
    }
    let is_ordered = newest.is_some_and(|state| !ended_badly(state));
    if changed == *component && is_ordered { Turn::Follow } else { Turn::Write(changed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::example::{at, changed, facts, rollout, target};

    fn updating() -> Target {
        Target { state: TargetState::Updating, revision: Some(7), begun_at: Some(at(0)), ..target(1, 0) }
    }

    fn unhealthy() -> Health {
        Health::Unhealthy { reason: "ImagePull".to_owned(), message: "the image is not there".to_owned() }
    }

    fn assessed(target: Target, facts: &Facts, second: i64) -> (TargetState, String) {
        let target = target.assessed(facts, &rollout(1).policy, 0, at(second));
        assert_eq!(target.ended_at.is_some(), !target.state.is_open(), "{target:?}");
        (target.state, target.reason)
    }

    fn is(state: TargetState, reason: &str) -> (TargetState, String) {
        (state, reason.to_owned())
    }

    #[test]
    fn a_change_has_succeeded_when_the_component_is_healthy_at_its_revision() {
        let healthy = changed(CommandState::Running, Health::Healthy);
        assert_eq!(assessed(updating(), &healthy, 1), is(TargetState::Succeeded, ""));
        let before = Facts { observed_revision: 6, ..healthy };
        assert_eq!(
            assessed(updating(), &before, 1),
            is(TargetState::Updating, "Reporting"),
            "healthy as it was before"
        );
        let coming = changed(CommandState::Running, unhealthy());
        assert_eq!(assessed(updating(), &coming, 1), is(TargetState::Updating, "ImagePull"));
    }

    #[test]
    fn a_change_has_failed_when_its_command_did_or_its_time_is_over() {
        for state in CommandState::ALL {
            let (found, reason) = assessed(updating(), &changed(state, unhealthy()), 1);
            let expected = if ended_badly(state) {
                (TargetState::Failed, "Reported")
            } else {
                (TargetState::Updating, "ImagePull")
            };
            assert_eq!((found, reason.as_str()), expected, "{state:?}");
        }
        let slow = changed(CommandState::Running, unhealthy());
        assert_eq!(assessed(updating(), &slow, 600), is(TargetState::Updating, "ImagePull"));
        assert_eq!(assessed(updating(), &slow, 601), is(TargetState::Failed, "ProgressDeadlineExceeded"));
        let silent = Facts { connectivity: Connectivity::Offline, ..slow };
        assert_eq!(assessed(updating(), &silent, 600), is(TargetState::Updating, "ClusterOffline"));
        assert_eq!(assessed(updating(), &silent, 601), is(TargetState::Failed, "ProgressDeadlineExceeded"));
    }

    #[test]
    fn whoever_changes_the_component_meanwhile_has_the_last_word() {
        let other = Facts { carries_change: false, ..changed(CommandState::Failed, unhealthy()) };
        assert_eq!(assessed(updating(), &other, 1), is(TargetState::Skipped, "ChangedSince"));
    }

    #[test]
    fn a_cluster_that_is_gone_is_left_out_and_is_no_failure() {
        for (state, reason) in [
            (ClusterState::Purged, "ClusterPurged"),
            (ClusterState::Detached, "ClusterDetached"),
            (ClusterState::Revoking, "ClusterRevoked"),
            (ClusterState::Revoked, "ClusterRevoked"),
        ] {
            let gone = Facts { cluster_state: state, ..changed(CommandState::Failed, unhealthy()) };
            assert_eq!(assessed(target(1, 5), &gone, 1), is(TargetState::Skipped, reason), "before its turn");
            assert_eq!(assessed(updating(), &gone, 1), is(TargetState::Skipped, reason));
            let succeeded = updating().ended(TargetState::Succeeded, "", "", at(0));
            assert_eq!(assessed(succeeded, &gone, 999), is(TargetState::Succeeded, ""));
        }
    }

    #[test]
    fn a_cluster_that_is_not_connected_when_its_turn_comes_waits_or_is_left_out() {
        let cases = [
            (Facts { connectivity: Connectivity::Offline, ..facts() }, "ClusterOffline"),
            (Facts { last_heartbeat_at: None, connectivity: Connectivity::Unknown, ..facts() }, "ClusterNotJoined"),
            (Facts { cluster_state: ClusterState::Quarantined, ..facts() }, "ClusterQuarantined"),
        ];
        let skip = Policy { offline: OfflinePolicy::Skip, ..rollout(1).policy };
        for (away, reason) in cases {
            assert_eq!(assessed(target(1, 0), &away, 1), is(TargetState::Pending, reason));
            assert_eq!(assessed(target(1, 1), &away, 1), is(TargetState::Pending, ""), "its turn has not come");
            let left_out = target(1, 0).assessed(&away, &skip, 0, at(1));
            assert_eq!((left_out.state, left_out.reason.as_str()), (TargetState::Skipped, reason));
            assert!(!away.is_reachable());
            let back = target(1, 0).assessed(&away, &rollout(1).policy, 0, at(1));
            assert!(back.is_away());
            assert!(!back.assessed(&facts(), &rollout(1).policy, 0, at(2)).is_away());
        }
        let late = Facts { connectivity: Connectivity::Stale, ..facts() };
        assert_eq!(target(1, 0).assessed(&late, &skip, 0, at(1)).state, TargetState::Pending, "not known to be away");
        assert!(!late.is_reachable() && facts().is_reachable());
    }

    #[test]
    fn health_that_is_lost_for_a_minute_is_a_failure_and_may_come_back() {
        let policy = rollout(1).policy;
        let succeeded = updating().ended(TargetState::Succeeded, "", "", at(10));
        let (sick, well) =
            (changed(CommandState::Succeeded, unhealthy()), changed(CommandState::Succeeded, Health::Healthy));
        let at_20 = succeeded.assessed(&sick, &policy, 0, at(20));
        assert_eq!(at_20.unhealthy_since, Some(at(20)));
        assert_eq!(at_20.clone().assessed(&well, &policy, 0, at(50)).unhealthy_since, None);
        assert_eq!(at_20.clone().assessed(&sick, &policy, 0, at(79)).state, TargetState::Succeeded);
        let failed = at_20.assessed(&sick, &policy, 0, at(80));
        assert_eq!((failed.state, failed.reason.as_str()), (TargetState::Failed, "HealthLost"));
        let back = failed.assessed(&well, &policy, 0, at(90));
        assert_eq!((back.state, back.reason.as_str()), (TargetState::Succeeded, "Recovered"));
    }

    const NAME: ComponentName = ComponentName::CapsuleProxy;

    #[test]
    fn a_turn_writes_only_what_is_not_under_way() {
        let on = Component { enabled: true, version: "0.14.0".to_owned(), ..Component::default() };
        let change = ComponentChange { version: Some("0.15.0".to_owned()), ..ComponentChange::default() };
        let done = change.applied_to(&on);
        assert_eq!(turn(NAME, &on, &change, Some(CommandState::Succeeded)), Turn::Write(done.clone()));
        assert_eq!(turn(NAME, &done, &change, Some(CommandState::Sent)), Turn::Follow);
        assert_eq!(turn(NAME, &done, &change, Some(CommandState::Failed)), Turn::Write(done.clone()), "once more");
        assert_eq!(turn(NAME, &done, &change, None), Turn::Write(done));
        let off = Component { enabled: false, ..on.clone() };
        assert!(matches!(turn(NAME, &off, &change, None), Turn::Skip { reason: "ComponentDisabled", .. }));
        let paused = Component { paused: true, ..on.clone() };
        assert!(matches!(turn(NAME, &paused, &change, None), Turn::Skip { reason: "ComponentPaused", .. }));
        let ingress = ComponentChange {
            settings: [("endpoint".to_owned(), Some(r#"{"ingress":{}}"#.to_owned()))].into(),
            ..ComponentChange::default()
        };
        assert!(matches!(turn(NAME, &on, &ingress, None), Turn::Skip { reason: "ChangeInvalid", .. }));
        let switch_on = ComponentChange { enabled: Some(true), ..change };
        assert!(matches!(turn(NAME, &off, &switch_on, None), Turn::Write(_)));
    }

    #[test]
    fn a_message_lists_the_first_names() {
        let targets: Vec<Target> = (1..=12).map(|number| target(number, 0)).collect();
        assert_eq!(names(targets[..2].iter()), "dc1, dc2");
        assert!(names(targets.iter()).ends_with("dc9, dc10 and 2 more"));
    }
}
