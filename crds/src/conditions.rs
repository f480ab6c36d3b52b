//! Setting conditions: the transition time stays when the status did not change, so that a reconcile that changes
//! nothing writes nothing.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Not known yet.
    Unknown,
}

impl ConditionStatus {
    /// As Kubernetes writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Sets or replaces a condition. True when anything but the transition time differs from before.
pub fn set(
    conditions: &mut Vec<Condition>,
    kind: &str,
    truth: ConditionStatus,
    reason: &str,
    message: &str,
    observed_generation: Option<i64>,
    now: Timestamp,
) -> bool {
    let mut wanted = Condition {
        type_: kind.to_owned(),
        status: truth.as_str().to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation,
        last_transition_time: Time(now),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        None => {
            conditions.push(wanted);
            true
        }
        Some(present) => {
            if present.status == wanted.status {
                wanted.last_transition_time = present.last_transition_time.clone();
            }
            let changed = *present != wanted;
            *present = wanted;
            changed
        }
    }
}

/// True when the condition is `True`.
#[must_use]
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_condition_keeps_its_time_and_reports_no_change() {
        let mut conditions = Vec::new();
        let first = Timestamp::UNIX_EPOCH;
        let later = Timestamp::from_second(60).unwrap();
        assert!(set(&mut conditions, "Ready", ConditionStatus::True, "Ready", "ready", Some(1), first));
        assert!(!set(&mut conditions, "Ready", ConditionStatus::True, "Ready", "ready", Some(1), later));
        assert_eq!(conditions[0].last_transition_time, Time(first));
        assert!(set(&mut conditions, "Ready", ConditionStatus::False, "Broken", "broken", Some(1), later));
        assert_eq!(conditions[0].last_transition_time, Time(later));
        assert!(!is_true(&conditions, "Ready"));
    }
}
