//! What one reconcile of a tenant came to, and how that reads in the NovaTenant's status.

use super::capsule::CapsuleStatus;
use crate::conditions::{ConditionSet, MergedConditions};
use jiff::Timestamp;
use kubenova_crds::{
    conditions::ConditionStatus,
    tenant::{TenantNamespace, TenantObject, TenantStatus, condition},
};
use std::time::Duration;

/// The conditions of a reconcile, in order; the first that does not hold ends it.
pub const STEPS: [&str; 4] =
    [condition::CAPSULE_TENANT_READY, condition::NAMESPACES_READY, condition::RBAC_READY, condition::QUOTA_APPLIED];

/// Why a reconcile ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// The condition that does not hold.
    pub condition: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Stopped {
    #[must_use]
    pub fn new(condition: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { condition, reason, message: message.into() }
    }

    /// True when it is expected to pass by itself within seconds, so that no event is worth writing.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self.reason, CAPSULE_NOT_READY | NAMESPACE_NOT_LISTED)
    }
}

/// The NovaTenant itself is wrong; nothing changes until it does.
pub const INVALID: &str = "Invalid";
/// Capsule has not reconciled its Tenant yet.
pub const CAPSULE_NOT_READY: &str = "CapsuleNotReady";
/// Capsule does not list a namespace yet.
pub const NAMESPACE_NOT_LISTED: &str = "NotListed";

/// What one reconcile came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantReport {
    /// Conditions that hold, with their messages.
    pub reached: Vec<(&'static str, &'static str)>,
    /// What ended the reconcile early; none when the tenant is ready.
    pub stopped: Option<Stopped>,
    /// What Capsule says, as far as it was read.
    pub capsule: CapsuleStatus,
    /// What was found or made with the tenant's label.
    pub objects: Vec<TenantObject>,
    /// What had lost the label and has it again, in words.
    pub repaired: Vec<String>,
    /// Time to the next repair of an object that others keep changing; none when there is none.
    pub left_for: Option<Duration>,
}

impl TenantReport {
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.stopped.is_none() && self.reached.len() == STEPS.len()
    }

    /// All conditions of the tenant.
    #[must_use]
    pub fn conditions(&self) -> ConditionSet {
        let mut set = ConditionSet::new();
        for step in STEPS {
            let reached = self.reached.iter().find(|(condition, _)| *condition == step);
            let stopped = self.stopped.as_ref().filter(|stopped| stopped.condition == step);
            match (stopped, reached) {
                (Some(stopped), _) => set.set_false(step, stopped.reason, &stopped.message),
                (None, Some((_, message))) => set.set_true(step, "Applied", *message),
                (None, None) => set.set_unknown(step, "NotReached", "waits for the conditions before it"),
            }
        }
        match &self.stopped {
            Some(stopped) => {
                let message = format!("{}: {}", stopped.condition, stopped.message);
                set.set_false(condition::READY, stopped.reason, message);
            }
            None if self.is_ready() => set.set_true(condition::READY, "Ready", "the tenant is ready"),
            None => set.set_unknown(condition::READY, "NotReached", "the reconcile has not reached its end yet"),
        }
        set
    }

    /// Writes the report into a status. What this reconcile did not get to know stays as it was.
    #[must_use]
    pub fn write_into(&self, status: &mut TenantStatus, generation: Option<i64>, now: Timestamp) -> MergedConditions {
        let mut merged = self.conditions().merge_into(&mut status.conditions, generation, now);
        if !self.capsule.state.is_empty() {
            let namespaces: Vec<TenantNamespace> = self
                .capsule
                .namespaces
                .iter()
                .map(|(name, uid)| TenantNamespace { name: name.clone(), uid: uid.clone() })
                .collect();
            let ready = format!("{}/2", namespaces.len().min(2));
            merged.changed |= replace(&mut status.tenant_state, self.capsule.state.clone());
            merged.changed |= replace(&mut status.namespaces, namespaces);
            merged.changed |= replace(&mut status.namespaces_ready, ready);
        }
        let mut objects = status.objects.clone();
        objects.retain(|known| !self.objects.iter().any(|seen| (&seen.kind, &seen.name) == (&known.kind, &known.name)));
        objects.extend(self.objects.iter().cloned());
        objects.sort_by(|a, b| (&a.kind, &a.name).cmp(&(&b.kind, &b.name)));
        merged.changed |= replace(&mut status.objects, objects);
        // Observed means applied to its end.
        if self.is_ready() {
            merged.changed |= replace(&mut status.observed_generation, generation);
        }
        merged
    }

    /// The transition of `Ready` among those of a merge.
    #[must_use]
    pub fn ready_transition(merged: &MergedConditions) -> Option<(ConditionStatus, &str, &str)> {
        let update = merged.transitions.iter().find(|update| update.condition == condition::READY)?;
        Some((update.status, update.reason.as_str(), update.message.as_str()))
    }
}

