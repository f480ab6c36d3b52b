//! Taking over an installation that KubeNova did not make: what would be lost, what is merged, and what must not stay.
//!
//! Losses refuse the adoption, with words, before anything is changed. Who the site has named as Capsule's users and
//! administrators keeps that right. Bindings and definitions of the former installation that open a tenant's isolation are
//! the site's to remove; while they are there the component is not Ready.

use super::{Component, kubevela, object::Key};
use serde_json::{Value, json};

/// Lists of Capsule's settings in which the site's entries stay beside ours.
const MERGED_LISTS: [&str; 5] = ["administrators", "users", "userNames", "userGroups", "ignoreUserWithGroups"];
/// What of Capsule's settings stays as the site has it.
const KEPT: [&str; 2] = ["forceTenantPrefix", "nodeMetadata"];

/// What an apply of `desired` would take from the site's object, each as a sentence with the remedy.
#[must_use]
pub fn losses(live: &Value, desired: &Value) -> Vec<String> {
    let Some(key) = Key::of(desired) else { return Vec::new() };
    let name = if key.namespace.is_empty() { key.name.clone() } else { format!("{}/{}", key.namespace, key.name) };
    match key.kind.as_str() {
        "Secret" => secret_losses(&name, live["type"].as_str().unwrap_or_default()),
        "Deployment" if live["spec"]["selector"] != desired["spec"]["selector"] => vec![format!(
            "Deployment {name} selects other pods ({}), and a selector cannot be changed: delete the Deployment, its pods are \
             replaced",
            live["spec"]["selector"]["matchLabels"]
        )],
        "CapsuleConfiguration" if live["spec"]["allowServiceAccountPromotion"] == true => vec![format!(
            "CapsuleConfiguration {name} lets tenants promote ServiceAccounts to owners, which KubeNova switches off: set \
             spec.allowServiceAccountPromotion to false yourself once no tenant needs it"
        )],
        _ => Vec::new(),
    }
}

/// The same for the Secret of a serving certificate, which is no rendered object.
#[must_use]
pub fn secret_losses(name: &str, type_: &str) -> Vec<String> {
    if matches!(type_, "" | "Opaque") {
        return Vec::new();
    }
    vec![format!(
        "Secret {name} has type {type_}, which cannot be changed, and may be written by cert-manager: delete its Certificate and \
         then the Secret, the Operator makes another"
    )]
}

/// Merges what the site has named into `desired`; every other object stays as it is.
pub fn merge(live: &Value, desired: &mut Value) {
    if desired["kind"] != "CapsuleConfiguration" {
        return;
    }
    for field in MERGED_LISTS {
        let theirs = live["spec"][field].as_array().cloned().unwrap_or_default();
        if theirs.is_empty() {
            continue;
        }
        let mut all = desired["spec"][field].as_array().cloned().unwrap_or_default();
        all.extend(
            theirs
                .into_iter()
                .filter(|entry| !desired["spec"][field].as_array().is_some_and(|ours| ours.contains(entry))),
        );
        desired["spec"][field] = Value::Array(all);
    }
    for field in KEPT {
        if let Some(theirs) = live["spec"].get(field) {
            desired["spec"][field] = theirs.clone();
        }
    }
    let (theirs, ours) = (text(live, "protectedNamespaceRegex"), text(desired, "protectedNamespaceRegex"));
    desired["spec"]["protectedNamespaceRegex"] = json!(either(&theirs, &ours));
}

fn text(configuration: &Value, field: &str) -> String {
    configuration["spec"][field].as_str().unwrap_or_default().to_owned()
}

/// An expression that matches what either does; the same again when it was merged before.
fn either(theirs: &str, ours: &str) -> String {
    let merged = format!("|({ours})");
    if theirs.is_empty() || theirs == ours {
        ours.to_owned()
    } else if theirs.ends_with(&merged) {
        theirs.to_owned()
    } else {
        format!("({theirs}){merged}")
    }
}

