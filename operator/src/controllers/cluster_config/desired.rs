//! A component as the spec of NovaClusterConfig configures it.

use kubenova_operator_core::components::Component;

/// A component as it is configured.
#[derive(Debug, Clone)]
pub(super) struct DesiredComponent {
    pub(super) component: Component,
    pub(super) version: String,
    pub(super) adopt: bool,
    pub(super) replicas: u32,
    pub(super) public_url: String,
    pub(super) crd_set: String,
    pub(super) inventory: Vec<String>,
}
