//! From what Helm rendered to what is applied: without namespaces, roles, hooks, Secrets that are ours to fill and
//! definitions that are not on the list; with namespaces and labels in place and the changes of [`super::patch_object`].

use super::{
    Component, Plan, Settings, endpoint, kubevela,
    object::{self, Key, ReadError},
    patch, patch_object, workload,
};
use kubenova_crds::FIELD_MANAGER;
use serde_json::Value;

/// Label with the component's name on everything applied for it.
pub const COMPONENT_LABEL: &str = "kubenova.io/component";
/// Label with the component's version.
pub const VERSION_LABEL: &str = "kubenova.io/component-version";
const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// Kinds that come with the Operator's own chart, under the cluster administrator's hand.
const NOT_OURS: [&str; 7] = [
    "Namespace",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

/// The objects to apply for a component.
///
/// # Errors
/// When the rendered text cannot be read, or holds kinds that the Operator does not apply.
pub fn prepare(plan: &Plan, settings: &Settings, rendered: &str) -> Result<Vec<Value>, PrepareError> {
    let mut objects = object::read(rendered)?;
    objects.retain(|object| is_wanted(plan, object));
    let unexpected: Vec<String> =
        objects.iter().filter_map(Key::of).filter(|key| !is_applied(key)).map(|key| name(&key)).collect();
    if !unexpected.is_empty() {
        return Err(PrepareError::Unexpected { objects: unexpected });
    }
    for object in &mut objects {
        place(plan.component, object);
    }
    let added = added(plan.component, settings, &objects);
    objects.extend(added);
    for object in &mut objects {
        patch::clean_metadata(object);
        patch_object(plan.component, settings, object);
        if is_webhook_configuration(object) {
            patch::inject_ca_bundle(object, &settings.ca_bundle);
        }
        patch::set_label(object, MANAGED_BY_LABEL, FIELD_MANAGER);
        patch::set_label(object, COMPONENT_LABEL, plan.component.name());
        patch::set_label(object, VERSION_LABEL, &plan.version);
    }
    objects.sort_by_cached_key(Key::of);
    objects.dedup_by_key(|object| Key::of(object));
    Ok(objects)
}

/// Why rendered text cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It has objects of kinds that the Operator neither applies nor leaves out: it has no right to write them.
    #[error("the chart renders {}, which the Operator does not install; use the chart of a release of the Operator", objects.join(", "))]
    Unexpected {
        /// Kind and name of each.
        objects: Vec<String>,
    },
}

/// What charts render for a component and the Operator has a right to write, as group and kind. Everything of the components'
/// own groups is as well.
const APPLIED: [(&str, &str); 9] = [
    ("", "ConfigMap"),
    ("", "Secret"),
    ("", "Service"),
    ("", "ServiceAccount"),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("apps", "Deployment"),
    ("policy", "PodDisruptionBudget"),
];
const OWN_GROUPS: [&str; 3] = ["capsule.clastix.io", "core.oam.dev", "cue.oam.dev"];

fn is_applied(key: &Key) -> bool {
    OWN_GROUPS.contains(&key.group.as_str()) || APPLIED.contains(&(key.group.as_str(), key.kind.as_str()))
}

fn name(key: &Key) -> String {
    format!("{} {}", key.kind, key.name)
}

/// What no chart renders as configured: disruption budgets, and what publishes Capsule Proxy.
fn added(component: Component, settings: &Settings, objects: &[Value]) -> Vec<Value> {
    let common = settings.common(component);
    let mut added: Vec<Value> =
        objects.iter().filter_map(|object| workload::disruption_budget(component, common, object)).collect();
    if component == Component::CapsuleProxy {
        added.extend(endpoint::routes(settings, objects));
    }
    added
}

/// True for a webhook configuration, mutating or validating.
#[must_use]
pub fn is_webhook_configuration(object: &Value) -> bool {
    let kind = object["kind"].as_str().unwrap_or_default();
    kind == "MutatingWebhookConfiguration" || kind == "ValidatingWebhookConfiguration"
}

fn is_wanted(plan: &Plan, object: &Value) -> bool {
    let Some(key) = Key::of(object) else { return false };
    let is_hook = object.pointer("/metadata/annotations/helm.sh~1hook").is_some();
    let is_own_secret = key.kind == "Secret" && plan.own_secrets.contains(&key.name);
    let is_definition = key.group == "core.oam.dev" && key.kind.ends_with("Definition");
    let is_refused = is_definition && !kubevela::is_allowed(&key.kind, &key.name);
    // A list of addon registries on the internet: nothing here reads it.
    let is_registry = key.kind == "ConfigMap" && key.name == "vela-addon-registry";
    !is_hook && !is_own_secret && !is_refused && !is_registry && !NOT_OURS.contains(&key.kind.as_str())
}