/// A binding that is not ours and gives the component's controller rights in the whole cluster.
#[must_use]
pub fn is_orphaned_binding(component: Component, binding: &Value) -> bool {
    let is_ours = binding["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("kubenova:"));
    let mut subjects = binding["subjects"].as_array().into_iter().flatten();
    !is_ours
        && subjects.any(|subject| {
            subject["kind"] == "ServiceAccount"
                && subject["name"] == component.service_account()
                && subject["namespace"] == component.namespace()
        })
}

/// A definition that the allow-list does not have: it prints other tenants' Secrets, reaches any address, or starts pods as
/// another account.
#[must_use]
pub fn is_orphaned_definition(kind: &str, name: &str) -> bool {
    !kubevela::is_allowed(kind, name)
}

/// The message about what must be removed. `left` is a kind with its name each.
#[must_use]
pub fn orphans_message(component: Component, left: &[String]) -> String {
    const SHOWN: usize = 12;
    let more = left.len().saturating_sub(SHOWN);
    let shown: Vec<&str> = left.iter().take(SHOWN).map(String::as_str).collect();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!(
        "the adopted {} has left what opens tenants' isolation: {}{more}; an administrator of this cluster deletes them with \
         kubectl, definitions only after no Application uses them",
        component.title(),
        shown.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(spec: &Value) -> Value {
        json!({
            "apiVersion": "capsule.clastix.io/v1beta2", "kind": "CapsuleConfiguration",
            "metadata": {"name": "default"}, "spec": spec,
        })
    }

    #[test]
    fn what_cannot_be_changed_refuses_the_adoption() {
        assert!(secret_losses("capsule-system/capsule-tls", "Opaque").is_empty());
        assert!(secret_losses("capsule-system/capsule-tls", "kubernetes.io/tls")[0].contains("delete its Certificate"));
        let deployment = |label: &str| {
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "n"},
                "spec": {"selector": {"matchLabels": {"app": label}}},
            })
        };
        assert!(losses(&deployment("a"), &deployment("a")).is_empty());
        assert!(losses(&deployment("b"), &deployment("a"))[0].contains("Deployment n/a selects other pods"));
        let promoting = configuration(&json!({"allowServiceAccountPromotion": true}));
        assert_eq!(losses(&promoting, &configuration(&json!({}))).len(), 1);
    }

    #[test]
    fn users_and_administrators_of_the_site_stay_beside_ours() {
        let live = configuration(&json!({
            "administrators": [{"kind": "User", "name": "root"}, {"kind": "ServiceAccount", "name": "operator"}],
            "users": [{"kind": "Group", "name": "oil"}],
            "userGroups": ["legacy"],
            "forceTenantPrefix": true,
            "protectedNamespaceRegex": "^oil-.*$",
        }));
        let ours = configuration(&json!({
            "administrators": [{"kind": "ServiceAccount", "name": "operator"}],
            "users": [],
            "forceTenantPrefix": false,
            "protectedNamespaceRegex": "^kube-.*$",
        }));
        let mut merged = ours.clone();
        merge(&live, &mut merged);
        let names: Vec<&str> = merged["spec"]["administrators"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|entry| entry["name"].as_str())
            .collect();
        assert_eq!(names, ["operator", "root"]);
        assert_eq!(merged["spec"]["users"], json!([{"kind": "Group", "name": "oil"}]));
        assert_eq!(merged["spec"]["userGroups"], json!(["legacy"]));
        assert_eq!(merged["spec"]["forceTenantPrefix"], true);
        assert_eq!(merged["spec"]["protectedNamespaceRegex"], "(^oil-.*$)|(^kube-.*$)");
        let mut again = ours;
        merge(&merged, &mut again);
        assert_eq!(again["spec"]["protectedNamespaceRegex"], merged["spec"]["protectedNamespaceRegex"]);
        assert_eq!(again["spec"]["administrators"], merged["spec"]["administrators"], "a second pass changes nothing");
    }

    #[test]
    fn bindings_of_the_former_installation_are_found_and_ours_are_not() {
        let binding = |name: &str, account: &str| {
            json!({"metadata": {"name": name}, "subjects": [
                {"kind": "ServiceAccount", "name": account, "namespace": "vela-system"}
            ]})
        };
        let is_left = |binding: &Value| is_orphaned_binding(Component::KubeVela, binding);
        assert!(is_left(&binding("kubevela-vela-core:manager-rolebinding", "kubevela-vela-core")));
        assert!(!is_left(&binding("kubenova:component:kubevela", "kubevela-vela-core")));
        assert!(!is_left(&binding("other", "default")));
        assert!(!is_orphaned_binding(Component::Capsule, &binding("a", "kubevela-vela-core")));
    }

    #[test]
    fn what_is_left_over_is_listed_with_the_remedy() {
        assert!(is_orphaned_definition("WorkflowStepDefinition", "read-config"));
        assert!(!is_orphaned_definition("ComponentDefinition", "webservice"));
        let left: Vec<String> = (0..14).map(|number| format!("TraitDefinition t{number}")).collect();
        let message = orphans_message(Component::KubeVela, &left);
        assert!(
            message.contains("TraitDefinition t0, ") && message.contains(" and 2 more; an administrator"),
            "{message}"
        );
    }
}
