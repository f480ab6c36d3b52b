//! What Capsule, Capsule Proxy and KubeVela must look like in a cluster, decided without a client.
//!
//! The NovaClusterConfig controller renders a component's chart with [`Plan::values`], hands the text to
//! [`render::prepare`], and applies the result by [`waves`]. Everything the charts have no value for, and
//! everything the Operator must not apply (namespaces, roles), is settled in this folder. Each required setting is here
//! because a tenant could otherwise escape its isolation; `docs` call the list "required settings".

pub mod adoption;
pub mod capsule;
pub mod capsule_proxy;
pub mod certificate;
mod component;
pub mod endpoint;
pub mod health;
pub mod inventory;
pub mod kubevela;
pub mod object;
pub mod patch;
mod public_url;
pub mod rbac_label;
pub mod render;
mod settings;
pub mod spec;
pub mod standing;
pub mod waves;
pub mod workload;

use certificate::Certificate;
pub use component::Component;
use serde_json::Value;
pub use settings::Settings;

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
        Component::CapsuleProxy => (capsule_proxy::values(settings), capsule_proxy::certificates(settings)),
    };
    let own_secrets = certificates.iter().map(|certificate| certificate.secret.clone()).collect();
    Plan { component, version: settings.version(component).to_owned(), values, certificates, own_secrets }
}

/// What this component's objects need that its chart has no value for.
pub fn patch_object(component: Component, settings: &Settings, object: &mut Value) {
    workload::shape(component, settings.common(component), object);
    match component {
        Component::Capsule => {}
        Component::KubeVela => kubevela::patch(settings, object),
        Component::CapsuleProxy => capsule_proxy::patch(settings, object),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use kubenova_crds::components::Components;

    pub(crate) fn settings() -> Settings {
        let mut components = Components::default();
        components.capsule_proxy.public_url = "https://tenants.example.test".to_owned();
        Settings {
            components,
            state_namespace: "kubenova-system".to_owned(),
            operator_user: "system:serviceaccount:kubenova-system:kubenova-operator".to_owned(),
            ca_bundle: "-----BEGIN CERTIFICATE-----\n".to_owned(),
            crd_set: "00".to_owned(),
        }
    }

    pub(crate) fn with_replicas(replicas: u32) -> Settings {
        let mut settings = settings();
        settings.components.capsule.component.replicas = replicas;
        settings.components.kubevela.component.replicas = replicas;
        settings
    }

    #[test]
    fn a_plan_names_the_secrets_the_operator_fills() {
        let plan = plan(Component::Capsule, &settings());
        assert_eq!(plan.own_secrets, ["capsule-tls"]);
        assert_eq!(plan.component.namespace(), "capsule-system");
    }

    #[test]
    fn the_proxy_comes_after_everything_that_brings_kinds() {
        assert_eq!(Component::ALL.last(), Some(&Component::CapsuleProxy));
    }
}
