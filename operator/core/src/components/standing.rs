//! Since when the components stand that commands need: before, nothing about tenants and applications can be carried out,
//! and nothing is late.

use super::Component;
use jiff::Timestamp;
use kubenova_crds::cluster_config::{ClusterConfigStatus, NAME, NovaClusterConfig};
use kubenova_schema::kinds::CommandKind;

/// What is kept in memory of the cluster's configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StandingComponents {
    /// None until Capsule was installed for the first time, or is off.
    pub capsule: Option<Timestamp>,
    /// The same for KubeVela.
    pub kubevela: Option<Timestamp>,
}

impl StandingComponents {
    #[must_use]
    pub fn of(config: &NovaClusterConfig) -> Self {
        let status = config.status.as_ref().filter(|_| config.metadata.name.as_deref() == Some(NAME));
        let since = |component| status.and_then(|status| standing_since(status, component));
        Self { capsule: since(Component::Capsule), kubevela: since(Component::KubeVela) }
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

/// A component that was applied completely once stands from then on: one that is not available for a moment, or whose next
/// version cannot be installed, is a fault that a command may be late of.
fn standing_since(status: &ClusterConfigStatus, component: Component) -> Option<Timestamp> {
    let ready = status.conditions.iter().find(|found| found.type_ == component.condition() && found.status == "True");
    let was_installed =
        || status.components.iter().any(|entry| entry.name == component.name() && !entry.version.is_empty());
    match ready {
        Some(ready) => Some(ready.last_transition_time.0),
        None => was_installed().then_some(Timestamp::UNIX_EPOCH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::ConditionSet;
    use kubenova_crds::cluster_config::{ClusterConfigSpec, ComponentStatus};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn config(ready: &[(Component, i64)], installed: &[Component]) -> NovaClusterConfig {
        let mut status = ClusterConfigStatus::default();
        for (component, second) in ready {
            let mut set = ConditionSet::new();
            set.set_true(component.condition(), "Available", "");
            let _merged = set.merge_into(&mut status.conditions, None, at(*second));
        }
        let entry = |component: &Component| ComponentStatus {
            name: component.name().to_owned(),
            version: "1".to_owned(),
            ..ComponentStatus::default()
        };
        status.components = installed.iter().map(entry).collect();
        let mut config = NovaClusterConfig::new(NAME, ClusterConfigSpec::default());
        config.status = Some(status);
        config
    }

    #[test]
    fn an_application_can_be_carried_out_once_both_components_stand() {
        use CommandKind::{ApplyApplication, ApplyTenant, DeleteApplication};
        let of = |ready: &[(Component, i64)]| StandingComponents::of(&config(ready, &[]));
        let since = |standing: StandingComponents| [ApplyTenant, ApplyApplication].map(|kind| standing.since(kind));
        assert_eq!(since(of(&[])), [None, None]);
        assert_eq!(since(of(&[(Component::KubeVela, 9)])), [None, None]);
        assert_eq!(since(of(&[(Component::Capsule, 5)])), [Some(at(5)), None]);
        assert_eq!(since(of(&[(Component::Capsule, 5), (Component::KubeVela, 9)])), [Some(at(5)), Some(at(9))]);
        assert_eq!(of(&[]).since(DeleteApplication), Some(Timestamp::UNIX_EPOCH), "nothing is needed to delete");
    }

    #[test]
    fn a_component_that_was_installed_once_stands_also_while_it_is_not_ready() {
        let standing = StandingComponents::of(&config(&[], &[Component::KubeVela]));
        let expected = StandingComponents { capsule: None, kubevela: Some(Timestamp::UNIX_EPOCH) };
        assert_eq!(standing, expected);
    }

    #[test]
    fn a_configuration_of_another_name_says_nothing() {
        let mut other = config(&[(Component::Capsule, 5)], &[Component::KubeVela]);
        other.metadata.name = Some("other".to_owned());
        assert_eq!(StandingComponents::of(&other), StandingComponents::default());
    }
}
