//! What Capsule, Capsule Proxy and KubeVela must look like in a cluster, decided without a client.
//!
//! The NovaClusterConfig controller renders a component's chart with [`Plan::values`], hands the text to
//! [`render::prepare`], and applies the result by [`waves`]. Everything the charts have no value for, and
//! everything the Operator must not apply (namespaces, roles), is settled in this folder. Each required setting is here
//! because a tenant could otherwise escape its isolation; `docs` call the list "required settings".

pub mod capsule;
pub mod capsule_proxy;
pub mod certificate;
mod component;
pub mod inventory;
pub mod kubevela;
pub mod object;
pub mod patch;
pub mod rbac_label;
pub mod render;
pub mod standing;
pub mod waves;

use certificate::Certificate;
pub use component::{Component, Settings};
use serde_json::Value;

/// How a component is rendered, changed, and waited for.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The component.
    pub component: Component,
    /// The version.
    pub version: String,
    /// Values for its chart.
    pub values: Value,
    /// Serving certificates it needs before it starts.
    pub certificates: Vec<Certificate>,
    /// Names of Secrets the chart renders and the Operator fills itself.
    pub own_secrets: Vec<String>,
}

/// The plan of a component.
#[must_use]
pub fn plan(component: Component, settings: &Settings) -> Plan {
    let (values, certificates) = match component {
        Component::Capsule => (capsule::values(settings), capsule::certificates()),
        Component::KubeVela => (kubevela::values(settings), kubevela::certificates()),
        Component::CapsuleProxy => {
            (capsule_proxy::values(settings), capsule_proxy::certificates(settings.public_host.as_deref()))
        }
    };
    let own_secrets = certificates.iter().map(|certificate| certificate.secret.clone()).collect();
    Plan { component, version: settings.version.clone(), values, certificates, own_secrets }
}

/// What this component's objects need that its chart has no value for.
pub fn patch_object(component: Component, settings: &Settings, object: &mut Value) {
    match component {
        Component::Capsule => {}
        Component::KubeVela => kubevela::patch(settings, object),
        Component::CapsuleProxy => capsule_proxy::patch(settings, object),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn settings(component: Component) -> Settings {
        Settings {
            version: component.default_version().to_owned(),
            replicas: 1,
            operator_user: "system:serviceaccount:kubenova-system:kubenova-operator".to_owned(),
            ca_bundle: "-----BEGIN CERTIFICATE-----\n".to_owned(),
            public_host: Some("tenants.example.test".to_owned()),
            crd_set: "00".to_owned(),
        }
    }

    #[test]
    fn a_plan_names_the_secrets_the_operator_fills() {
        let plan = plan(Component::Capsule, &settings(Component::Capsule));
        assert_eq!(plan.own_secrets, ["capsule-tls"]);
        assert_eq!(plan.component.namespace(), "capsule-system");
    }

    #[test]
    fn the_proxy_comes_after_everything_that_brings_kinds() {
        assert_eq!(Component::ALL.last(), Some(&Component::CapsuleProxy));
    }
}
