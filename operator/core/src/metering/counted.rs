//! Which objects count, and for how much: the rule of ResourceQuota, so that figures can be checked against the cluster.
//!
//! A pod counts from its creation, scheduled or not, until it is Succeeded or Failed, gone, or past its deletion time
//! plus grace. A namespace counts from when it has the tenant's label, an Application while it exists.

use super::{
    Levels,
    observed::{Observation, TenantRef},
    pod_requests::pod_requests,
};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kubenova_crds::labels;
use kubenova_schema::{meters::Meter, quantity::QuantityError};
use uuid::Uuid;

/// A pod as the meters see it.
///
/// # Errors
/// When a quantity in it cannot be read.
pub fn pod(pod: &Pod) -> Result<Observation, QuantityError> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let levels = if matches!(phase, "Succeeded" | "Failed") {
        Levels::ZERO
    } else {
        let requests = pod_requests(pod)?;
        Levels::only(Meter::Pods, 1)
            .with(Meter::CpuRequests, requests.cpu_millicores)
            .with(Meter::MemoryRequests, requests.memory_bytes)
    };
    let mut observation = observation(&pod.metadata, levels);
    observation.until_ms = counted_until_ms(&pod.metadata);
    Ok(observation)
}

/// A KubeVela Application as the meters see it.
#[must_use]
pub fn application(metadata: &ObjectMeta) -> Observation {
    observation(metadata, Levels::only(Meter::Applications, 1))
}

/// A namespace as the meters see it; its label assigns the pods and Applications in it to a tenant. A label that is no tenant's
/// id is as good as none: whoever may label a namespace must not be able to make a window that cannot be counted.
#[must_use]
pub fn namespace(metadata: &ObjectMeta) -> Observation {
    let label =
        |name: &str| metadata.labels.as_ref().and_then(|labels| labels.get(name)).filter(|text| !text.is_empty());
    let mut observation = observation(metadata, Levels::only(Meter::Namespaces, 1));
    observation.namespace = metadata.name.clone().unwrap_or_default();
    observation.tenant = label(labels::TENANT_ID)
        .filter(|id| is_tenant_id(id))
        .map(|id| TenantRef { id: id.clone(), name: label(labels::TENANT).cloned().unwrap_or_default() });
    observation
}

/// A UUID as the Manager writes it.
fn is_tenant_id(text: &str) -> bool {
    Uuid::try_parse(text).is_ok_and(|id| id.to_string() == text)
}

fn observation(metadata: &ObjectMeta, levels: Levels) -> Observation {
    Observation {
        uid: metadata.uid.clone().unwrap_or_default(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        resource_version: resource_version(metadata),
        created_ms: metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_millisecond()),
        until_ms: None,
        tenant: None,
        levels,
    }
}

/// The object's version as a number; the API server promises that they compare as such.
#[must_use]
pub fn resource_version(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// A pod that should be gone by now is not charged, whatever its kubelet does.
fn counted_until_ms(metadata: &ObjectMeta) -> Option<i64> {
    let deletion = metadata.deletion_timestamp.as_ref()?.0.as_millisecond();
    let grace = metadata.deletion_grace_period_seconds?;
    Some(deletion.saturating_add(grace.max(0).saturating_mul(1000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighted(phase: &str, deletion: Option<&str>) -> Observation {
        let mut json = serde_json::json!({
            "metadata": {"uid": "u", "namespace": "n", "resourceVersion": "42", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "1", "memory": "2"}}}]},
            "status": {"phase": phase},
        });
        if let Some(deletion) = deletion {
            json["metadata"]["deletionTimestamp"] = deletion.into();
            json["metadata"]["deletionGracePeriodSeconds"] = 30.into();
        }
        pod(&serde_json::from_value(json).unwrap()).unwrap()
    }

    #[test]
    fn pending_and_unknown_pods_count_and_finished_ones_do_not() {
        for phase in ["Pending", "Running", "Unknown", ""] {
            assert_eq!(sighted(phase, None).levels, Levels([1000, 2, 1, 0, 0]), "{phase}");
        }
        for phase in ["Succeeded", "Failed"] {
            assert!(sighted(phase, None).levels.is_zero(), "{phase}");
        }
    }

    #[test]
    fn only_a_tenants_id_assigns_a_namespace() {
        let id = "01939c5e-0000-7000-8000-000000000001";
        let upper = id.to_uppercase();
        let simple = id.replace('-', "");
        for (label, counts) in [(id, true), ("x", false), ("", false), (&*upper, false), (&*simple, false)] {
            let labels = [(labels::TENANT_ID.to_owned(), label.to_owned())].into();
            let metadata = ObjectMeta { labels: Some(labels), ..ObjectMeta::default() };
            let tenant = namespace(&metadata).tenant.map(|tenant| tenant.id);
            assert_eq!(tenant, counts.then(|| id.to_owned()), "{label}");
        }
    }

    #[test]
    fn a_pod_being_deleted_counts_until_its_grace_is_over() {
        let created = sighted("Running", None).created_ms;
        assert_eq!(sighted("Running", Some("2026-01-01T00:01:00Z")).until_ms, Some(created + 90_000));
        assert_eq!(sighted("Running", None).until_ms, None);
    }
}
