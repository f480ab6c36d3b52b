//! Whether a cluster is ready: what the first condition that is not True says, in the order of the join.

use crate::conditions::ConditionSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kubenova_crds::{cluster_config::condition, conditions::ConditionStatus};

/// The condition `Ready` of a cluster's configuration that has these others.
#[must_use]
pub fn of_cluster(conditions: &[Condition]) -> ConditionSet {
    let mut set = ConditionSet::new();
    for step in condition::JOIN_ORDER {
        let Some(found) = conditions.iter().find(|condition| condition.type_ == step) else {
            set.set_unknown(condition::READY, "NotReached", format!("waiting for condition {step}"));
            return set;
        };
        if found.status != "True" {
            let status = if found.status == "False" { ConditionStatus::False } else { ConditionStatus::Unknown };
            set.set(condition::READY, status, &found.reason, format!("{step}: {}", found.message));
            return set;
        }
    }
    let message = "the cluster has joined, its components are available, and usage is reported";
    set.set_true(condition::READY, "Ready", message);
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
    fn the_first_condition_that_does_not_hold_is_the_reason() {
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
        assert_eq!(ready(&conditions).reason, "Installing");
        assert_eq!(ready(&[]).status, ConditionStatus::Unknown);
    }
}
