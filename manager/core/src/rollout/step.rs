//! The next step of a rollout, from what is stored and what is known of its clusters.

use super::{
    Progress, Rollout, RolloutState,
    target::{Facts, Target, TargetState, names},
};
use jiff::Timestamp;

/// Most clusters that one step begins with: each is locked until the step is committed.
pub const BEGUN_MAX: usize = 20;

/// What a step comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Every cluster as it is now, in the order in which they were given.
    pub targets: Vec<Target>,
    /// Whose turn it is: indexes into `targets`, lowest wave first.
    pub begin: Vec<usize>,
    /// How far the rollout is.
    pub progress: Progress,
}

/// The next step. Clusters are given in the order in which their turn comes.
#[must_use]
pub fn next(rollout: &Rollout, clusters: &[(Target, Facts)], now: Timestamp) -> Step {
    let wave = rollout.progress.wave;
    let assess = |(target, facts): &(Target, Facts)| target.clone().assessed(facts, &rollout.policy, wave, now);
    let targets: Vec<Target> = clusters.iter().map(assess).collect();
    let progress = progress(rollout, &targets, now);
    let begin = if progress.state == RolloutState::Running {
        begin(rollout, &targets, |index| clusters[index].1.is_reachable(), progress.wave)
    } else {
        Vec::new()
    };
    Step { targets, begin, progress }
}

/// Whose turn it is. A cluster that was away belongs to a wave before and comes first.
fn begin(rollout: &Rollout, targets: &[Target], is_reachable: impl Fn(usize) -> bool, wave: u32) -> Vec<usize> {
    let updating = count(targets, TargetState::Updating);
    let most = usize::try_from(rollout.policy.max_unavailable).unwrap_or(usize::MAX);
    let mut waiting: Vec<usize> = (0..targets.len())
        .filter(|&index| {
            let target = &targets[index];
            target.state == TargetState::Pending && target.wave <= wave && is_reachable(index)
        })
        .collect();
    waiting.sort_by_key(|&index| targets[index].wave);
    waiting.truncate(most.saturating_sub(updating).min(BEGUN_MAX));
    waiting
}

fn progress(rollout: &Rollout, targets: &[Target], now: Timestamp) -> Progress {
    let before = rollout.progress.clone();
    match before.state {
        RolloutState::Cancelled | RolloutState::Completed => before,
        RolloutState::Cancelling => cancelling(before, targets),
        RolloutState::Stopped => before,
        RolloutState::Running | RolloutState::Paused => match stopped(rollout, targets) {
            Some((reason, message)) => before.into_state(RolloutState::Stopped, reason, message),
            None if !targets.iter().any(|target| target.state.is_open()) => completed(before, targets),
            None if before.state == RolloutState::Paused => before,
            None => running(rollout, before, targets, now),
        },
    }
}

fn cancelling(before: Progress, targets: &[Target]) -> Progress {
    let updating = count(targets, TargetState::Updating);
    if updating > 0 {
        return before;
    }
    let message = summary(targets, "cancelled; what was changed before stays as it is");
    before.into_state(RolloutState::Cancelled, "Cancelled", message)
}

fn completed(before: Progress, targets: &[Target]) -> Progress {
    let reason = if count(targets, TargetState::Failed) > 0 { "CompletedWithFailures" } else { "Completed" };
    before.into_state(RolloutState::Completed, reason, summary(targets, "every cluster was changed or passed over"))
}

/// Why no further cluster may be changed.
fn stopped(rollout: &Rollout, targets: &[Target]) -> Option<(&'static str, String)> {
    const REMEDY: &str = "see the clusters' messages; then resume (those failures are accepted), roll back or cancel";
    let accepted = rollout.progress.accepted_failures;
    let beyond = |failed: usize| failed.saturating_sub(usize::try_from(accepted.unwrap_or(0)).unwrap_or(usize::MAX));
    let failed = || targets.iter().filter(|target| target.state == TargetState::Failed);
    let of_canary = |target: &&Target| rollout.policy.canary && target.wave == 0;
    if beyond(failed().filter(of_canary).count()) > 0 {
        let message = format!("failed in the canary wave: {}; {REMEDY}", names(failed().filter(of_canary)));
        return Some(("CanaryFailed", message));
    }
    if beyond(failed().count()) > usize::try_from(rollout.policy.max_failures).unwrap_or(usize::MAX) {
        let (many, most) = (failed().count(), rollout.policy.max_failures);
        let message = format!("{many} clusters failed, {most} may: {}; {REMEDY}", names(failed()));
        return Some(("TooManyFailures", message));
    }
    let mut canary = targets.iter().filter(of_canary).peekable();
    let passed_over = canary.peek().is_some() && canary.all(|target| target.state == TargetState::Skipped);
    if passed_over && rollout.waves > 1 && accepted.is_none() {
        let message = "every cluster of the canary wave was passed over; resume to go on without, or cancel";
        return Some(("CanaryMissing", message.to_owned()));
    }
    None
}

