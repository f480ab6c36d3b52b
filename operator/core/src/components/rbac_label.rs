//! Whether the roles in the cluster were written for the desired version.
//!
//! Roles come with the Operator's chart and are applied by the cluster's administrator; the Operator writes none. It reads
//! the label `kubenova.io/for` of one ClusterRole per component and says what to do when it does not match.

use super::component::Component;

/// The label's value on roles written for this version of the component.
#[must_use]
pub fn label_value(component: Component, version: &str) -> String {
    format!("{}-{version}", component.name())
}

/// The ClusterRole whose label is read.
#[must_use]
pub fn cluster_role(component: Component) -> String {
    format!("kubenova:component:{}", component.name())
}

/// What the label says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolesFit {
    /// The roles fit.
    Fits,
    /// The roles are for another version, or absent.
    UpgradeNeeded {
        /// What was found, if anything.
        found: Option<String>,
    },
}

impl RolesFit {
    /// The reason in the component's condition.
    pub const REASON: &'static str = "RBACUpgradeNeeded";

    /// The condition's message, with the remedy.
    #[must_use]
    pub fn message(component: Component, version: &str, found: Option<&str>) -> String {
        let state = found.map_or_else(
            || "are missing".to_owned(),
            |found| format!("were written for {found}, not for {}", label_value(component, version)),
        );
        format!(
            "the roles of {} {state}; an administrator of this cluster applies the ones that fit with: helm upgrade \
             kubenova-operator <chart of the release that brings {} {version}> --namespace kubenova-system --reset-then-reuse-values",
            component.title(),
            component.title(),
        )
    }
}

/// Checks the label of the component's ClusterRole: `None` when there is no such role. An adopted install may bring
/// roles of its own, so there an absent role is no fault.
#[must_use]
pub fn check(component: Component, version: &str, label: Option<&str>, adopted: bool) -> RolesFit {
    match label {
        Some(label) if label == label_value(component, version) => RolesFit::Fits,
        None if adopted => RolesFit::Fits,
        other => RolesFit::UpgradeNeeded { found: other.map(str::to_owned) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_for_another_version_are_named_with_the_remedy() {
        assert_eq!(check(Component::Capsule, "0.14.0", Some("capsule-0.14.0"), false), RolesFit::Fits);
        let RolesFit::UpgradeNeeded { found } = check(Component::Capsule, "0.15.0", Some("capsule-0.14.0"), false)
        else {
            panic!("0.14.0 does not fit 0.15.0");
        };
        let message = RolesFit::message(Component::Capsule, "0.15.0", found.as_deref());
        assert!(message.contains("capsule-0.14.0") && message.contains("helm upgrade"), "{message}");
    }

    #[test]
    fn absent_roles_are_a_fault_unless_the_install_is_adopted() {
        assert_eq!(check(Component::KubeVela, "1.10.9", None, false), RolesFit::UpgradeNeeded { found: None });
        assert_eq!(check(Component::KubeVela, "1.10.9", None, true), RolesFit::Fits);
        let wrong = check(Component::KubeVela, "1.10.9", Some("kubevela-1.9.0"), true);
        assert!(matches!(wrong, RolesFit::UpgradeNeeded { .. }));
    }

    #[test]
    fn the_chart_ships_roles_for_the_versions_this_operator_installs() {
        let helpers = include_str!("../../../../deploy/helm/operator/templates/_helpers.tpl");
        for component in Component::ALL {
            let label = label_value(component, component.default_version());
            assert!(helpers.contains(&format!("-}}}}{label}{{{{-")), "the chart has no roles for {label}");
        }
    }
}
