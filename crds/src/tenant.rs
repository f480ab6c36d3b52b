//! NovaTenant: a tenant on this cluster. Its name is the tenant's name; its id never changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Conditions, in the order in which a tenant comes to be.
pub mod condition {
    /// The Capsule Tenant is Ready and lists both namespaces.
    pub const CAPSULE_TENANT_READY: &str = "CapsuleTenantReady";
    /// `<t>-owner` and `<t>-apps` exist and belong to the tenant.
    pub const NAMESPACES_READY: &str = "NamespacesReady";
    /// ServiceAccounts and role bindings are in place.
    pub const RBAC_READY: &str = "RBACReady";
    /// Quota and limits are in place.
    pub const QUOTA_APPLIED: &str = "QuotaApplied";
    /// Present while the tenant is being removed; names each blocker.
    pub const DELETING: &str = "Deleting";
    /// All of the above.
    pub const READY: &str = "Ready";
}

/// What the tenant should have here.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubenova.io",
    version = "v1alpha1",
    kind = "NovaTenant",
    plural = "novatenants",
    shortname = "novat",
    category = "kubenova",
    status = "TenantStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Tenant-State","type":"string","jsonPath":".status.tenantState"}"#,
    printcolumn = r#"{"name":"Namespaces","type":"string","jsonPath":".status.namespacesReady"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Tenant-Id","type":"string","priority":1,"jsonPath":".spec.tenantId"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TenantSpec {
    /// The Manager's id of the tenant (UUIDv7).
    pub tenant_id: String,
    /// Limits in `<t>-apps`.
    #[serde(default)]
    pub quota: TenantQuota,
    /// Pod security of `<t>-apps`.
    #[serde(default)]
    pub pod_security: PodSecurity,
}

/// Kubernetes quantities, as in a ResourceQuota.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantQuota {
    /// `requests.cpu`.
    pub cpu: String,
    /// `requests.memory`.
    pub memory: String,
    /// `pods`.
    pub pods: u32,
}

impl Default for TenantQuota {
    fn default() -> Self {
        Self { cpu: "8".to_owned(), memory: "16Gi".to_owned(), pods: 50 }
    }
}

/// Level of pod security admission that is enforced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PodSecurity {
    /// No privileged pods; what would break `restricted` is warned about.
    #[default]
    Baseline,
    /// The strictest level.
    Restricted,
}

/// What the tenant has here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantStatus {
    /// Generation the conditions speak about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// See [`condition`].
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// State of the Capsule Tenant: Active, Cordoned or Terminating.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant_state: String,
    /// `2/2`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespaces_ready: String,
    /// UIDs of the namespaces, for people.
    #[serde(default)]
    pub namespaces: Vec<TenantNamespace>,
}

/// A namespace of the tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantNamespace {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}