/// Whether the next wave may begin: of this one and those before, nothing is under way and what waits is away; and a cluster of this one
/// has succeeded, unless none of it is left to wait for.
fn is_wave_done(targets: &[Target], wave: u32) -> bool {
    let under_way = |target: &Target| target.wave <= wave && target.state.is_open() && !target.is_away();
    let has = |state| targets.iter().any(|target| target.wave == wave && target.state == state);
    !targets.iter().any(under_way) && (has(TargetState::Succeeded) || !has(TargetState::Pending))
}

fn running(rollout: &Rollout, before: Progress, targets: &[Target], now: Timestamp) -> Progress {
    let is_last = before.wave + 1 >= rollout.waves;
    if is_last || !is_wave_done(targets, before.wave) {
        let (reason, message) = under_way(rollout, &before, targets);
        // A cluster that came back is changed during the pause, which goes on meanwhile.
        return before.into_state(RolloutState::Running, reason, message);
    }
    let done_at = before.wave_done_at.unwrap_or(now);
    let number = before.wave + 1;
    let is_healthy = !targets.iter().any(|target| target.unhealthy_since.is_some());
    if now.duration_since(done_at) < rollout.policy.pause || !is_healthy {
        let seconds = rollout.policy.pause.as_secs();
        let message = format!(
            "wave {number} of {} is done; the next begins {seconds} s after that, unless a cluster fails",
            rollout.waves
        );
        let progress = before.into_state(RolloutState::Running, "WavePause", message);
        return Progress { wave_done_at: Some(done_at), ..progress };
    }
    if rollout.policy.wait_for_resume {
        let message = format!("wave {number} of {} is done; resume to begin the next", rollout.waves);
        let progress = before.into_state(RolloutState::Paused, "WaveDone", message);
        return Progress { wave_done_at: Some(done_at), ..progress };
    }
    let next = Progress { wave: before.wave + 1, wave_done_at: None, ..before };
    let (reason, message) = under_way(rollout, &next, targets);
    next.into_state(RolloutState::Running, reason, message)
}

/// What a running rollout is at.
fn under_way(rollout: &Rollout, progress: &Progress, targets: &[Target]) -> (&'static str, String) {
    let (number, waves) = (progress.wave + 1, rollout.waves);
    let updating = count(targets, TargetState::Updating);
    let away: Vec<&Target> = targets.iter().filter(|target| target.is_away()).collect();
    let is_next = |target: &Target| target.state == TargetState::Pending && target.wave <= progress.wave;
    let ready = targets.iter().any(|target| is_next(target) && !target.is_away());
    let waits = match away.len() {
        0 => String::new(),
        _ => format!("; waits for clusters that are not connected: {}", names(away.iter().copied())),
    };
    let reason = if updating == 0 && !ready && !away.is_empty() { "WaitingForClusters" } else { "Progressing" };
    (reason, format!("wave {number} of {waves}, {updating} clusters are being changed{waits}"))
}

fn count(targets: &[Target], state: TargetState) -> usize {
    targets.iter().filter(|target| target.state == state).count()
}

