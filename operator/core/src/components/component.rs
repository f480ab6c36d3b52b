//! The three components: names, places and versions.

use kubenova_crds::cluster_config::condition;

/// Versions whose charts are in the Operator's image.
const CAPSULE_VERSION: &str = "0.14.0";
const KUBEVELA_VERSION: &str = "1.10.9";
const CAPSULE_PROXY_VERSION: &str = "0.14.0";

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
            Self::Capsule => "capsule-system",
            Self::KubeVela => "vela-system",
            // It may say whom it speaks for, so its namespace holds nothing else.
            Self::CapsuleProxy => "capsule-proxy-system",
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
            Self::Capsule => CAPSULE_VERSION,
            Self::KubeVela => KUBEVELA_VERSION,
            Self::CapsuleProxy => CAPSULE_PROXY_VERSION,
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

    /// The ServiceAccount its controller runs as, in its namespace.
    #[must_use]
    pub const fn service_account(self) -> &'static str {
        match self {
            Self::Capsule => "capsule",
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
