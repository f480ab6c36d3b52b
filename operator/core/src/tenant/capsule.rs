//! The parts of Capsule's kinds that KubeNova writes and reads. Capsule publishes no Rust types.

use k8s_openapi::{
    api::rbac::v1::Subject,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde::Serialize;
use serde_json::Value;

/// API version of Tenant and TenantOwner.
const V1BETA2: &str = "capsule.clastix.io/v1beta2";

/// The kind that names the accounts of a tenant to Capsule.
pub const TENANT_OWNER: &str = "TenantOwner";

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<S> {
    api_version: &'static str,
    kind: &'static str,
    metadata: ObjectMeta,
    spec: S,
}

/// Spec of a Tenant.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantSpec {
    pub prevent_deletion: bool,
    pub cordoned: bool,
    pub namespace_options: NamespaceOptions,
    pub ingress_options: IngressOptions,
    pub additional_role_bindings: Vec<RoleBinding>,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressOptions {
    /// Among whose Ingresses a host may stand once: `Cluster`, `Tenant`, `Namespace` or `Disabled`.
    pub hostname_collision_scope: &'static str,
}

#[derive(Debug, Clone, Serialize)]
pub struct NamespaceOptions {
    /// Namespaces the Tenant may have.
    pub quota: u32,
}

/// A ClusterRole bound in namespaces of the Tenant.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleBinding {
    pub cluster_role_name: String,
    pub subjects: Vec<Subject>,
}

/// What holds in some of the Tenant's namespaces only.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    pub namespace_selector: LabelSelector,
    pub permissions: Permissions,
}

#[derive(Debug, Clone, Serialize)]
pub struct Permissions {
    pub bindings: Vec<RoleBinding>,
}

/// Spec of a TenantOwner.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantOwnerSpec {
    pub kind: String,
    pub name: String,
    pub aggregate: bool,
    pub cluster_roles: Vec<String>,
}

/// Spec of a ProxySetting.
#[derive(Debug, Clone, Serialize)]
pub struct ProxySettingSpec {
    pub subjects: Vec<ProxySubject>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ProxySubject {
    pub kind: String,
    pub name: String,
}

/// A Tenant as an object.
#[must_use]
pub fn tenant(metadata: ObjectMeta, spec: TenantSpec) -> Value {
    super::to_value(&Object { api_version: V1BETA2, kind: "Tenant", metadata, spec })
}

/// A TenantOwner as an object.
#[must_use]
pub fn tenant_owner(metadata: ObjectMeta, spec: TenantOwnerSpec) -> Value {
    super::to_value(&Object { api_version: V1BETA2, kind: TENANT_OWNER, metadata, spec })
}

/// A ProxySetting as an object.
#[must_use]
pub fn proxy_setting(metadata: ObjectMeta, spec: ProxySettingSpec) -> Value {
    super::to_value(&Object { api_version: "capsule.clastix.io/v1beta1", kind: "ProxySetting", metadata, spec })
}

/// What Capsule says about a Tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CapsuleStatus {
    /// Ready at the present generation.
    pub ready: bool,
    /// The message of its Ready condition when it is not ready.
    pub message: String,
    /// Active, Cordoned or Terminating.
    pub state: String,
    /// Namespaces it lists, with their UIDs.
    pub namespaces: Vec<(String, String)>,
}

impl CapsuleStatus {
    /// Reads a live Tenant.
    #[must_use]
    pub fn of(live: &Value) -> Self {
        let status = &live["status"];
        let ready =
            status["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == "Ready");
        let observed = status["observedGeneration"].as_i64();
        // Not every release of Capsule writes observedGeneration; where it does it must be the present one.
        let current = observed.is_none() || observed == live["metadata"]["generation"].as_i64();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            ready: current && ready.is_some_and(|condition| condition["status"] == "True"),
            // A Ready Tenant that is being deleted still says "reconciled", which explains nothing.
            message: ready
                .filter(|condition| condition["status"] != "True")
                .map(|condition| text(&condition["message"]))
                .unwrap_or_default(),
            state: text(&status["state"]),
            namespaces: status["spaces"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|space| (text(&space["name"]), text(&space["uid"])))
                .collect(),
        }
    }

    /// True when this namespace belongs to the Tenant.
    #[must_use]
    pub fn lists(&self, namespace: &str) -> bool {
        self.namespaces.iter().any(|(listed, _)| listed == namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn capsule_is_ready_only_at_the_present_generation() {
        let live = |observed: i64| {
            json!({"metadata":{"generation":2},"status":{"observedGeneration":observed,"state":"Active",
            "conditions":[{"type":"Ready","status":"True"}],"spaces":[{"name":"acme-apps","uid":"u"}]}})
        };
        assert!(CapsuleStatus::of(&live(2)).ready);
        assert!(!CapsuleStatus::of(&live(1)).ready);
        assert_eq!(CapsuleStatus::of(&live(2)).namespaces, [("acme-apps".to_owned(), "u".to_owned())]);
        assert!(CapsuleStatus::of(&live(2)).lists("acme-apps"));
        assert!(!CapsuleStatus::of(&live(2)).lists("acme-owner"));
    }
}