fn summary(targets: &[Target], ended: &str) -> String {
    let of = |state| count(targets, state);
    let (succeeded, failed, skipped) = (of(TargetState::Succeeded), of(TargetState::Failed), of(TargetState::Skipped));
    format!("{ended}: {succeeded} succeeded, {failed} failed, {skipped} skipped")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::{ClusterState, Connectivity, component_health::Health},
        command::CommandState,
        rollout::{
            OfflinePolicy,
            example::{at, changed, facts, rollout, target},
        },
    };
    use jiff::SignedDuration;

    /// A rollout whose clusters do what a test says.
    struct World {
        rollout: Rollout,
        clusters: Vec<(Target, Facts)>,
        now: i64,
    }

    impl World {
        /// With so many clusters in each wave.
        fn new(waves: &[u32]) -> Self {
            let mut clusters = Vec::new();
            for (wave, size) in waves.iter().enumerate() {
                for _ in 0..*size {
                    let number = u32::try_from(clusters.len()).unwrap() + 1;
                    clusters.push((target(number, u32::try_from(wave).unwrap()), facts()));
                }
            }
            Self { rollout: rollout(u32::try_from(waves.len()).unwrap()), clusters, now: 0 }
        }

        /// A step a second later, carried out as the Manager does; the names of the clusters that it begins with.
        fn step(&mut self) -> Vec<String> {
            self.now += 1;
            let step = next(&self.rollout, &self.clusters, at(self.now));
            for (one, target) in self.clusters.iter_mut().zip(step.targets) {
                one.0 = target;
            }
            self.rollout.progress = step.progress;
            for index in &step.begin {
                let (target, facts) = &mut self.clusters[*index];
                target.state = TargetState::Updating;
                (target.revision, target.begun_at) = (Some(7), Some(at(self.now)));
                *facts = changed(CommandState::Queued, Health::Unknown);
            }
            step.begin.iter().map(|index| self.clusters[*index].0.cluster_name.clone()).collect()
        }

        fn healthy(&mut self, index: usize) {
            self.clusters[index].1 = changed(CommandState::Succeeded, Health::Healthy);
        }

        fn failed(&mut self, index: usize) {
            self.clusters[index].1 = changed(CommandState::Failed, Health::Unknown);
        }

        fn offline(&mut self, index: usize) {
            self.clusters[index].1.connectivity = Connectivity::Offline;
        }

        fn is(&self, state: RolloutState, reason: &str) {
            let progress = &self.rollout.progress;
            assert_eq!((progress.state, progress.reason.as_str()), (state, reason), "{progress:?}");
        }
    }

    #[test]
    fn a_healthy_canary_lets_the_next_wave_begin() {
        let mut world = World::new(&[1, 2]);
        assert_eq!(world.step(), ["dc1"]);
        assert_eq!(world.step(), [""; 0], "it has not reported yet");
        world.healthy(0);
        assert_eq!(world.step(), ["dc2"], "one at a time");
        world.healthy(1);
        assert_eq!(world.step(), ["dc3"]);
        world.is(RolloutState::Running, "Progressing");
        world.healthy(2);
        assert_eq!(world.step(), [""; 0]);
        world.is(RolloutState::Completed, "Completed");
        assert!(world.rollout.progress.message.ends_with("3 succeeded, 0 failed, 0 skipped"));
    }

    #[test]
    fn a_failed_canary_stops_the_rollout_whatever_is_allowed_later() {
        let mut world = World::new(&[1, 3]);
        world.rollout.policy.max_failures = 3;
        world.step();
        world.failed(0);
        assert_eq!(world.step(), [""; 0]);
        world.is(RolloutState::Stopped, "CanaryFailed");
        assert!(world.rollout.progress.message.contains("dc1"), "{}", world.rollout.progress.message);
        for _ in 0..5 {
            assert_eq!(world.step(), [""; 0], "stopped until a person decides");
        }
    }

    #[test]
    fn later_waves_stop_beyond_the_failures_that_are_allowed() {
        let mut world = World::new(&[1, 4]);
        (world.rollout.policy.max_failures, world.rollout.policy.max_unavailable) = (1, 4);
        world.step();
        world.healthy(0);
        assert_eq!(world.step().len(), 4);
        world.failed(1);
        world.step();
        world.is(RolloutState::Running, "Progressing");
        world.failed(2);
        world.step();
        world.is(RolloutState::Stopped, "TooManyFailures");
        assert!(world.rollout.progress.message.contains("dc2, dc3"));
        world.healthy(3);
        world.healthy(4);
        world.step();
        let states: Vec<TargetState> = world.clusters.iter().map(|one| one.0.state).collect();
        use TargetState::{Failed, Succeeded};
        assert_eq!(states, [Succeeded, Failed, Failed, Succeeded, Succeeded], "those under way are followed");
    }

    #[test]
    fn a_cluster_that_loses_its_health_in_the_pause_stops_the_rollout() {
        let mut world = World::new(&[1, 1]);
        world.rollout.policy.pause = SignedDuration::from_secs(300);
        world.step();
        world.healthy(0);
        world.step();
        world.is(RolloutState::Running, "WavePause");
        let sick = Health::Unhealthy { reason: "CrashLoop".to_owned(), message: "it crashes".to_owned() };
        world.clusters[0].1 = changed(CommandState::Succeeded, sick);
        for _ in 0..60 {
            assert_eq!(world.step(), [""; 0]);
        }
        world.step();
        world.is(RolloutState::Stopped, "CanaryFailed");
    }

    #[test]
    fn a_pause_lasts_as_long_as_it_was_asked_to() {
        let mut world = World::new(&[1, 1]);
        world.rollout.policy.pause = SignedDuration::from_secs(5);
        world.step();
        world.healthy(0);
        for _ in 0..5 {
            assert_eq!(world.step(), [""; 0]);
            world.is(RolloutState::Running, "WavePause");
        }
        assert_eq!(world.step(), ["dc2"]);
    }

    #[test]
    fn a_wave_that_a_person_lets_begin_waits_for_that() {
        let mut world = World::new(&[1, 1]);
        world.rollout.policy.wait_for_resume = true;
        world.step();
        world.healthy(0);
        world.step();
        world.is(RolloutState::Paused, "WaveDone");
        assert_eq!(world.step(), [""; 0]);
        world.is(RolloutState::Paused, "WaveDone");
    }

    #[test]
    fn an_offline_cluster_delays_no_wave_and_is_changed_when_it_is_back() {
        let mut world = World::new(&[2, 1]);
        world.offline(0);
        assert_eq!(world.step(), ["dc2"]);
        world.healthy(1);
        assert_eq!(world.step(), ["dc3"]);
        world.healthy(2);
        assert_eq!(world.step(), [""; 0]);
        world.is(RolloutState::Running, "WaitingForClusters");
        assert!(world.rollout.progress.message.ends_with("not connected: dc1"), "{}", world.rollout.progress.message);
        world.clusters[0].1 = facts();
        assert_eq!(world.step(), ["dc1"]);
        world.healthy(0);
        world.step();
        world.is(RolloutState::Completed, "Completed");
    }

    #[test]
    fn no_wave_begins_on_the_word_of_clusters_that_are_all_away() {
        let mut world = World::new(&[2, 1]);
        world.offline(0);
        world.clusters[1].1.cluster_state = ClusterState::Purged;
        for _ in 0..3 {
            assert_eq!(world.step(), [""; 0]);
            world.is(RolloutState::Running, "WaitingForClusters");
        }
        assert_eq!(world.rollout.progress.wave, 0);
    }

    #[test]
    fn offline_clusters_are_left_out_where_the_request_says_so() {
        let mut world = World::new(&[1, 2]);
        world.rollout.policy.offline = OfflinePolicy::Skip;
        world.offline(1);
        world.step();
        world.healthy(0);
        assert_eq!(world.step(), ["dc3"], "dc2 is known to be away once its wave begins");
        world.healthy(2);
        world.step();
        world.is(RolloutState::Completed, "Completed");
        assert_eq!(world.clusters[1].0.state, TargetState::Skipped);
    }

    #[test]
    fn a_canary_that_was_purged_proves_nothing() {
        let mut world = World::new(&[1, 1]);
        world.clusters[0].1.cluster_state = ClusterState::Purged;
        world.step();
        world.is(RolloutState::Stopped, "CanaryMissing");
        world.rollout.progress.accepted_failures = Some(0);
        world.rollout.progress.state = RolloutState::Running;
        assert_eq!(world.step(), ["dc2"], "a person said to go on");
    }

    #[test]
    fn a_purged_cluster_of_a_later_wave_is_passed_over() {
        let mut world = World::new(&[1, 2]);
        world.rollout.policy.max_unavailable = 2;
        world.step();
        world.healthy(0);
        world.step();
        world.clusters[1].1.cluster_state = ClusterState::Purged;
        world.healthy(2);
        world.step();
        world.is(RolloutState::Completed, "Completed");
        assert!(world.rollout.progress.message.ends_with("2 succeeded, 0 failed, 1 skipped"));
    }

    #[test]
    fn failures_that_a_person_accepted_do_not_stop_it_again() {
        let mut world = World::new(&[1, 2]);
        world.step();
        world.failed(0);
        world.step();
        world.is(RolloutState::Stopped, "CanaryFailed");
        (world.rollout.progress.state, world.rollout.progress.accepted_failures) = (RolloutState::Running, Some(1));
        assert_eq!(world.step(), ["dc2"]);
        world.failed(1);
        world.step();
        world.is(RolloutState::Stopped, "TooManyFailures");
    }

    #[test]
    fn a_cancelled_rollout_ends_when_nothing_is_under_way() {
        let mut world = World::new(&[1, 1]);
        world.step();
        let progress = world.rollout.progress.clone();
        world.rollout.progress = progress.into_state(RolloutState::Cancelling, "Cancelled", "by ann");
        world.clusters[1].0.state = TargetState::Skipped;
        assert_eq!(world.step(), [""; 0]);
        world.is(RolloutState::Cancelling, "Cancelled");
        world.healthy(0);
        world.step();
        world.is(RolloutState::Cancelled, "Cancelled");
        assert!(world.rollout.progress.state.has_ended());
    }

    #[test]
    fn a_step_begins_with_a_bounded_number_of_clusters() {
        let mut world = World::new(&[50]);
        world.rollout.policy.max_unavailable = 45;
        assert_eq!((world.step().len(), world.step().len(), world.step().len()), (20, 20, 5));
    }
}
