//! Taking over an installation that KubeNova did not make: reads what is there, and asks [`adoption`].

use super::outcome::{Outcome, refused};
use crate::apiserver::{dynamic, verbs};
use k8s_openapi::api::{core::v1::Secret, rbac::v1::ClusterRoleBinding};
use kube::{Api, Client, ResourceExt as _};
use kubenova_operator_core::components::{Component, Plan, adoption, object::Key, render::COMPONENT_LABEL};
use serde_json::Value;

/// Kinds of which a site's object may hold what an apply would take from it.
const COMPARED: [&str; 2] = ["CapsuleConfiguration", "Deployment"];
/// Kinds of definitions, for which an allow-list stands.
const DEFINITIONS: [&str; 4] = ["ComponentDefinition", "TraitDefinition", "PolicyDefinition", "WorkflowStepDefinition"];

/// Merges what the site has named into the objects, and refuses when something would be lost.
pub(super) async fn merge(client: &Client, plan: &Plan, objects: &mut [Value]) -> Result<(), Outcome> {
    let mut losses = Vec::new();
    for certificate in &plan.certificates {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &certificate.namespace);
        let live = verbs::get(&secrets, &certificate.secret).await.map_err(|error| refused(&error))?;
        let name = format!("{}/{}", certificate.namespace, certificate.secret);
        let type_ = live.and_then(|live| live.type_).unwrap_or_default();
        losses.extend(adoption::secret_losses(&name, &type_));
    }
    for object in objects {
        let Some(key) = Key::of(object).filter(|key| COMPARED.contains(&key.kind.as_str())) else { continue };
        let Some(live) = dynamic::get(client, &key).await.map_err(|error| refused(&error))? else { continue };
        let is_ours = live.labels().contains_key(COMPONENT_LABEL);
        let Ok(live) = serde_json::to_value(live) else { continue };
        if !is_ours {
            losses.extend(adoption::losses(&live, object));
        }
        adoption::merge(&live, object);
    }
    if losses.is_empty() {
        return Ok(());
    }
    let message = format!("nothing was changed, because this would be lost: {}", losses.join("; "));
    Err(Outcome::failed("AdoptionRefused", message))
}

/// Refuses to call a component ready while what its former installation left opens tenants' isolation.
pub(super) async fn check_leftovers(client: &Client, component: Component) -> Result<(), Outcome> {
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let mut left = Vec::new();
    for binding in verbs::list(&bindings, "").await.map_err(|error| refused(&error))? {
        let name = binding.name_any();
        let role = binding.role_ref.name.clone();
        let is_left =
            serde_json::to_value(&binding).is_ok_and(|value| adoption::is_left_over_binding(component, &value));
        if is_left {
            left.push(format!("ClusterRoleBinding {name} (to {role})"));
        }
    }
    if component == Component::KubeVela {
        for kind in DEFINITIONS {
            left.extend(left_over_definitions(client, component, kind).await?);
        }
    }
    if left.is_empty() {
        return Ok(());
    }
    left.sort();
    Err(Outcome::failed("LeftoversFound", adoption::leftovers_message(component, &left)))
}

async fn left_over_definitions(client: &Client, component: Component, kind: &str) -> Result<Vec<String>, Outcome> {
    let key = Key {
        group: "core.oam.dev".to_owned(),
        version: "v1beta1".to_owned(),
        kind: kind.to_owned(),
        namespace: component.namespace().to_owned(),
        name: String::new(),
    };
    let listed = verbs::list_metadata(&dynamic::api(client, &key), "").await.map_err(|error| refused(&error))?;
    let names = listed.into_iter().filter_map(|metadata| metadata.name);
    Ok(names
        .filter(|name| adoption::is_left_over_definition(kind, name))
        .map(|name| format!("{kind} {name}"))
        .collect())
}
