//! What Capsule, Capsule Proxy and KubeVela must look like in a cluster, decided without a client.
//!
//! The NovaClusterConfig controller renders a component's chart with [`Plan::values`], hands the text to
//! [`render::prepare`], and applies the result by [`waves`]. Everything the charts have no value for, and
//! everything the Operator must not apply (namespaces, roles), is settled in this folder. Each required setting is here
//! because a tenant could otherwise escape its isolation; `docs` call the list "required settings".

pub mod capsule;
pub mod capsule_proxy;
pub mod certificate;
pub mod inventory;
pub mod kubevela;
pub mod object;
pub mod patch;
pub mod rbac_label;
pub mod render;
pub mod waves;

use certificate::Certificate;
use kubenova_crds::cluster_config::condition;
use serde_json::Value;

/// A component, in the order of installation: Capsule Proxy learns the kinds it filters when it starts, so it comes
/// last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// Tenants' isolation.
    Capsule,
    /// Applications.
    KubeVela,
    /// Tenants' view of the API.
    CapsuleProxy,
}

impl Component {
    /// All, in the order of installation.
    pub const ALL: [Self; 3] = [Self::Capsule, Self::KubeVela, Self::CapsuleProxy];

    /// The name in labels, in status, and of the Helm release and the chart's folder.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Capsule => "capsule",
            Self::KubeVela => "kubevela",
            Self::CapsuleProxy => "capsule-proxy",
        }
    }

    /// The name in messages.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Capsule => "Capsule",
            Self::KubeVela => "KubeVela",
            Self::CapsuleProxy => "Capsule Proxy",
        }
    }

    /// The key under `spec.components`.
    #[must_use]
    pub const fn spec_key(self) -> &'static str {
        match self {
            Self::Capsule => "capsule",
            Self::KubeVela => "kubevela",
            Self::CapsuleProxy => "capsuleProxy",
        }
    }

    /// Where it runs.
    #[must_use]
    pub const fn namespace(self) -> &'static str {
        match self {
            Self::Capsule | Self::CapsuleProxy => "capsule-system",
            Self::KubeVela => "vela-system",
        }
    }

    /// Its condition in NovaClusterConfig.
    #[must_use]
    pub const fn condition(self) -> &'static str {
        match self {
            Self::Capsule => condition::CAPSULE_READY,
            Self::KubeVela => condition::KUBEVELA_READY,
            Self::CapsuleProxy => condition::CAPSULE_PROXY_READY,
        }
    }

    /// The version this Operator was built and tested with, whose chart is in its image.
    #[must_use]
    pub const fn default_version(self) -> &'static str {
        match self {
            Self::Capsule => capsule::VERSION,
            Self::KubeVela => kubevela::VERSION,
            Self::CapsuleProxy => capsule_proxy::VERSION,
        }
    }

    /// Its Deployment: what is waited for, and what distinguishes an install of others from ours.
    #[must_use]
    pub const fn deployment(self) -> &'static str {
        match self {
            Self::Capsule => "capsule-controller-manager",
            Self::KubeVela => "kubevela-vela-core",
            Self::CapsuleProxy => "capsule-proxy",
        }
    }

    /// The label `app.kubernetes.io/name` its chart puts on that Deployment.
    #[must_use]
    pub const fn app_name(self) -> &'static str {
        match self {
            Self::Capsule => "capsule",
            Self::KubeVela => "vela-core",
            Self::CapsuleProxy => "capsule-proxy",
        }
    }
}

impl std::fmt::Display for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a plan depends on besides the component.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Version to install.
    pub version: String,
    /// Replicas of the controller.
    pub replicas: u32,
    /// The Operator's user name, `system:serviceaccount:<namespace>:kubenova-operator`.
    pub operator_user: String,
    /// The authority every webhook of a component is verified with, PEM.
    pub ca_bundle: String,
    /// Host name under which tenants reach Capsule Proxy, if it is published.
    pub public_host: Option<String>,
    /// Digest of the set of CRDs in the cluster, see [`capsule_proxy::crd_set`].
    pub crd_set: String,
}

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
