//! What the components are planned from: what is configured, and what they need to know of the cluster.

use super::{component::Component, public_url, spec};
use kubenova_crds::components::{Component as ComponentSpec, Components};

/// What a plan depends on besides the component.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What is configured.
    pub components: Components,
    /// Namespace of the Operator.
    pub state_namespace: String,
    /// The Operator's user name, `system:serviceaccount:<namespace>:kubenova-operator`.
    pub operator_user: String,
    /// The authority every webhook of a component is verified with, PEM.
    pub ca_bundle: String,
    /// Digest of the set of CRDs in the cluster, see `capsule_proxy::crd_set`.
    pub crd_set: String,
}

impl Settings {
    /// The part that every component has.
    #[must_use]
    pub const fn common(&self, component: Component) -> &ComponentSpec {
        spec::common(&self.components, component)
    }

    /// Version to install.
    #[must_use]
    pub fn version(&self, component: Component) -> &str {
        spec::version(&self.components, component)
    }

    /// Replicas of the controller.
    #[must_use]
    pub fn replicas(&self, component: Component) -> u32 {
        self.common(component).replicas.max(1)
    }

    /// Host name under which tenants reach Capsule Proxy, if it is published.
    #[must_use]
    pub fn public_host(&self) -> Option<String> {
        public_url::host(&self.components.capsule_proxy.public_url)
    }
}