/// Namespaced objects get the component's namespace where they name none; cluster-scoped ones lose a namespace that a
/// template gave them by mistake.
fn place(component: Component, object: &mut Value) {
    let cluster_scoped = object::is_cluster_scoped(object["kind"].as_str().unwrap_or_default());
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if cluster_scoped {
        metadata.remove("namespace");
    } else if metadata.get("namespace").and_then(Value::as_str).is_none_or(str::is_empty) {
        metadata.insert("namespace".to_owned(), Value::from(component.namespace()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::components::{plan, tests::settings};
    use kubenova_crds::components::EndpointIngress;

    fn prepared(component: Component, rendered: &str) -> Vec<Value> {
        let settings = settings();
        prepare(&plan(component, &settings), &settings, rendered).unwrap()
    }

    const RENDERED: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: vela-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: everything}
---
apiVersion: v1
kind: Secret
metadata: {name: kubevela-vela-core-admission, namespace: vela-system}
---
apiVersion: core.oam.dev/v1beta1
kind: WorkflowStepDefinition
metadata: {name: request}
---
apiVersion: core.oam.dev/v1beta1
kind: ComponentDefinition
metadata:
  name: webservice
  annotations:
---
apiVersion: batch/v1
kind: Job
metadata:
  name: patch
  annotations: {helm.sh/hook: post-install}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: kubevela-vela-core-admission, namespace: vela-system}
webhooks:
  - name: a
    clientConfig: {caBundle: Cg==, service: {name: s, namespace: vela-system}}
";

    #[test]
    fn what_is_not_the_operators_to_apply_is_dropped() {
        let keys: Vec<String> =
            prepared(Component::KubeVela, RENDERED).iter().map(|object| Key::of(object).unwrap().to_string()).collect();
        assert_eq!(
            keys,
            [
                "admissionregistration.k8s.io/v1/MutatingWebhookConfiguration//kubevela-vela-core-admission",
                "core.oam.dev/v1beta1/ComponentDefinition/vela-system/webservice",
            ]
        );
    }

    #[test]
    fn everything_carries_the_component_and_webhooks_the_authority() {
        let objects = prepared(Component::KubeVela, RENDERED);
        for object in &objects {
            assert_eq!(object["metadata"]["labels"][COMPONENT_LABEL], "kubevela");
            assert_eq!(object["metadata"]["labels"][MANAGED_BY_LABEL], "kubenova");
        }
        assert_ne!(objects[0]["webhooks"][0]["clientConfig"]["caBundle"], "Cg==");
        assert!(objects[1]["metadata"].get("annotations").is_none(), "an empty map is not applied");
    }

    #[test]
    fn kinds_that_the_operator_has_no_right_to_write_are_named() {
        let settings = settings();
        let rendered = "{apiVersion: monitoring.coreos.com/v1, kind: ServiceMonitor, metadata: {name: a}}";
        let error = prepare(&plan(Component::Capsule, &settings), &settings, rendered).unwrap_err();
        assert!(error.to_string().contains("ServiceMonitor a"), "{error}");
    }

    #[test]
    fn several_replicas_bring_a_budget_and_a_published_proxy_its_routes() {
        let rendered = "
{apiVersion: apps/v1, kind: Deployment, metadata: {name: capsule-proxy}, spec: {selector: {}, template: {spec: {containers: []}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: capsule-proxy}, spec: {ports: [{port: 9001}]}}
";
        let mut settings = settings();
        settings.components.capsule_proxy.component.replicas = 2;
        settings.components.capsule_proxy.endpoint.ingress = Some(EndpointIngress::default());
        let objects = prepare(&plan(Component::CapsuleProxy, &settings), &settings, rendered).unwrap();
        let kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
        assert_eq!(kinds, ["Service", "Deployment", "Ingress", "PodDisruptionBudget"]);
        assert!(objects.iter().all(|object| object["metadata"]["labels"][COMPONENT_LABEL] == "capsule-proxy"));
    }

    #[test]
    fn preparing_twice_gives_the_same() {
        assert_eq!(prepared(Component::KubeVela, RENDERED), prepared(Component::KubeVela, RENDERED));
    }
}
