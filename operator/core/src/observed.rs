//! What is said about our own kinds: conditions, and the newest revision they speak about.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Resource, ResourceExt as _};
use kubenova_crds::{cluster_config::NovaClusterConfig, labels, tenant::NovaTenant};
use kubenova_schema::{
    kinds::ObjectKey,
    v1::{self, ObjectStatus},
};
use serde_json::json;

/// The revision of the order that last wrote an object; 0 when none did.
#[must_use]
pub fn revision_of<K: Resource>(object: &K) -> u64 {
    object.annotations().get(labels::REVISION).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The id of the command that last wrote an object.
#[must_use]
pub fn command_of<K: Resource>(object: &K) -> &str {
    object.annotations().get(labels::COMMAND_ID).map_or("", String::as_str)
}

/// Status of the cluster's configuration.
#[must_use]
pub fn cluster_config(config: &NovaClusterConfig) -> Option<ObjectStatus> {
    let status = config.status.clone().unwrap_or_default();
    let detail = json!({
        "componentsReady": status.components_ready,
        "components": status.components.iter().map(|component| json!({
            "name": component.name,
            "desiredVersion": component.desired_version,
            "version": component.version,
        })).collect::<Vec<_>>(),
        "operatorVersion": status.operator_version,
        "certificateExpires": status.certificate_expires,
        "observedGeneration": status.observed_generation,
        "generation": config.metadata.generation,
    });
    (config.name_any() == kubenova_crds::cluster_config::NAME).then(|| ObjectStatus {
        key: ObjectKey::ClusterConfig.to_string(),
        revision: revision_of(config),
        absent: false,
        conditions: status.conditions.iter().map(condition).collect(),
        detail: detail.to_string(),
    })
}

/// Status of a tenant.
#[must_use]
pub fn tenant(tenant: &NovaTenant) -> ObjectStatus {
    let status = tenant.status.clone().unwrap_or_default();
    let detail = json!({
        "name": tenant.name_any(),
        "tenantState": status.tenant_state,
        "namespacesReady": status.namespaces_ready,
        "namespaces": status.namespaces.iter().map(|namespace| &namespace.name).collect::<Vec<_>>(),
        "deleting": tenant.metadata.deletion_timestamp.is_some(),
        "observedGeneration": status.observed_generation,
        "generation": tenant.metadata.generation,
    });
    ObjectStatus {
        key: tenant_key(&tenant.spec.tenant_id),
        revision: revision_of(tenant),
        absent: false,
        conditions: status.conditions.iter().map(condition).collect(),
        detail: detail.to_string(),
    }
}

/// Key of a tenant.
#[must_use]
pub fn tenant_key(tenant_id: &str) -> String {
    ObjectKey::Tenant { tenant_id: tenant_id.to_owned() }.to_string()
}

fn condition(condition: &Condition) -> v1::Condition {
    v1::Condition {
        r#type: condition.type_.clone(),
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        last_transition_time: condition.last_transition_time.0.to_string(),
        observed_generation: condition.observed_generation.unwrap_or_default(),
    }
}
