//! The progress deadline: a command that is not Ready in time has failed.
//!
//! The time counts only from when the cluster could carry the command out: what was ordered before Capsule and KubeVela are
//! installed waits for them, however long that takes. Nor does it count while the command waits for a person or for work that takes its
//! time.

use crate::outcome::{CommandProgress, State};
use jiff::{SignedDuration, Timestamp};
use kubenova_schema::mutant;

/// How long a command may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    pub limit: SignedDuration,
    /// From when it counts: when the command was stored, an operation began, or a wait ended. None while it does not count.
    pub counts_from: Option<Timestamp>,
    /// Since when it can be carried out; none while it cannot.
    pub possible_since: Option<Timestamp>,
}

impl Deadline {
    /// The progress, or that the command has failed because it is still running.
    #[must_use]
    pub fn apply(self, progress: CommandProgress, now: Timestamp) -> CommandProgress {
        if progress.state != State::Running || progress.waits || !self.has_passed(now) {
            return progress;
        }
        let CommandProgress { reason, message, .. } = progress;
        let message = format!("not ready after {} s; last: {reason}: {message}", self.limit.as_secs());
        CommandProgress::failed("ProgressDeadlineExceeded", message)
    }

    fn has_passed(self, now: Timestamp) -> bool {
        let possible =
            self.possible_since.or_else(|| mutant::is_on("deadline.impossible").then_some(Timestamp::UNIX_EPOCH));
        let (Some(counts_from), Some(possible)) = (self.counts_from, possible) else { return false };
        now.duration_since(counts_from.max(possible)) > self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn state(possible_since: Option<i64>, now: i64) -> State {
        let deadline = Deadline {
            limit: SignedDuration::from_secs(600),
            counts_from: Some(at(1_000)),
            possible_since: possible_since.map(at),
        };
        deadline.apply(CommandProgress::running("WaitingForTenant", "waits"), at(now)).state
    }

    #[test]
    fn a_command_has_its_time_from_when_it_could_be_carried_out() {
        assert_eq!([state(Some(0), 1_600), state(Some(0), 1_601)], [State::Running, State::Failed]);
        assert_eq!([state(Some(5_000), 5_600), state(Some(5_000), 5_601)], [State::Running, State::Failed]);
        assert_eq!(state(None, 1_000_000), State::Running, "its components were never there");
    }

    #[test]
    fn what_waits_for_a_person_or_for_work_is_not_late() {
        let deadline = Deadline { limit: SignedDuration::ZERO, counts_from: Some(at(0)), possible_since: Some(at(0)) };
        let held = CommandProgress::waiting("WorkflowSuspending", "");
        assert_eq!(deadline.apply(held.clone(), at(9)), held);
        let counts_not = Deadline { counts_from: None, ..deadline };
        let running = CommandProgress::running("RunningWorkflow", "the wait has ended just now");
        assert_eq!(counts_not.apply(running.clone(), at(9)), running);
    }

    #[test]
    fn what_has_ended_is_not_late() {
        let deadline = Deadline { limit: SignedDuration::ZERO, counts_from: Some(at(0)), possible_since: Some(at(0)) };
        let ready = CommandProgress::succeeded("Running", "");
        assert_eq!(deadline.apply(ready.clone(), at(9)), ready);
        let failed = deadline.apply(CommandProgress::running("Applied", "no pods"), at(9));
        assert_eq!(failed.message, "not ready after 0 s; last: Applied: no pods");
    }
}
