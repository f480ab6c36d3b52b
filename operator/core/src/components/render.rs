//! From what Helm rendered to what is applied: without namespaces, roles, hooks, Secrets that are ours to fill and
//! definitions that are not on the list; with namespaces and labels in place and the changes of [`super::patch_object`].

use super::{
    Component, Plan, Settings, kubevela,
    object::{self, Key, ReadError},
    patch, patch_object,
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
/// When the rendered text cannot be read.
pub fn prepare(plan: &Plan, settings: &Settings, rendered: &str) -> Result<Vec<Value>, ReadError> {
    let mut objects = object::read(rendered)?;
    objects.retain(|object| is_wanted(plan, object));
    for object in &mut objects {
        place(plan.component, object);
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

    fn prepared(component: Component, rendered: &str) -> Vec<Value> {
        let settings = settings(component);
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
    fn preparing_twice_gives_the_same() {
        assert_eq!(prepared(Component::KubeVela, RENDERED), prepared(Component::KubeVela, RENDERED));
    }
}
