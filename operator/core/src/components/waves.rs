//! The order in which a component's objects are applied, and when a workload counts as available.
//!
//! CRDs before their objects; settings and certificates before the process that reads them; webhooks only once
//! something answers them, or they would refuse the definitions that follow; definitions last, through the webhooks.

use super::{Component, object::Key, render::is_webhook_configuration};
use serde_json::Value;

/// One step of applying a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wave {
    /// CRDs; waited for until the API server serves them.
    Definitions,
    /// ServiceAccounts, ConfigMaps, Services and Capsule's own settings, which it reads when it starts.
    Configuration,
    /// Secrets with serving certificates; the controller makes them, the chart renders none.
    Certificates,
    /// Deployments; waited for until they are available.
    Workloads,
    /// Webhook configurations.
    Webhooks,
    /// Objects of the component's own kinds.
    Resources,
}

impl Wave {
    /// All, in order.
    pub const ALL: [Self; 6] =
        [Self::Definitions, Self::Configuration, Self::Certificates, Self::Workloads, Self::Webhooks, Self::Resources];

    /// The wave of an object.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        let Some(key) = Key::of(object) else { return Self::Resources };
        match (key.group.as_str(), key.kind.as_str()) {
            ("apiextensions.k8s.io", _) => Self::Definitions,
            ("", "Secret") => Self::Certificates,
            ("apps" | "batch", _) => Self::Workloads,
            _ if is_webhook_configuration(object) => Self::Webhooks,
            // Without its settings Capsule would make default ones, without administrators.
            ("capsule.clastix.io", "CapsuleConfiguration") => Self::Configuration,
            (group, _) if is_built_in(group) => Self::Configuration,
            _ => Self::Resources,
        }
    }
}

/// True for the API groups that are Kubernetes' own.
pub(super) fn is_built_in(group: &str) -> bool {
    group.is_empty() || group.ends_with(".k8s.io") || matches!(group, "apps" | "autoscaling" | "batch" | "policy")
}

/// The objects of each wave, in order; inside a wave in the order they came.
#[must_use]
pub fn sort(objects: Vec<Value>) -> Vec<(Wave, Vec<Value>)> {
    let mut waves: Vec<(Wave, Vec<Value>)> = Wave::ALL.into_iter().map(|wave| (wave, Vec::new())).collect();
    for object in objects {
        let wave = Wave::of(&object);
        if let Some((_, members)) = waves.iter_mut().find(|(candidate, _)| *candidate == wave) {
            members.push(object);
        }
    }
    waves
}

/// True when a CRD is served.
#[must_use]
pub fn is_established(crd: &Value) -> bool {
    let conditions = crd.pointer("/status/conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

/// Whether a Deployment runs its present generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// Every replica of the last generation is available.
    Available,
    /// Not yet, and why.
    Waiting(String),
}

/// Why the controller of a component is not available, as the message of its condition: what its pods say, whether the former
/// version still serves, and what to do.
#[must_use]
pub fn not_available(component: Component, deployment: &str, why: &str, former: Option<&Former>) -> String {
    let serving = match former {
        Some(former) if former.available > 0 => {
            format!("; version {} goes on serving with {} replicas", former.version, former.available)
        }
        _ => String::new(),
    };
    format!(
        "Deployment {}/{deployment} of {} is not available: {why}{serving}; correct spec.components.{} (version, images, \
         resources, placement) or send the former configuration again; see: kubectl -n {} describe pods",
        component.namespace(),
        component.title(),
        component.spec_key(),
        component.namespace(),
    )
}

/// What ran before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    /// Its version.
    pub version: String,
    /// Pods of the Deployment that are available.
    pub available: i64,
}

