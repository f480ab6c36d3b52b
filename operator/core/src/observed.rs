//! The status of our own kinds as it is reported: conditions, and the newest revision they are about.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Resource, ResourceExt as _};
use kubenova_crds::{
    cluster_config::{ComponentHealth, NovaClusterConfig},
    labels,
    tenant::NovaTenant,
};
use kubenova_schema::{
    kinds::ObjectKey,
    v1::{self, ObjectStatus},
};
use serde::Serialize;

/// The revision of the command that last wrote an object; 0 when none did.
#[must_use]
pub fn revision_of<K: Resource>(object: &K) -> u64 {
    object.annotations().get(labels::REVISION).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The id of the command that last wrote an object.
#[must_use]
pub fn command_of<K: Resource>(object: &K) -> &str {
    object.annotations().get(labels::COMMAND_ID).map_or("", String::as_str)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterConfigDetail<'a> {
    components_ready: &'a str,
    components: Vec<ComponentDetail<'a>>,
    operator_version: &'a str,
    certificate_expires: &'a str,
    transport: &'a str,
    observed_generation: Option<i64>,
    generation: Option<i64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ComponentDetail<'a> {
    name: &'a str,
    desired_version: &'a str,
    version: &'a str,
    health: Option<ComponentHealth>,
    unsettled_since: &'a str,
    last_error: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TenantDetail<'a> {
    name: &'a str,
    tenant_state: &'a str,
    namespaces_ready: &'a str,
    namespaces: Vec<&'a str>,
    deleting: bool,
    observed_generation: Option<i64>,
    generation: Option<i64>,
}

fn to_json(detail: &impl Serialize) -> String {
    serde_json::to_string(detail).expect("a struct of texts, numbers and lists is JSON")
}

/// Status of the cluster's configuration; none for an object of another name, which configures nothing.
#[must_use]
pub fn cluster_config(config: &NovaClusterConfig) -> Option<ObjectStatus> {
    if config.name_any() != kubenova_crds::cluster_config::NAME {
        return None;
    }
    let status = config.status.clone().unwrap_or_default();
    let components = status.components.iter().map(|component| ComponentDetail {
        name: &component.name,
        desired_version: &component.desired_version,
        version: &component.version,
        health: component.health,
        unsettled_since: &component.unsettled_since,
        last_error: &component.last_error,
    });
    let detail = ClusterConfigDetail {
        components_ready: &status.components_ready,
        components: components.collect(),
        operator_version: &status.operator_version,
        certificate_expires: &status.certificate_expires,
        transport: &status.transport,
        observed_generation: status.observed_generation,
        generation: config.metadata.generation,
    };
    Some(ObjectStatus {
        key: ObjectKey::ClusterConfig.to_string(),
        revision: revision_of(config),
        absent: false,
        conditions: status.conditions.iter().map(condition).collect(),
        detail: to_json(&detail),
    })
}

/// Status of a tenant.
#[must_use]
pub fn tenant(tenant: &NovaTenant) -> ObjectStatus {
    let status = tenant.status.clone().unwrap_or_default();
    let name = tenant.name_any();
    let detail = TenantDetail {
        name: &name,
        tenant_state: &status.tenant_state,
        namespaces_ready: &status.namespaces_ready,
        namespaces: status.namespaces.iter().map(|namespace| namespace.name.as_str()).collect(),
        deleting: tenant.metadata.deletion_timestamp.is_some(),
        observed_generation: status.observed_generation,
        generation: tenant.metadata.generation,
    };
    ObjectStatus {
        key: tenant_key(&tenant.spec.tenant_id),
        revision: revision_of(tenant),
        absent: false,
        conditions: status.conditions.iter().map(condition).collect(),
        detail: to_json(&detail),
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

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::{
        cluster_config::{ClusterConfigSpec, ClusterConfigStatus, ComponentStatus},
        tenant::{TenantNamespace, TenantSpec, TenantStatus},
    };

    #[test]
    fn the_details_have_the_fields_the_manager_reads() {
        let mut config = NovaClusterConfig::new("default", ClusterConfigSpec::default());
        config.metadata.generation = Some(2);
        config.status = Some(ClusterConfigStatus {
            components_ready: "1/3".into(),
            components: vec![ComponentStatus {
                name: "capsule".into(),
                version: "1".into(),
                health: Some(ComponentHealth::Healthy),
                ..ComponentStatus::default()
            }],
            ..ClusterConfigStatus::default()
        });
        assert_eq!(
            cluster_config(&config).unwrap().detail,
            r#"{"componentsReady":"1/3","components":[{"name":"capsule","desiredVersion":"","version":"1","health":"Healthy","unsettledSince":"","lastError":""}],"operatorVersion":"","certificateExpires":"","transport":"","observedGeneration":null,"generation":2}"#
        );
        let mut acme = NovaTenant::new("acme", TenantSpec { tenant_id: "id".into(), ..TenantSpec::default() });
        acme.status = Some(TenantStatus {
            namespaces: vec![TenantNamespace { name: "acme-apps".into(), uid: "u".into() }],
            ..TenantStatus::default()
        });
        assert_eq!(
            tenant(&acme).detail,
            r#"{"name":"acme","tenantState":"","namespacesReady":"","namespaces":["acme-apps"],"deleting":false,"observedGeneration":null,"generation":null}"#
        );
    }

    #[test]
    fn a_configuration_of_another_name_is_not_reported() {
        assert_eq!(cluster_config(&NovaClusterConfig::new("other", ClusterConfigSpec::default())), None);
    }
}
