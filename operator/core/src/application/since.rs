//! Since when the conditions of an application hold, and that one which is not ready for too long is stalled.
//!
//! KubeVela dates its own conditions. Those that are made from its status have the time at which the Operator saw them change; after a
//! start, when nothing was seen yet, that of the newest change that KubeVela dates. It dates nothing when an application that has run
//! becomes unhealthy: such a one is not ready since the start.

use super::{
    live,
    status::{HELD, READY},
};
use jiff::{SignedDuration, Timestamp};
use kubenova_schema::v1::{Condition, ObjectStatus};
use serde_json::Value;

/// Present while an application has not been ready for longer than it may take, unless it is held.
pub const STALLED: &str = "Stalled";

/// Dates the conditions that have no time, in comparison with what was seen before, and adds [`STALLED`].
pub fn date(status: &mut ObjectStatus, before: Option<&ObjectStatus>, now: Timestamp, ready_within: SignedDuration) {
    let (true_since, false_since) = if before.is_some() { (now, now) } else { first_times(status, now) };
    for condition in &mut status.conditions {
        if condition.last_transition_time.is_empty() {
            let kept = before.and_then(|before| kept_time(condition, status.revision, before));
            let first = if condition.status == "True" { true_since } else { false_since };
            condition.last_transition_time = kept.unwrap_or_else(|| first.to_string());
        }
    }
    let ready = status.conditions.iter().find(|condition| condition.r#type == READY);
    if let Some(stalled) = ready.and_then(|ready| stalled(ready, now, ready_within)) {
        status.conditions.push(stalled);
    }
}

/// Since when conditions hold that are True, and those that are not, when nothing was seen before.
fn first_times(status: &ObjectStatus, now: Timestamp) -> (Timestamp, Timestamp) {
    let dated = status.conditions.iter().filter_map(time).max();
    let detail: Value = serde_json::from_str(&status.detail).unwrap_or_default();
    let phase = detail["phase"].as_str().unwrap_or_default();
    if !live::BEFORE_THE_END_OF_THE_WORKFLOW.contains(&phase) {
        return (dated.unwrap_or(now), now);
    }
    // Conditions may be of the version before.
    let started_at = detail["workflow"]["startedAt"].as_str().and_then(|at| at.parse().ok());
    (dated.unwrap_or(now), dated.max(started_at).unwrap_or(now))
}

/// The time of the same condition before. Another revision that is not ready is not so for longer than it is there, and what was held has
/// its time from the end of that, as its command has.
fn kept_time(condition: &Condition, revision: u64, before: &ObjectStatus) -> Option<String> {
    let same = before.conditions.iter().find(|same| same.r#type == condition.r#type)?;
    let goes_on = before.revision == revision && (is_held(condition) || !is_held(same));
    let is_kept = same.status == condition.status && (condition.status == "True" || goes_on);
    is_kept.then(|| same.last_transition_time.clone())
}

fn is_held(condition: &Condition) -> bool {
    condition.r#type == READY && HELD.contains(&condition.reason.as_str())
}

fn stalled(ready: &Condition, now: Timestamp, ready_within: SignedDuration) -> Option<Condition> {
    let waits = ready.status != "True" && !is_held(ready);
    let since = time(ready).filter(|_| waits)?.checked_add(ready_within).ok()?;
    (now > since).then(|| Condition {
        r#type: STALLED.to_owned(),
        status: "True".to_owned(),
        message: format!("not ready for more than {} s: {}", ready_within.as_secs(), ready.message),
        last_transition_time: since.to_string(),
        ..ready.clone()
    })
}

fn time(condition: &Condition) -> Option<Timestamp> {
    condition.last_transition_time.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LIMIT: SignedDuration = SignedDuration::from_secs(600);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn condition(kind: &str, status: &str, since: &str) -> Condition {
        Condition {
            r#type: kind.to_owned(),
            status: status.to_owned(),
            reason: "ImagePullBackOff".to_owned(),
            message: "Pod web-0: no such image".to_owned(),
            last_transition_time: since.to_owned(),
            observed_generation: 2,
        }
    }

    fn status(ready: &str, revision: u64) -> ObjectStatus {
        let conditions = vec![condition("Reconciled", "True", "1970-01-01T00:00:30Z"), condition(READY, ready, "")];
        ObjectStatus { revision, conditions, ..ObjectStatus::default() }
    }

    fn dated(ready: &str, revision: u64, before: Option<&ObjectStatus>, now: i64) -> ObjectStatus {
        let mut status = status(ready, revision);
        date(&mut status, before, at(now), LIMIT);
        status
    }

    fn since(status: &ObjectStatus, kind: &str) -> Option<Timestamp> {
        status.conditions.iter().find(|condition| condition.r#type == kind).and_then(time)
    }

    #[test]
    fn a_condition_holds_since_it_was_seen_to_change() {
        let first = dated("False", 1, None, 100);
        assert_eq!(since(&first, READY), Some(at(30)), "the newest change that KubeVela dates");
        let same = dated("False", 1, Some(&first), 200);
        assert_eq!(same, first);
        let ready = dated("True", 1, Some(&same), 300);
        assert_eq!((since(&ready, READY), since(&ready, "Reconciled")), (Some(at(300)), Some(at(30))));
        let updated = dated("True", 2, Some(&ready), 400);
        assert_eq!(since(&updated, READY), Some(at(300)), "an update that changed nothing");
        let failing = dated("False", 2, Some(&updated), 500);
        assert_eq!(since(&failing, READY), Some(at(500)));
        assert_eq!(since(&dated("False", 3, Some(&failing), 600), READY), Some(at(600)), "of another revision");
    }

    #[test]
    fn what_kubevela_has_not_dated_holds_since_now() {
        let mut status = ObjectStatus { conditions: vec![condition(READY, "False", "")], ..ObjectStatus::default() };
        date(&mut status, None, at(100), LIMIT);
        assert_eq!(since(&status, READY), Some(at(100)));
    }

    #[test]
    fn what_has_run_and_is_unhealthy_at_a_start_is_so_since_the_start() {
        let first = |phase: &str, started_at: &str| {
            let detail = json!({"phase": phase, "workflow": {"startedAt": started_at}}).to_string();
            let mut status = ObjectStatus { detail, ..status("False", 1) };
            date(&mut status, None, at(5_000), LIMIT);
            (since(&status, READY), since(&status, STALLED))
        };
        for phase in ["unhealthy", "running", "workflowFailed"] {
            assert_eq!(first(phase, "1970-01-01T00:00:20Z"), (Some(at(5_000)), None), "{phase}");
        }
        assert_eq!(first("runningWorkflow", "1970-01-01T00:00:20Z"), (Some(at(30)), Some(at(630))));
        assert_eq!(first("runningWorkflow", "1970-01-01T01:20:00Z"), (Some(at(4_800)), None), "of the version before");
        let ready = ObjectStatus { detail: json!({"phase": "running"}).to_string(), ..status("True", 1) };
        let mut dated = ready;
        date(&mut dated, None, at(5_000), LIMIT);
        assert_eq!(since(&dated, READY), Some(at(30)), "what runs has run before the start");
    }

    #[test]
    fn what_is_not_ready_for_too_long_is_stalled_until_it_is_ready_or_another() {
        let first = dated("False", 1, None, 100);
        let waiting = dated("False", 1, Some(&first), 630);
        assert_eq!(since(&waiting, STALLED), None);
        let stalled = dated("False", 1, Some(&waiting), 631);
        let found = stalled.conditions.iter().find(|condition| condition.r#type == STALLED).unwrap();
        assert_eq!((found.status.as_str(), found.reason.as_str()), ("True", "ImagePullBackOff"));
        assert_eq!(found.message, "not ready for more than 600 s: Pod web-0: no such image");
        assert_eq!(time(found), Some(at(630)));
        assert_eq!(dated("False", 1, Some(&stalled), 900), stalled, "nothing changes while it stands");
        assert_eq!(since(&dated("True", 1, Some(&stalled), 901), STALLED), None);
        assert_eq!(since(&dated("False", 2, Some(&stalled), 901), STALLED), None);
        assert_eq!(since(&dated("False", 1, None, 1_000), STALLED), Some(at(630)), "also after a start");
        for reason in HELD {
            let mut held = status("False", 1);
            held.conditions[1].reason = reason.to_owned();
            date(&mut held, Some(&stalled), at(1_000), LIMIT);
            assert_eq!(since(&held, STALLED), None, "{reason}");
        }
    }

    #[test]
    fn what_was_held_has_its_time_from_the_end_of_that() {
        let with_reason = |reason: &str, before: Option<&ObjectStatus>, now: i64| {
            let mut status = status("False", 1);
            status.conditions[1].reason = reason.to_owned();
            date(&mut status, before, at(now), LIMIT);
            status
        };
        for reason in HELD {
            let held = with_reason(reason, None, 100);
            let still = with_reason(reason, Some(&held), 5_000);
            assert_eq!(since(&still, READY), Some(at(30)), "{reason}");
            let on = with_reason("RunningWorkflow", Some(&still), 6_000);
            assert_eq!((since(&on, READY), since(&on, STALLED)), (Some(at(6_000)), None), "{reason}");
            assert_eq!(since(&with_reason("Unhealthy", Some(&on), 6_600), STALLED), None);
            assert_eq!(since(&with_reason("Unhealthy", Some(&on), 6_601), STALLED), Some(at(6_600)));
        }
    }
}