fn replace<T: PartialEq>(present: &mut T, next: T) -> bool {
    let changed = *present != next;
    *present = next;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> TenantReport {
        TenantReport {
            reached: STEPS.map(|step| (step, "in place")).to_vec(),
            stopped: None,
            capsule: CapsuleStatus {
                ready: true,
                state: "Active".into(),
                namespaces: vec![("acme-apps".into(), "u".into())],
                ..CapsuleStatus::default()
            },
            ..TenantReport::default()
        }
    }

    #[test]
    fn a_ready_tenant_is_written_once() {
        let mut status = TenantStatus::default();
        let merged = ready().write_into(&mut status, Some(3), Timestamp::UNIX_EPOCH);
        assert!(merged.changed);
        assert_eq!(TenantReport::ready_transition(&merged).unwrap().0, ConditionStatus::True);
        assert_eq!((status.observed_generation, status.namespaces_ready.as_str()), (Some(3), "1/2"));
        assert_eq!(ready().write_into(&mut status, Some(3), Timestamp::UNIX_EPOCH), MergedConditions::default());
    }

    #[test]
    fn the_step_that_stopped_is_the_reason_and_later_ones_are_unknown() {
        let mut report = ready();
        report.reached.truncate(1);
        report.stopped = Some(Stopped::new(condition::NAMESPACES_READY, "NamespaceTaken", "acme-apps is not ours"));
        let mut status = TenantStatus { observed_generation: Some(2), ..TenantStatus::default() };
        let merged = report.write_into(&mut status, Some(3), Timestamp::UNIX_EPOCH);
        let ready = (ConditionStatus::False, "NamespaceTaken", "NamespacesReady: acme-apps is not ours");
        assert_eq!(TenantReport::ready_transition(&merged), Some(ready));
        let statuses: Vec<&str> = status.conditions.iter().map(|condition| condition.status.as_str()).collect();
        assert_eq!(statuses, ["False", "True", "False", "Unknown", "Unknown"], "Ready stands first");
        assert_eq!(status.observed_generation, Some(2), "a generation that was not applied to its end is not observed");
    }

    #[test]
    fn what_is_the_tenants_is_remembered_until_another_object_takes_its_place() {
        let object =
            |name: &str, uid: &str| TenantObject { kind: "Namespace".into(), name: name.into(), uid: uid.into() };
        let report = |objects: &[TenantObject]| TenantReport { objects: objects.to_vec(), ..ready() };
        let (owner, apps, again) = (object("acme-owner", "1"), object("acme-apps", "2"), object("acme-apps", "3"));
        let mut status = TenantStatus::default();
        let write = |status: &mut TenantStatus, objects: &[TenantObject]| {
            report(objects).write_into(status, Some(1), Timestamp::UNIX_EPOCH).changed
        };
        assert!(write(&mut status, &[owner.clone(), apps.clone()]));
        assert_eq!(status.objects, [apps.clone(), owner.clone()]);
        assert!(!write(&mut status, &[apps, owner.clone()]), "in another order it is the same");
        assert!(!write(&mut status, &[]), "a reconcile that ended early forgets nothing");
        assert!(write(&mut status, std::slice::from_ref(&again)));
        assert_eq!(status.objects, [again, owner]);
    }

    #[test]
    fn what_was_not_read_stays() {
        let mut status =
            TenantStatus { tenant_state: "Active".into(), namespaces_ready: "2/2".into(), ..TenantStatus::default() };
        let report = TenantReport {
            stopped: Some(Stopped::new(condition::CAPSULE_TENANT_READY, "CapsuleMissing", "no Capsule")),
            ..TenantReport::default()
        };
        assert!(report.write_into(&mut status, None, Timestamp::UNIX_EPOCH).changed);
        assert_eq!((status.tenant_state.as_str(), status.namespaces_ready.as_str()), ("Active", "2/2"));
    }
}
