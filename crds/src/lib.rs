//! The custom resources of `kubenova.io/v1alpha1`.
//!
//! Conditions instead of phases; `observedGeneration` in status and in every condition; printer columns for kubectl.
//! The YAML in the Operator's chart is generated from here by `cargo dev gen`. No controller installs these: they come
//! with the chart.

// Others read these types without their code: every public item says what it means.
#![warn(missing_docs)]

pub mod cluster_config;
pub mod command;
pub mod components;
pub mod conditions;
pub mod tenant;
pub mod usage_report;

/// API group of every kind here.
pub const GROUP: &str = "kubenova.io";
/// Where the namespaced kinds and the Operator itself live.
pub const SYSTEM_NAMESPACE: &str = "kubenova-system";

/// Field manager of every server-side apply by the Operator.
pub const FIELD_MANAGER: &str = "kubenova";

/// Labels and annotations.
pub mod labels {
    /// Tenant id on everything that belongs to a tenant.
    pub const TENANT_ID: &str = "kubenova.io/tenant-id";
    /// Tenant name on everything that belongs to a tenant.
    pub const TENANT: &str = "kubenova.io/tenant";
    /// KubeVela project, equal to the tenant's name.
    pub const PROJECT: &str = "kubenova.io/project";
    /// Application name.
    pub const APPLICATION: &str = "kubenova.io/application";
    /// Revision of the command that last wrote the object (annotation).
    pub const REVISION: &str = "kubenova.io/revision";
    /// Id of the command that last wrote the object (annotation).
    pub const COMMAND_ID: &str = "kubenova.io/command-id";
    /// W3C trace context of the request whose command last wrote the object (annotation).
    pub const TRACEPARENT: &str = "kubenova.io/traceparent";
    /// `<component>-<version>` on RBAC that the chart ships for a component.
    pub const FOR_COMPONENT: &str = "kubenova.io/for";
    /// Capsule's tenant label on namespaces.
    pub const CAPSULE_TENANT: &str = "capsule.clastix.io/tenant";
}

/// All definitions, for the generator and for tests.
#[must_use]
pub fn all() -> Vec<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> {
    use kube::CustomResourceExt as _;
    vec![
        cluster_config::NovaClusterConfig::crd(),
        command::NovaCommand::crd(),
        tenant::NovaTenant::crd(),
        usage_report::NovaUsageReport::crd(),
    ]
}