/// Reads a Deployment's status.
#[must_use]
pub fn availability(deployment: &Value) -> Availability {
    let number = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_i64);
    let desired = number("/spec/replicas").unwrap_or(1);
    let count = |field: &str| number(&format!("/status/{field}")).unwrap_or(0);
    if number("/status/observedGeneration").unwrap_or(0) < number("/metadata/generation").unwrap_or(0) {
        return Availability::Waiting("the Deployment controller has not seen the change yet".to_owned());
    }
    let conditions = deployment.pointer("/status/conditions").and_then(Value::as_array);
    let failure = conditions.into_iter().flatten().find(|condition| {
        let failed = condition["type"] == "ReplicaFailure" && condition["status"] == "True";
        failed || (condition["type"] == "Progressing" && condition["status"] == "False")
    });
    let (updated, available) = (count("updatedReplicas"), count("availableReplicas"));
    if updated >= desired && available >= desired && count("replicas") <= desired {
        return Availability::Available;
    }
    let reason = failure.and_then(|condition| condition["message"].as_str());
    Availability::Waiting(match reason {
        Some(reason) => format!("{available} of {desired} replicas are available: {reason}"),
        None => format!("{available} of {desired} replicas are available"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(api_version: &str, kind: &str) -> Value {
        json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": kind.to_ascii_lowercase()}})
    }

    #[test]
    fn objects_are_applied_in_the_order_that_works() {
        let shuffled = vec![
            object("core.oam.dev/v1beta1", "TraitDefinition"),
            object("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
            object("apps/v1", "Deployment"),
            object("capsule.clastix.io/v1beta2", "CapsuleConfiguration"),
            object("v1", "Secret"),
            object("v1", "Service"),
            object("policy/v1", "PodDisruptionBudget"),
            object("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ];
        let order: Vec<(Wave, Vec<String>)> = sort(shuffled)
            .into_iter()
            .map(|(wave, objects)| (wave, objects.iter().map(|o| o["kind"].as_str().unwrap().to_owned()).collect()))
            .collect();
        let names = |kinds: &[&str]| kinds.iter().map(|kind| (*kind).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            order,
            [
                (Wave::Definitions, names(&["CustomResourceDefinition"])),
                (Wave::Configuration, names(&["CapsuleConfiguration", "Service", "PodDisruptionBudget"])),
                (Wave::Certificates, names(&["Secret"])),
                (Wave::Workloads, names(&["Deployment"])),
                (Wave::Webhooks, names(&["ValidatingWebhookConfiguration"])),
                (Wave::Resources, names(&["TraitDefinition"])),
            ]
        );
    }

    #[test]
    fn a_crd_is_established_by_its_condition() {
        assert!(!is_established(&json!({})));
        assert!(!is_established(&json!({"status": {"conditions": [{"type": "Established", "status": "False"}]}})));
        assert!(is_established(&json!({"status": {"conditions": [{"type": "Established", "status": "True"}]}})));
    }

    #[test]
    fn a_deployment_is_available_when_all_replicas_of_the_last_generation_are() {
        let mut deployment = json!({
            "metadata": {"generation": 2}, "spec": {"replicas": 2},
            "status": {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
        });
        assert_eq!(availability(&deployment), Availability::Available);
        deployment["status"]["replicas"] = json!(3);
        assert!(matches!(availability(&deployment), Availability::Waiting(_)), "an old pod still runs");
        deployment["status"]["replicas"] = json!(2);
        deployment["status"]["observedGeneration"] = json!(1);
        assert!(matches!(availability(&deployment), Availability::Waiting(_)));
    }

    #[test]
    fn a_broken_version_is_named_beside_the_one_that_serves() {
        let message = |available| {
            let former = Former { version: "0.14.0".to_owned(), available };
            not_available(Component::Capsule, "capsule-controller-manager", "Pod a: ImagePullBackOff", Some(&former))
        };
        assert!(message(1).contains(
            "ImagePullBackOff; version 0.14.0 goes on serving with 1 replicas; correct spec.components.capsule"
        ));
        assert!(!message(0).contains("serving"));
    }

    #[test]
    fn the_reason_of_a_deployment_that_does_not_come_up_is_passed_on() {
        let deployment = json!({
            "metadata": {"generation": 1}, "spec": {"replicas": 1},
            "status": {"observedGeneration": 1, "conditions": [
                {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
            ]}
        });
        let Availability::Waiting(reason) = availability(&deployment) else { panic!("it is not available") };
        assert_eq!(reason, "0 of 1 replicas are available: exceeded quota");
    }
}
