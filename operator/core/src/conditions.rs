//! The conditions one reconcile found, as one value: collected in order, merged into an object's status, and compared
//! with what stood there so that only transitions become events.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kubenova_crds::{cluster_config::condition::READY, conditions::ConditionStatus};

/// One condition as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionUpdate {
    pub condition: &'static str,
    pub status: ConditionStatus,
    /// CamelCase, for programs.
    pub reason: String,
    /// What happened and what to do about it.
    pub message: String,
}

/// The conditions that one reconcile found, in order, each at most once. Conditions of an object that are not in the
/// set stay as they are: several controllers may share one status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConditionSet {
    updates: Vec<ConditionUpdate>,
}

/// What merging a set into an object's conditions did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MergedConditions {
    /// Anything differs from before, so the status has to be written.
    pub changed: bool,
    /// Conditions whose status or reason is new: what deserves an event or a log line. A message alone does not.
    pub transitions: Vec<ConditionUpdate>,
}

impl ConditionSet {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a condition. Setting it again replaces the earlier value and moves it to the end.
    pub fn set(
        &mut self,
        condition: &'static str,
        status: ConditionStatus,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.updates.retain(|update| update.condition != condition);
        self.updates.push(ConditionUpdate { condition, status, reason: reason.into(), message: message.into() });
    }

    pub fn set_true(&mut self, condition: &'static str, reason: impl Into<String>, message: impl Into<String>) {
        self.set(condition, ConditionStatus::True, reason, message);
    }

    pub fn set_false(&mut self, condition: &'static str, reason: impl Into<String>, message: impl Into<String>) {
        self.set(condition, ConditionStatus::False, reason, message);
    }

    pub fn set_unknown(&mut self, condition: &'static str, reason: impl Into<String>, message: impl Into<String>) {
        self.set(condition, ConditionStatus::Unknown, reason, message);
    }

    /// Sets every one of `conditions` that the set does not hold yet to Unknown: the reconcile stopped before it.
    pub fn set_missing_unknown(&mut self, conditions: &[&'static str], reason: &str, message: &str) {
        for condition in conditions {
            if self.get(condition).is_none() {
                self.set_unknown(condition, reason, message);
            }
        }
    }

    #[must_use]
    pub fn get(&self, condition: &str) -> Option<&ConditionUpdate> {
        self.updates.iter().find(|update| update.condition == condition)
    }

    /// The first condition that is not True: what holds everything up.
    #[must_use]
    pub fn first_not_true(&self) -> Option<&ConditionUpdate> {
        self.updates.iter().find(|update| update.status != ConditionStatus::True)
    }

    pub fn iter(&self) -> impl Iterator<Item = &ConditionUpdate> {
        self.updates.iter()
    }

    /// Merges the set into an object's conditions. The transition time moves only when the status does, so that merging
    /// the same set again changes nothing and nothing is written. `Ready`, which sums up the others, stands first, where
    /// `kubectl describe` begins.
    #[must_use]
    pub fn merge_into(
        &self,
        conditions: &mut Vec<Condition>,
        observed_generation: Option<i64>,
        now: Timestamp,
    ) -> MergedConditions {
        let mut merged = MergedConditions::default();
        for update in &self.updates {
            let mut next = Condition {
                type_: update.condition.to_owned(),
                status: update.status.as_str().to_owned(),
                reason: update.reason.clone(),
                message: update.message.clone(),
                observed_generation,
                last_transition_time: Time(now),
            };
            let Some(present) = conditions.iter_mut().find(|present| present.type_ == update.condition) else {
                let at = if next.type_ == READY { 0 } else { conditions.len() };
                conditions.insert(at, next);
                merged.changed = true;
                merged.transitions.push(update.clone());
                continue;
            };
            if present.status == next.status {
                next.last_transition_time = present.last_transition_time.clone();
            }
            if (&present.status, &present.reason) != (&next.status, &next.reason) {
                merged.transitions.push(update.clone());
            }
            merged.changed |= *present != next;
            *present = next;
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn merging_the_same_set_again_changes_nothing_and_keeps_the_transition_time() {
        let mut set = ConditionSet::new();
        set.set_true("Ready", "Ready", "ready");
        let mut conditions = Vec::new();
        assert!(set.merge_into(&mut conditions, Some(1), at(0)).changed);
        assert_eq!(set.merge_into(&mut conditions, Some(1), at(60)), MergedConditions::default());
        assert_eq!(conditions[0].last_transition_time, Time(at(0)));
    }

    #[test]
    fn a_new_message_or_generation_is_written_but_is_no_transition() {
        let mut set = ConditionSet::new();
        set.set_false("Ready", "Waiting", "1 of 3 pods");
        let mut conditions = Vec::new();
        assert_eq!(set.merge_into(&mut conditions, Some(1), at(0)).transitions.len(), 1);
        set.set_false("Ready", "Waiting", "2 of 3 pods");
        let merged = set.merge_into(&mut conditions, Some(2), at(60));
        assert!(merged.changed && merged.transitions.is_empty());
        assert_eq!(conditions[0].last_transition_time, Time(at(0)));
        assert_eq!((conditions[0].observed_generation, conditions[0].message.as_str()), (Some(2), "2 of 3 pods"));
    }

    #[test]
    fn a_transition_is_returned_once_and_moves_the_time() {
        let mut set = ConditionSet::new();
        set.set_false("Ready", "Waiting", "no pods");
        let mut conditions = Vec::new();
        let _first = set.merge_into(&mut conditions, None, at(0));
        set.set_true("Ready", "Available", "3 of 3 pods");
        let merged = set.merge_into(&mut conditions, None, at(60));
        assert_eq!(merged.transitions.iter().map(|update| update.reason.as_str()).collect::<Vec<_>>(), ["Available"]);
        assert_eq!(conditions[0].last_transition_time, Time(at(60)));
        assert!(set.merge_into(&mut conditions, None, at(90)).transitions.is_empty());
    }

    #[test]
    fn conditions_of_others_stay_and_order_is_kept() {
        let mut other = ConditionSet::new();
        other.set_true("Other", "Fine", "");
        let mut conditions = Vec::new();
        let _others = other.merge_into(&mut conditions, None, at(0));
        let mut set = ConditionSet::new();
        set.set_true("A", "Fine", "");
        set.set_false("B", "Broken", "b");
        set.set_missing_unknown(&["A", "B", "C"], "NotReached", "waits for B");
        assert_eq!(set.first_not_true().unwrap().condition, "B");
        let _merged = set.merge_into(&mut conditions, None, at(1));
        let types: Vec<&str> = conditions.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(types, ["Other", "A", "B", "C"]);
        assert_eq!(conditions[3].status, "Unknown");
    }
}
