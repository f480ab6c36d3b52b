//! What a pod requests, as the scheduler and ResourceQuota see it.
//!
//! The sum of its containers and sidecars, or the largest step of its init phase if that is more; while a resize is
//! under way the largest of what the spec says, what is allocated and what is in use; pod-level requests in place of
//! the sum; plus overhead. Rounded up once per pod, to millicores and bytes.

use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus},
    apimachinery::pkg::api::resource::Quantity as Text,
};
use kubenova_schema::quantity::{Quantity, QuantityError};
use std::collections::BTreeMap;

/// Effective requests of one pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PodRequests {
    /// Millicores.
    pub cpu_millicores: i128,
    /// Bytes.
    pub memory_bytes: i128,
}

/// Computes them.
///
/// # Errors
/// When a quantity in the pod cannot be read; the API server lets none of these in.
pub fn pod_requests(pod: &Pod) -> Result<PodRequests, QuantityError> {
    Ok(PodRequests {
        cpu_millicores: effective(pod, "cpu")?.milli_rounded_up().max(0),
        memory_bytes: effective(pod, "memory")?.units_rounded_up().max(0),
    })
}

fn effective(pod: &Pod, resource: &str) -> Result<Quantity, QuantityError> {
    let Some(spec) = &pod.spec else { return Ok(Quantity::ZERO) };
    let status = pod.status.as_ref();
    let infeasible = status.is_some_and(resize_is_infeasible);
    let requests = match pod_level(spec, status, infeasible, resource)? {
        Some(of_the_pod) => of_the_pod,
        None => of_containers(spec, status, infeasible, resource)?,
    };
    let overhead = amount(spec.overhead.as_ref(), resource)?.unwrap_or_default();
    Ok(requests.plus(overhead))
}

fn resize_is_infeasible(status: &PodStatus) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible"))
}

/// Requests of the pod as a whole (KEP-2837) take the place of the containers' sum.
fn pod_level(
    spec: &PodSpec,
    status: Option<&PodStatus>,
    infeasible: bool,
    resource: &str,
) -> Result<Option<Quantity>, QuantityError> {
    let requested = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let Some(requested) = amount(requested, resource)? else { return Ok(None) };
    let in_use = status.and_then(|status| status.resources.as_ref()).and_then(|resources| resources.requests.as_ref());
    let allocated = status.and_then(|status| status.allocated_resources.as_ref());
    let actual = amount(in_use, resource)?.max(amount(allocated, resource)?);
    Ok(Some(match actual {
        Some(actual) if infeasible => actual,
        Some(actual) => actual.max(requested),
        None => requested,
    }))
}

/// Which of a container's three numbers to add up.
#[derive(Clone, Copy)]
enum Basis {
    Spec,
    Allocated,
    InUse,
}

fn of_containers(
    spec: &PodSpec,
    status: Option<&PodStatus>,
    infeasible: bool,
    resource: &str,
) -> Result<Quantity, QuantityError> {
    let allocated = aggregate(spec, status, Basis::Allocated, resource)?;
    let in_use = aggregate(spec, status, Basis::InUse, resource)?;
    let actual = allocated.max(in_use);
    if infeasible { Ok(actual) } else { Ok(actual.max(aggregate(spec, status, Basis::Spec, resource)?)) }
}

fn aggregate(
    spec: &PodSpec,
    status: Option<&PodStatus>,
    basis: Basis,
    resource: &str,
) -> Result<Quantity, QuantityError> {
    let statuses = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let init_statuses = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    let mut running = Quantity::ZERO;
    for container in &spec.containers {
        running = running.plus(of_container(container, statuses, basis, resource)?);
    }
    let mut sidecars = Quantity::ZERO;
    let mut init_phase = Quantity::ZERO;
    for container in spec.init_containers.iter().flatten() {
        let is_sidecar = container.restart_policy.as_deref() == Some("Always");
        // An ordinary init container cannot be resized, so only its spec counts.
        let own_basis = if is_sidecar { basis } else { Basis::Spec };
        let own = of_container(container, init_statuses, own_basis, resource)?;
        if is_sidecar {
            running = running.plus(own);
            sidecars = sidecars.plus(own);
            init_phase = init_phase.max(sidecars);
        } else {
            init_phase = init_phase.max(own.plus(sidecars));
        }
    }
    Ok(running.max(init_phase))
}

