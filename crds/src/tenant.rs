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
    /// Every application of the tenant is ready; absent while it has none. It is no part of `Ready`, which is about what KubeNova makes.
    pub const APPLICATIONS_READY: &str = "ApplicationsReady";
    /// Present while the tenant is being deleted; its message names what still blocks it.
    pub const DELETING: &str = "Deleting";
    /// The Capsule Tenant, namespaces, roles and quota are in place.
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
    validation = Rule::new("size(self.metadata.name) <= 57 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("the name of a tenant has at most 57 lower-case letters, digits and dashes and begins with a letter, because the namespaces <name>-owner and <name>-apps are named after it; create the tenant through the Manager, with another name"),
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Tenant-State","type":"string","jsonPath":".status.tenantState"}"#,
    printcolumn = r#"{"name":"Namespaces","type":"string","jsonPath":".status.namespacesReady"}"#,
    printcolumn = r#"{"name":"Apps","type":"string","jsonPath":".status.applicationsReady"}"#,
    printcolumn = r#"{"name":"Quota","type":"string","jsonPath":".status.quotaUsed"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Pod-Security","type":"string","priority":1,"jsonPath":".spec.podSecurity"}"#,
    printcolumn = r#"{"name":"Generation","type":"integer","priority":1,"jsonPath":".metadata.generation"}"#,
    printcolumn = r#"{"name":"Command","type":"string","priority":1,"jsonPath":".metadata.annotations.kubenova\\.io/command-id"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#,
    printcolumn = r#"{"name":"Tenant-Id","type":"string","priority":1,"jsonPath":".spec.tenantId"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TenantSpec {
    /// Id of the tenant at the Manager (UUIDv7). Never changes.
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = [
        {
            "rule": "self.matches('^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')",
            "message": "tenantId is the id that the Manager gave the tenant, a UUID in lower case; create the tenant through the Manager instead of by hand",
        },
        {
            "rule": "self == oldSelf",
            "message": "tenantId never changes, since namespaces and usage belong to this id; a tenant of another id is another NovaTenant: create it through the Manager, with another name",
        },
    ]))]
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
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = [{
        "rule": "isQuantity(self) && !quantity(self).isLessThan(quantity('0'))",
        "message": "cpu is a Kubernetes quantity of zero or more, such as 500m or 8; change the tenant's quota through the Manager",
    }]))]
    pub cpu: String,
    /// Sum of the memory requests of all pods (`requests.memory`).
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = [{
        "rule": "isQuantity(self) && !quantity(self).isLessThan(quantity('0'))",
        "message": "memory is a Kubernetes quantity of zero or more, such as 512Mi or 16Gi; change the tenant's quota through the Manager",
    }]))]
    pub memory: String,
    /// Number of pods.
    #[schemars(with = "i32", range(min = 0, max = 100_000))]
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
    /// Ready first, with what to fix when it is False; then what it sums up, in the order in which a tenant is set up: CapsuleTenantReady,
    /// NamespacesReady, RBACReady and QuotaApplied. ApplicationsReady names an application that is not ready; Deleting, while the tenant is being deleted,
    /// what still blocks it.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// State of the Capsule Tenant: Active, Cordoned or Terminating.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant_state: String,
    /// Namespaces that Capsule has in the tenant, of the two it needs, such as `2/2`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespaces_ready: String,
    /// Applications that are ready, of those the tenant has here, such as `1/2`. Empty until they have been listed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub applications_ready: String,
    /// How much of the quota is used, of the resource that is nearest to its end, such as `75% cpu`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub quota_used: String,
    /// Namespaces of the tenant.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
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
