//! NovaTenant: a tenant on this cluster. The object's name is the tenant's name; its id never changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Conditions, in the order in which a tenant is set up.
pub mod condition {
    /// The Capsule Tenant is ready and lists both namespaces.
    pub const CAPSULE_TENANT_READY: &str = "CapsuleTenantReady";
    /// `<t>-owner` and `<t>-apps` exist and belong to the tenant.
    pub const NAMESPACES_READY: &str = "NamespacesReady";
    /// ServiceAccounts and role bindings are in place.
    pub const RBAC_READY: &str = "RBACReady";
    /// Quota and limits are in place.
    pub const QUOTA_APPLIED: &str = "QuotaApplied";
    /// Present while the tenant is being deleted; its message names what still blocks it.
    pub const DELETING: &str = "Deleting";
    /// All conditions above are True.
    pub const READY: &str = "Ready";
}

/// Desired state of the tenant on this cluster.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubenova.io",
    version = "v1alpha1",
    kind = "NovaTenant",
    plural = "novatenants",
    shortname = "novat",
    category = "kubenova",
    doc = "A tenant on this cluster: two namespaces (<name>-owner and <name>-apps), a quota, roles and network isolation. Managed by KubeNova; change it through the Manager.",
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
    /// Id of the tenant at the Manager (UUIDv7). Never changes.
    pub tenant_id: String,
    /// Quota of the namespace `<name>-apps`.
    #[serde(default)]
    pub quota: TenantQuota,
    /// Pod security level enforced in the namespace `<name>-apps`.
    #[serde(default)]
    pub pod_security: PodSecurity,
}

/// Quota in Kubernetes quantities, as in a ResourceQuota.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantQuota {
    /// Sum of the CPU requests of all pods (`requests.cpu`).
    pub cpu: String,
    /// Sum of the memory requests of all pods (`requests.memory`).
    pub memory: String,
    /// Number of pods.
    #[schemars(with = "i32", range(min = 0))]
    pub pods: u32,
}

impl Default for TenantQuota {
    fn default() -> Self {
        Self { cpu: "8".to_owned(), memory: "16Gi".to_owned(), pods: 50 }
    }
}

/// Level of Kubernetes pod security admission.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PodSecurity {
    /// No privileged pods; violations of `restricted` cause warnings only.
    #[default]
    Baseline,
    /// The strictest level.
    Restricted,
}

/// Observed state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantStatus {
    /// Generation of the spec that the conditions describe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// CapsuleTenantReady, NamespacesReady, RBACReady, QuotaApplied and Ready; Deleting while the tenant is being deleted.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// State of the Capsule Tenant: Active, Cordoned or Terminating.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant_state: String,
    /// Namespaces that are ready, such as `2/2`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespaces_ready: String,
    /// Namespaces of the tenant.
    #[serde(default)]
    pub namespaces: Vec<TenantNamespace>,
    /// Capsule Tenant, namespaces and TenantOwners of the tenant, as they were last seen with its label. An object with one of these
    /// UIDs belongs to the tenant also when the label is gone, which is then written again.
    #[serde(default)]
    pub objects: Vec<TenantObject>,
}

/// An object of the tenant that has no namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantObject {
    /// Kind of the object: Tenant, Namespace or TenantOwner.
    pub kind: String,
    /// Name of the object.
    pub name: String,
    /// UID of the object.
    pub uid: String,
}

/// A namespace of the tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantNamespace {
    /// Name of the namespace.
    pub name: String,
    /// UID of the namespace.
    pub uid: String,
}
