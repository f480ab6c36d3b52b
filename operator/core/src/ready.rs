//! Whether a cluster is ready: what the first condition that is False says, in the order of the join, else the first that is not known.

use crate::conditions::ConditionSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kubenova_crds::{cluster_config::condition, conditions::ConditionStatus};

/// The condition `Ready` of a cluster's configuration that has these others.
#[must_use]
pub fn of_cluster(conditions: &[Condition]) -> ConditionSet {
    let find = |step: &&str| conditions.iter().find(|condition| condition.type_ == **step);
    let is = |step: &&str, status: &str| find(step).is_some_and(|found| found.status == status);
    let first_false = condition::JOIN_ORDER.iter().find(|step| is(step, "False"));
    let mut set = ConditionSet::new();
    match first_false.or_else(|| condition::JOIN_ORDER.iter().find(|step| !is(step, "True"))) {
        None => {
            let message = "the cluster has joined, its components are available, and usage is reported";
            set.set_true(condition::READY, "Ready", message);
        }
        Some(step) => match find(step) {
            None => set.set_unknown(condition::READY, "NotReached", format!("waiting for condition {step}")),
            Some(found) => {
                let status = if found.status == "False" { ConditionStatus::False } else { ConditionStatus::Unknown };
                set.set(condition::READY, status, &found.reason, format!("{step}: {}", found.message));
            }
        },
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::ConditionUpdate;
    use jiff::Timestamp;

    fn ready(conditions: &[Condition]) -> ConditionUpdate {
        of_cluster(conditions).get(condition::READY).unwrap().clone()
    }

    #[test]
    fn the_first_condition_that_is_false_is_the_reason_and_else_the_first_that_is_unknown() {
        let mut conditions = Vec::new();
        let mut set = ConditionSet::new();
        for step in condition::JOIN_ORDER {
            set.set_true(step, "Ok", "");
        }
        let _all = set.merge_into(&mut conditions, None, Timestamp::UNIX_EPOCH);
        assert_eq!(ready(&conditions).status, ConditionStatus::True);
        let mut set = ConditionSet::new();
        set.set_false(condition::KUBEVELA_READY, "Broken", "no pods");
        set.set_unknown(condition::CAPSULE_READY, "Installing", "");
        let _two = set.merge_into(&mut conditions, None, Timestamp::UNIX_EPOCH);
        assert_eq!(ready(&conditions).reason, "Broken", "what is not known yet hides no cause");
        let mut set = ConditionSet::new();
        set.set_true(condition::KUBEVELA_READY, "Available", "");
        let _one = set.merge_into(&mut conditions, None, Timestamp::UNIX_EPOCH);
        assert_eq!(ready(&conditions).reason, "Installing");
        assert_eq!(ready(&[]).status, ConditionStatus::Unknown);
    }
}
