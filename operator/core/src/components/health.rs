//! How a component is, as its entry in the status says it, and whether any of them hangs.
//!
//! Each reconcile comes to a [`Standing`]; what it changes in the entry is decided here. `Stalled` is for who waits: a
//! component that needs a person, or has not got further for long, is not worth waiting for.

use super::Component;
use crate::conditions::ConditionSet;
use jiff::{SignedDuration, Timestamp};
use kubenova_crds::{
    cluster_config::{ClusterConfigStatus, ComponentHealth, ComponentStatus, condition},
    conditions,
};

/// How long a component may take until it counts as stalled: pulling an image through a slow line takes minutes.
const STALLED_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// Reasons that no retry changes: a person must act.
const NEEDS_A_PERSON: [&str; 11] = [
    "AdoptionRefused",
    "AlreadyInstalled",
    "ChartMissing",
    "Forbidden",
    "InstalledElsewhere",
    "InvalidSpec",
    "LeftoversFound",
    "RBACUpgradeNeeded",
    "RenderFailed",
    "VersionConflict",
    "VersionNotCarried",
];

/// What one reconcile of a component came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is off, and what it had is gone.
    Off,
    /// It is left as it is.
    Paused {
        /// Its controller is available.
        is_available: bool,
    },
    /// This version runs as configured.
    Healthy {
        /// The version.
        version: String,
    },
    /// It does not, for this reason.
    Unsettled {
        /// One CamelCase word.
        reason: &'static str,
        /// A sentence with the remedy.
        message: String,
    },
}

/// Writes what a reconcile came to into the component's entry. True when the entry changed.
pub fn note(entry: &mut ComponentStatus, standing: &Standing, now: Timestamp) -> bool {
    let before = entry.clone();
    match standing {
        Standing::Off => {
            entry.health = Some(ComponentHealth::Disabled);
            entry.version.clear();
            entry.standing_since.clear();
            settle(entry);
        }
        Standing::Paused { .. } => {
            entry.health = Some(ComponentHealth::Paused);
            settle(entry);
        }
        Standing::Healthy { version } => {
            entry.health = Some(ComponentHealth::Healthy);
            version.clone_into(&mut entry.version);
            settle(entry);
        }
        Standing::Unsettled { reason, message } => {
            if entry.unsettled_since.is_empty() {
                entry.unsettled_since = now.to_string();
            }
            let hangs = needs_a_person(reason) || is_late(entry, now);
            entry.health = Some(if hangs { ComponentHealth::Degraded } else { ComponentHealth::Progressing });
            message.clone_into(&mut entry.last_error);
        }
    }
    *entry != before
}

fn settle(entry: &mut ComponentStatus) {
    entry.unsettled_since.clear();
    entry.last_error.clear();
}

fn needs_a_person(reason: &str) -> bool {
    NEEDS_A_PERSON.contains(&reason)
}

fn is_late(entry: &ComponentStatus, now: Timestamp) -> bool {
    let since: Option<Timestamp> = entry.unsettled_since.parse().ok();
    since.is_some_and(|since| now.duration_since(since) >= STALLED_AFTER)
}

/// `Stalled`: what the first component says that hangs.
#[must_use]
pub fn stalled(status: &ClusterConfigStatus) -> ConditionSet {
    let mut set = ConditionSet::new();
    let hangs = |component: &Component| {
        let entry = status.components.iter().find(|entry| entry.name == component.name());
        entry.is_some_and(|entry| entry.health == Some(ComponentHealth::Degraded))
    };
    let found = Component::ALL.into_iter().filter(hangs).find_map(|component| {
        let mut conditions = status.conditions.iter();
        conditions.find(|found| found.type_ == component.condition() && found.status != "True")
    });
    match found {
        Some(found) => set.set_true(condition::STALLED, &found.reason, format!("{}: {}", found.type_, found.message)),
        None if Component::ALL
            .iter()
            .all(|component| conditions::is_true(&status.conditions, component.condition())) =>
        {
            set.set_false(condition::STALLED, "Settled", "every component is as configured");
        }
        None => set.set_false(condition::STALLED, "Progressing", "components are still being set up"),
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn unsettled(reason: &'static str) -> Standing {
        Standing::Unsettled { reason, message: format!("{reason} is why") }
    }

    #[test]
    fn an_entry_says_how_a_component_is_and_forgets_an_error_once_it_is_settled() {
        let mut entry = ComponentStatus::default();
        assert!(note(&mut entry, &unsettled("NotAvailable"), at(0)));
        assert_eq!(entry.health, Some(ComponentHealth::Progressing));
        assert!(!note(&mut entry, &unsettled("NotAvailable"), at(599)), "nothing to write");
        assert!(note(&mut entry, &unsettled("NotAvailable"), at(600)));
        assert_eq!((entry.health, entry.last_error.as_str()), (Some(ComponentHealth::Degraded), "NotAvailable is why"));
        assert!(note(&mut entry, &Standing::Healthy { version: "1".to_owned() }, at(601)));
        assert_eq!((entry.health, entry.version.as_str()), (Some(ComponentHealth::Healthy), "1"));
        assert!(entry.last_error.is_empty() && entry.unsettled_since.is_empty());
        assert!(note(&mut entry, &Standing::Paused { is_available: true }, at(700)));
        assert_eq!((entry.health, entry.version.as_str()), (Some(ComponentHealth::Paused), "1"), "it still runs");
        assert!(note(&mut entry, &Standing::Off, at(800)) && entry.version.is_empty());
    }

    #[test]
    fn what_needs_a_person_is_not_waited_for() {
        let mut entry = ComponentStatus::default();
        assert!(note(&mut entry, &unsettled("RBACUpgradeNeeded"), at(0)));
        assert_eq!(entry.health, Some(ComponentHealth::Degraded));
    }

    #[test]
    fn stalled_is_what_the_first_component_says_that_hangs() {
        let mut status = ClusterConfigStatus::default();
        let reason = |status: &ClusterConfigStatus| stalled(status).get(condition::STALLED).cloned().unwrap().reason;
        assert_eq!(reason(&status), "Progressing");
        let mut set = ConditionSet::new();
        set.set_true(condition::CAPSULE_READY, "Available", "");
        set.set_true(condition::CAPSULE_PROXY_READY, "Disabled", "");
        set.set_false(condition::KUBEVELA_READY, "NotAvailable", "no image");
        let _merged = set.merge_into(&mut status.conditions, None, at(0));
        let mut entry = ComponentStatus { name: "kubevela".to_owned(), ..ComponentStatus::default() };
        note(&mut entry, &unsettled("NotAvailable"), at(0));
        status.components.push(entry);
        assert_eq!(reason(&status), "Progressing");
        note(&mut status.components[0], &unsettled("NotAvailable"), at(3_600));
        let update = stalled(&status).get(condition::STALLED).cloned().unwrap();
        assert_eq!((update.reason.as_str(), update.message.as_str()), ("NotAvailable", "KubeVelaReady: no image"));
        let mut set = ConditionSet::new();
        set.set_true(condition::KUBEVELA_READY, "Available", "");
        let _merged = set.merge_into(&mut status.conditions, None, at(0));
        note(&mut status.components[0], &Standing::Healthy { version: "1".to_owned() }, at(3_601));
        assert_eq!(reason(&status), "Settled");
    }
}
