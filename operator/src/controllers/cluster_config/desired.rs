//! A component as the spec of NovaClusterConfig configures it.

use kubenova_crds::components::{Component as ComponentSpec, Components};
use kubenova_operator_core::components::{Component, spec};

/// A component as it is configured.
#[derive(Debug, Clone)]
pub(super) struct DesiredComponent<'a> {
    pub(super) component: Component,
    pub(super) components: &'a Components,
    /// The version that was last available; empty when none was.
    pub(super) former_version: String,
    pub(super) crd_set: &'a str,
}

impl DesiredComponent<'_> {
    pub(super) const fn common(&self) -> &ComponentSpec {
        spec::common(self.components, self.component)
    }

    pub(super) fn version(&self) -> &str {
        spec::version(self.components, self.component)
    }
}