fn of_container(
    container: &Container,
    statuses: &[ContainerStatus],
    basis: Basis,
    resource: &str,
) -> Result<Quantity, QuantityError> {
    let requested = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let status = statuses.iter().find(|status| status.name == container.name);
    let actual = match basis {
        Basis::Spec => None,
        Basis::Allocated => status.and_then(|status| status.allocated_resources.as_ref()),
        Basis::InUse => {
            status.and_then(|status| status.resources.as_ref()).and_then(|resources| resources.requests.as_ref())
        }
    };
    Ok(amount(actual.or(requested), resource)?.unwrap_or_default())
}

fn amount(list: Option<&BTreeMap<String, Text>>, resource: &str) -> Result<Option<Quantity>, QuantityError> {
    list.and_then(|list| list.get(resource)).map(|text| Quantity::parse(&text.0)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: serde_json::Value) -> (i128, i128) {
        let pod: Pod = serde_json::from_value(json).unwrap();
        let requests = pod_requests(&pod).unwrap();
        (requests.cpu_millicores, requests.memory_bytes)
    }

    fn container(name: &str, cpu: &str) -> serde_json::Value {
        serde_json::json!({"name": name, "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}})
    }

    fn sidecar(name: &str, cpu: &str) -> serde_json::Value {
        let mut json = container(name, cpu);
        json["restartPolicy"] = "Always".into();
        json
    }

    const MI: i128 = 1024 * 1024;

    #[test]
    fn containers_add_up_and_init_phases_do_not() {
        let pod = serde_json::json!({"spec": {
            "containers": [container("a", "100m"), container("b", "200m")],
            "initContainers": [container("i", "250m"), container("j", "50m")],
        }});
        assert_eq!(of(pod), (300, 2 * MI));
        let pod = serde_json::json!({"spec": {"containers": [container("a", "100m")], "initContainers": [container("i", "1")]}});
        assert_eq!(of(pod), (1000, MI));
    }

    #[test]
    fn sidecars_run_beside_what_comes_after_them() {
        // The init container after the sidecar needs 300 + 200; the app needs 100 + 200.
        let pod = serde_json::json!({"spec": {
            "containers": [container("a", "100m")],
            "initContainers": [container("before", "450m"), sidecar("s", "200m"), container("after", "300m")],
        }});
        assert_eq!(of(pod), (500, 2 * MI));
        let pod = serde_json::json!({"spec": {
            "containers": [container("a", "100m")],
            "initContainers": [sidecar("s", "200m"), sidecar("t", "300m")],
        }});
        assert_eq!(of(pod), (600, 3 * MI));
    }

    #[test]
    fn overhead_comes_on_top_and_rounding_happens_once() {
        let pod = serde_json::json!({"spec": {
            "overhead": {"cpu": "10m"},
            "containers": [container("a", "100u"), container("b", "100u")],
        }});
        assert_eq!(of(pod).0, 11);
    }

    #[test]
    fn pod_level_requests_take_the_place_of_the_sum() {
        let pod = serde_json::json!({"spec": {
            "overhead": {"cpu": "10m"},
            "resources": {"requests": {"cpu": "1"}},
            "containers": [container("a", "100m"), container("b", "100m")],
        }});
        assert_eq!(of(pod), (1010, 2 * MI));
    }

    #[test]
    fn a_resize_counts_as_the_largest_of_the_three() {
        let resized = |spec: &str, allocated: &str, in_use: &str, reason: Option<&str>| {
            let conditions: Vec<serde_json::Value> = reason
                .map(|reason| serde_json::json!({"type": "PodResizePending", "status": "True", "reason": reason}))
                .into_iter()
                .collect();
            of(serde_json::json!({
                "spec": {"containers": [container("a", spec)]},
                "status": {"conditions": conditions, "containerStatuses": [{
                    "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                    "allocatedResources": {"cpu": allocated}, "resources": {"requests": {"cpu": in_use}},
                }]},
            }))
            .0
        };
        assert_eq!(resized("500m", "200m", "100m", None), 500);
        assert_eq!(resized("100m", "200m", "300m", None), 300);
        assert_eq!(resized("5", "200m", "100m", Some("Infeasible")), 200);
        assert_eq!(resized("5", "200m", "100m", Some("Deferred")), 5000);
    }

    #[test]
    fn a_pod_without_requests_requests_nothing() {
        assert_eq!(of(serde_json::json!({"spec": {"containers": [{"name": "a"}]}})), (0, 0));
        assert_eq!(of(serde_json::json!({})), (0, 0));
    }

    #[test]
    fn an_unreadable_quantity_is_an_error() {
        let pod: Pod =
            serde_json::from_value(serde_json::json!({"spec": {"containers": [container("a", "much")]}})).unwrap();
        assert!(pod_requests(&pod).is_err());
    }
}
