//! Since when the components stand that commands need: before, nothing about tenants and applications can be carried out,
//! and nothing is late.

use super::Component;
use jiff::Timestamp;
use kubenova_crds::cluster_config::{ClusterConfigStatus, ComponentStatus, NAME, NovaClusterConfig};
use kubenova_schema::kinds::CommandKind;

/// Reason of the condition of a component that is off.
pub const DISABLED: &str = "Disabled";

/// What is kept in memory of the cluster's configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StandingComponents {
    /// None until Capsule was installed for the first time, and while it is off.
    pub capsule: Option<Timestamp>,
    /// The same for KubeVela.
    pub kubevela: Option<Timestamp>,
    /// KubeVela is off: none is installed, and the cluster may have one of its own.
    pub kubevela_is_off: bool,
}

impl StandingComponents {
    #[must_use]
    pub fn of(config: &NovaClusterConfig) -> Self {
        let Some(status) = config.status.as_ref().filter(|_| config.metadata.name.as_deref() == Some(NAME)) else {
            return Self::default();
        };
        let since = |component| standing_since(status, component);
        let kubevela_is_off = is_off(status, Component::KubeVela);
        Self { capsule: since(Component::Capsule), kubevela: since(Component::KubeVela), kubevela_is_off }
    }

    /// Since when a command of this kind can be carried out; none while it cannot.
    #[must_use]
    pub fn since(&self, kind: CommandKind) -> Option<Timestamp> {
        match kind {
            CommandKind::ApplyTenant => self.capsule,
            CommandKind::ApplyApplication => Some(self.capsule?.max(self.kubevela?)),
            _ => Some(Timestamp::UNIX_EPOCH),
        }
    }
}

/// Notes that a component is available. It stands from the first time on: one that is not available for a moment, or whose next version
/// cannot be installed, is a fault that a command may be late of.
pub fn note_available(entry: &mut ComponentStatus, at: &str) -> bool {
    let is_first = entry.standing_since.is_empty();
    if is_first {
        at.clone_into(&mut entry.standing_since);
    }
    is_first
}

fn standing_since(status: &ClusterConfigStatus, component: Component) -> Option<Timestamp> {
    let entry = status.components.iter().find(|entry| entry.name == component.name())?;
    entry.standing_since.parse().ok().filter(|_| !is_off(status, component))
}

fn is_off(status: &ClusterConfigStatus, component: Component) -> bool {
    let condition = status.conditions.iter().find(|condition| condition.type_ == component.condition());
    condition.is_some_and(|condition| condition.reason == DISABLED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        components::health::{self, Standing},
        conditions::ConditionSet,
    };
    use kubenova_crds::cluster_config::ClusterConfigSpec;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn entry(component: Component) -> ComponentStatus {
        ComponentStatus { name: component.name().to_owned(), ..ComponentStatus::default() }
    }

    fn config(available: &[(Component, i64)]) -> NovaClusterConfig {
        let mut status = ClusterConfigStatus::default();
        for (component, second) in available {
            let mut entry = entry(*component);
            assert!(note_available(&mut entry, &at(*second).to_string()));
            status.components.push(entry);
        }
        let mut config = NovaClusterConfig::new(NAME, ClusterConfigSpec::default());
        config.status = Some(status);
        config
    }

    fn with_condition(mut config: NovaClusterConfig, component: Component, reason: &str) -> NovaClusterConfig {
        let mut set = ConditionSet::new();
        set.set_true(component.condition(), reason, "");
        let status = config.status.get_or_insert_default();
        let _merged = set.merge_into(&mut status.conditions, None, at(1_000));
        config
    }

    #[test]
    fn an_application_can_be_carried_out_once_both_components_stand() {
        use CommandKind::{ApplyApplication, ApplyTenant, DeleteApplication};
        let of = |available: &[(Component, i64)]| StandingComponents::of(&config(available));
        let since = |standing: StandingComponents| [ApplyTenant, ApplyApplication].map(|kind| standing.since(kind));
        assert_eq!(since(of(&[])), [None, None]);
        assert_eq!(since(of(&[(Component::KubeVela, 9)])), [None, None]);
        assert_eq!(since(of(&[(Component::Capsule, 5)])), [Some(at(5)), None]);
        assert_eq!(since(of(&[(Component::Capsule, 5), (Component::KubeVela, 9)])), [Some(at(5)), Some(at(9))]);
        assert_eq!(of(&[]).since(DeleteApplication), Some(Timestamp::UNIX_EPOCH), "nothing is needed to delete");
    }

    #[test]
    fn a_component_stands_from_the_first_time_that_it_was_available() {
        let mut entry = entry(Component::KubeVela);
        assert!(note_available(&mut entry, "1970-01-01T00:00:09Z"));
        assert!(!note_available(&mut entry, "1970-01-01T01:00:00Z"), "after it was not available for a moment");
        assert_eq!(entry.standing_since, "1970-01-01T00:00:09Z");
        let again = with_condition(config(&[(Component::KubeVela, 9)]), Component::KubeVela, "Available");
        assert_eq!(StandingComponents::of(&again).kubevela, Some(at(9)));
    }

    #[test]
    fn a_component_that_is_off_does_not_stand() {
        let never = with_condition(config(&[(Component::Capsule, 5)]), Component::KubeVela, DISABLED);
        let standing = StandingComponents::of(&never);
        assert_eq!((standing.since(CommandKind::ApplyApplication), standing.kubevela_is_off), (None, true));
        let mut off = with_condition(config(&[(Component::KubeVela, 9)]), Component::KubeVela, DISABLED);
        assert_eq!(StandingComponents::of(&off).kubevela, None);
        let entry = &mut off.status.as_mut().unwrap().components[0];
        assert!(health::note(entry, &Standing::Off, at(10)) && !health::note(entry, &Standing::Off, at(11)));
        let on_again = with_condition(off, Component::KubeVela, "NotAvailable");
        assert_eq!(StandingComponents::of(&on_again).kubevela, None, "until it is available again");
    }

    #[test]
    fn a_configuration_of_another_name_says_nothing() {
        let mut other = config(&[(Component::Capsule, 5), (Component::KubeVela, 9)]);
        other.metadata.name = Some("other".to_owned());
        assert_eq!(StandingComponents::of(&other), StandingComponents::default());
    }
}
