//! A KubeVela Application as its caller wrote it: what of it the caller decides, and what is refused before a cluster
//! ever sees it.
//!
//! What `kubectl get application -o yaml` prints for an application of ours can be sent back: what the API server, KubeVela
//! and KubeNova wrote into it is dropped. The rest of the spec is for KubeVela to check, in the cluster.

use crate::{
    application::ApplicationName,
    metadata,
    pointer::Pointer,
    refusal::{Reason, Refusal},
    tenant::Tenant,
};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Keys that the platform writes, each with its value; no value where any may stand.
pub type WrittenKeys = Vec<(&'static str, Option<String>)>;

/// What clusters make of an Application: which definitions they have, and what the platform writes into it. The values
/// stand in the schema that Manager and Operator share.
#[derive(Debug, Clone)]
pub struct ClusterRules<'a> {
    /// Component definitions that clusters have.
    pub component_types: &'a [&'a str],
    /// Trait definitions that clusters have.
    pub trait_types: &'a [&'a str],
    /// True for a label or annotation key that callers may not set.
    pub is_reserved: fn(&str) -> bool,
    /// Labels that the platform writes, from tenant, tenant id and application.
    pub written_labels: fn(&str, &str, &str) -> WrittenKeys,
    /// Annotations that the platform writes, from the tenant.
    pub written_annotations: fn(&str) -> WrittenKeys,
    /// The finalizer that KubeVela sets.
    pub finalizer: &'a str,
}

/// What a caller decides in an Application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplicationDocument {
    /// The name.
    pub name: ApplicationName,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// `spec`.
    pub spec: Value,
}

/// Metadata that the API server owns; dropped.
const SERVER_OWNED: [&str; 8] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];

/// Checks an Application for a tenant; `at` is where it stands in the request.
///
/// # Errors
/// With [`Reason::ApplicationInvalid`], [`Reason::ApplicationNamespace`] or [`Reason::NameInvalid`] and the pointer of what
/// is wrong.
pub fn check(
    application: Value,
    at: &Pointer,
    tenant: &Tenant,
    rules: &ClusterRules<'_>,
) -> Result<ApplicationDocument, Refusal> {
    let Value::Object(mut fields) = application else {
        return Err(invalid(at, "the Application must be an object"));
    };
    for (field, wanted) in [("apiVersion", "core.oam.dev/v1beta1"), ("kind", "Application")] {
        let found = fields.remove(field);
        if found.as_ref().and_then(Value::as_str) != Some(wanted) {
            let found = found.map_or_else(|| "missing".to_owned(), |value| value.to_string());
            return Err(invalid(&at.field(field), format!("{field} is {found}, it must be \"{wanted}\"")));
        }
    }
    // What a cluster reports, never what a caller asks for.
    fields.remove("status");
    let metadata = fields.remove("metadata").unwrap_or_default();
    let spec = fields.remove("spec").unwrap_or_default();
    if let Some(field) = fields.keys().next() {
        return Err(invalid(&at.field(field), format!("an Application has no field {field:?}")));
    }
    let (name, labels, annotations) = check_metadata(metadata, &at.field("metadata"), tenant, rules)?;
    check_spec(&spec, &at.field("spec"), rules)?;
    Ok(ApplicationDocument { name, labels, annotations, spec })
}

fn invalid(at: &Pointer, detail: impl Into<String>) -> Refusal {
    Refusal::at(Reason::ApplicationInvalid, at.to_string(), detail)
}

type Metadata = (ApplicationName, BTreeMap<String, String>, BTreeMap<String, String>);

fn check_metadata(value: Value, at: &Pointer, tenant: &Tenant, rules: &ClusterRules<'_>) -> Result<Metadata, Refusal> {
    let Value::Object(mut fields) = value else {
        return Err(invalid(at, "metadata is missing or not an object"));
    };
    let name = ApplicationName::parse(&text(&mut fields, "name", at)?)
        .map_err(|refusal| Refusal { field: Some(at.field("name").to_string()), ..refusal })?;
    check_namespace(&text(&mut fields, "namespace", at)?, at, tenant)?;
    let mut labels = texts(&mut fields, "labels", at)?;
    let mut annotations = texts(&mut fields, "annotations", at)?;
    for (key, value) in (rules.written_labels)(tenant.name.as_str(), &tenant.id.to_string(), name.as_str()) {
        drop_written(&mut labels, key, value.as_deref());
    }
    for (key, value) in (rules.written_annotations)(tenant.name.as_str()) {
        drop_written(&mut annotations, key, value.as_deref());
    }
    for (field, entries) in [("labels", &labels), ("annotations", &annotations)] {
        if let Some(key) = entries.keys().find(|key| (rules.is_reserved)(key)) {
            let detail = format!("{key:?} is written by the platform and not yours to set; leave it out");
            return Err(invalid(&at.field(field).field(key), detail));
        }
    }
    metadata::check_labels(&labels, &at.field("labels"), Reason::ApplicationInvalid)?;
    metadata::check_annotations(&annotations, &at.field("annotations"), Reason::ApplicationInvalid)?;
    check_finalizers(fields.remove("finalizers"), &at.field("finalizers"), rules)?;
    match fields.keys().find(|field| !SERVER_OWNED.contains(&field.as_str())) {
        Some(field) => Err(invalid(&at.field(field), format!("metadata.{field} is not yours to set; leave it out"))),
        None => Ok((name, labels, annotations)),
    }
}

fn check_namespace(namespace: &str, at: &Pointer, tenant: &Tenant) -> Result<(), Refusal> {
    let own = tenant.name.apps_namespace();
    if namespace.is_empty() || namespace == own {
        return Ok(());
    }
    let detail = format!("the namespace is {namespace:?}; applications of this tenant run in {own:?}");
    Err(Refusal::at(Reason::ApplicationNamespace, at.field("namespace").to_string(), detail))
}

/// Drops what the platform wrote by itself. Another value under the same key stays, and is refused as reserved.
fn drop_written(entries: &mut BTreeMap<String, String>, key: &str, value: Option<&str>) {
    if entries.get(key).is_some_and(|present| value.is_none_or(|value| value == present)) {
        entries.remove(key);
    }
}

fn check_finalizers(value: Option<Value>, at: &Pointer, rules: &ClusterRules<'_>) -> Result<(), Refusal> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(()) };
    let Value::Array(finalizers) = value else { return Err(invalid(at, "finalizers must be a list")) };
    match finalizers.iter().position(|finalizer| finalizer.as_str() != Some(rules.finalizer)) {
        Some(index) => {
            let detail = format!("the finalizer {} is not KubeVela's own; leave it out", finalizers[index]);
            Err(invalid(&at.item(index), detail))
        }
        None => Ok(()),
    }
}

fn text(fields: &mut Map<String, Value>, name: &str, at: &Pointer) -> Result<String, Refusal> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(invalid(&at.field(name), format!("{name} is {other}, it must be a text"))),
    }
}

fn texts(fields: &mut Map<String, Value>, name: &str, at: &Pointer) -> Result<BTreeMap<String, String>, Refusal> {
    let at = at.field(name);
    let entries = match fields.remove(name) {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(entries)) => entries,
        Some(_) => return Err(invalid(&at, format!("{name} must be an object of texts"))),
    };
    entries
        .into_iter()
        .map(|(key, value)| match value {
            Value::String(text) => Ok((key, text)),
            other => {
                Err(invalid(&at.field(&key), format!("the value is {other}, it must be a text; quote it in YAML")))
            }
        })
        .collect()
}

/// The part of the spec without which nothing can run, and the definitions that clusters do not have.
fn check_spec(spec: &Value, at: &Pointer, rules: &ClusterRules<'_>) -> Result<(), Refusal> {
    if !spec.is_object() {
        return Err(invalid(at, "spec is missing or not an object"));
    }
    let at = at.field("components");
    let Some(components) = spec["components"].as_array().filter(|components| !components.is_empty()) else {
        return Err(invalid(&at, "components is missing or empty"));
    };
    for (index, component) in components.iter().enumerate() {
        let at = at.item(index);
        named_type(component, &at, "component", rules.component_types)?;
        if component["name"].as_str().is_none_or(str::is_empty) {
            return Err(invalid(&at.field("name"), "the component needs a name"));
        }
        check_properties(component, &at)?;
        let traits = match &component["traits"] {
            Value::Null => continue,
            Value::Array(traits) => traits,
            _ => return Err(invalid(&at.field("traits"), "traits must be a list")),
        };
        for (index, one) in traits.iter().enumerate() {
            let at = at.field("traits").item(index);
            named_type(one, &at, "trait", rules.trait_types)?;
            check_properties(one, &at)?;
        }
    }
    Ok(())
}

/// The API server takes an object or nothing, whatever the definition makes of it.
fn check_properties(of: &Value, at: &Pointer) -> Result<(), Refusal> {
    match &of["properties"] {
        Value::Null | Value::Object(_) => Ok(()),
        other => Err(invalid(&at.field("properties"), format!("properties is {other}, it must be an object"))),
    }
}

fn named_type(value: &Value, at: &Pointer, what: &str, possible: &[&str]) -> Result<(), Refusal> {
    let at = at.field("type");
    let Some(name) = value["type"].as_str().filter(|name| !name.is_empty()) else {
        return Err(invalid(&at, format!("the {what} needs a type; possible are {}", possible.join(", "))));
    };
    // `webservice@v2` means a revision of the definition.
    let definition = name.split_once('@').map_or(name, |(definition, _)| definition);
    if possible.contains(&definition) {
        return Ok(());
    }
    Err(invalid(&at, format!("clusters have no {what} type {name:?}; possible are {}", possible.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::{TenantId, TenantName};
    use jiff::Timestamp;
    use proptest::prelude::*;
    use serde_json::json;

    fn tenant() -> Tenant {
        let id = TenantId::parse("0198aaaa-0000-7000-8000-000000000000").unwrap();
        Tenant::new(id, TenantName::parse("acme").unwrap(), Timestamp::UNIX_EPOCH, "ann")
    }

    fn rules() -> ClusterRules<'static> {
        ClusterRules {
            component_types: &["webservice", "worker"],
            trait_types: &["scaler"],
            is_reserved: |key| key.contains("oam.dev/") || key.contains("kubenova.io/"),
            written_labels: |tenant, id, name| {
                vec![
                    ("kubenova.io/tenant", Some(tenant.to_owned())),
                    ("kubenova.io/tenant-id", Some(id.to_owned())),
                    ("kubenova.io/application", Some(name.to_owned())),
                ]
            },
            written_annotations: |tenant| {
                vec![
                    ("kubenova.io/revision", None),
                    ("app.oam.dev/username", Some(format!("deployer-of-{tenant}"))),
                    ("oam.dev/kubevela-version", None),
                    ("kubectl.kubernetes.io/last-applied-configuration", None),
                ]
            },
            finalizer: "app.oam.dev/resource-tracker-finalizer",
        }
    }

    fn application() -> Value {
        json!({
            "apiVersion": "core.oam.dev/v1beta1", "kind": "Application",
            "metadata": { "name": "shop" },
            "spec": { "components": [{ "name": "web", "type": "webservice", "properties": { "image": "nginx" } }] },
        })
    }

    fn checked(application: Value) -> Result<ApplicationDocument, Refusal> {
        check(application, &Pointer::default(), &tenant(), &rules())
    }

    fn refused(pointer: &str, value: Value) -> Refusal {
        let mut document = application();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        document.pointer_mut(parent).unwrap()[name] = value;
        checked(document).unwrap_err()
    }

    /// What `kubectl get application shop -o yaml` prints for an application of ours.
    fn printed_by_kubectl() -> Value {
        json!({
            "apiVersion": "core.oam.dev/v1beta1", "kind": "Application",
            "metadata": {
                "name": "shop", "namespace": "acme-apps", "uid": "7f3c", "resourceVersion": "912", "generation": 2,
                "creationTimestamp": "2026-01-01T00:00:00Z", "selfLink": "", "managedFields": [{ "manager": "x" }],
                "finalizers": ["app.oam.dev/resource-tracker-finalizer"],
                "labels": {
                    "kubenova.io/tenant": "acme", "kubenova.io/tenant-id": "0198aaaa-0000-7000-8000-000000000000",
                    "kubenova.io/application": "shop", "team": "web",
                },
                "annotations": {
                    "kubenova.io/revision": "7", "app.oam.dev/username": "deployer-of-acme",
                    "oam.dev/kubevela-version": "v1.10.9", "note": "mine",
                    "kubectl.kubernetes.io/last-applied-configuration": "{}",
                },
            },
            "spec": application()["spec"],
            "status": { "status": "running" },
        })
    }

    #[test]
    fn what_kubectl_prints_for_an_application_of_ours_can_be_sent_back() {
        let document = checked(printed_by_kubectl()).unwrap();
        assert_eq!(document.labels, BTreeMap::from([("team".to_owned(), "web".to_owned())]));
        assert_eq!(document.annotations, BTreeMap::from([("note".to_owned(), "mine".to_owned())]));
        assert_eq!(document.spec, application()["spec"]);
    }

    #[test]
    fn what_the_platform_writes_is_refused_with_another_value() {
        for (pointer, value) in [
            ("/metadata/labels/kubenova.io~1tenant", "other"),
            ("/metadata/labels/kubenova.io~1application", "blog"),
            ("/metadata/labels/app.oam.dev~1x", "y"),
            ("/metadata/annotations/app.oam.dev~1username", "system:admin"),
            ("/metadata/annotations/controller.core.oam.dev~1pause", "true"),
        ] {
            let mut document = printed_by_kubectl();
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            document.pointer_mut(parent).unwrap()[name.replace("~1", "/")] = json!(value);
            let refusal = checked(document).unwrap_err();
            assert_eq!(refusal.reason, Reason::ApplicationInvalid);
            assert_eq!(refusal.field.as_deref(), Some(pointer));
        }
        let refusal =
            refused("/metadata/finalizers", json!(["app.oam.dev/resource-tracker-finalizer", "example.com/hold"]));
        assert_eq!(refusal.field.as_deref(), Some("/metadata/finalizers/1"));
        assert_eq!(refused("/metadata/ownerReferences", json!([])).field.as_deref(), Some("/metadata/ownerReferences"));
    }

    #[test]
    fn each_refusal_points_to_its_field() {
        for (at, value, pointer) in [
            ("/kind", json!("Deployment"), "/kind"),
            ("/apiVersion", json!(null), "/apiVersion"),
            ("/metadata", json!([]), "/metadata"),
            ("/metadata", json!({}), "/metadata/name"),
            ("/metadata/name", json!(7), "/metadata/name"),
            ("/metadata/labels", json!({ "a b": "x" }), "/metadata/labels/a b"),
            ("/metadata/labels", json!({ "a": 7 }), "/metadata/labels/a"),
            ("/metadata/labels", json!(["a"]), "/metadata/labels"),
            ("/metadata/annotations", json!({ "-": "x" }), "/metadata/annotations/-"),
            ("/spec", json!([]), "/spec"),
            ("/spec/components", json!([]), "/spec/components"),
            ("/spec/components", json!([7]), "/spec/components/0/type"),
            ("/spec/components", json!([{ "type": "webservice" }]), "/spec/components/0/name"),
            (
                "/spec/components",
                json!([{ "type": "webservice", "name": "a", "traits": {} }]),
                "/spec/components/0/traits",
            ),
            (
                "/spec/components",
                json!([{ "type": "webservice", "name": "a", "properties": 7 }]),
                "/spec/components/0/properties",
            ),
            (
                "/spec/components",
                json!([{ "type": "webservice", "name": "a", "traits": [{ "type": "scaler", "properties": [] }] }]),
                "/spec/components/0/traits/0/properties",
            ),
            ("/extra", json!(1), "/extra"),
        ] {
            assert_eq!(refused(at, value).field.as_deref(), Some(pointer), "{at}");
        }
        let refusal = check(json!(7), &Pointer::default().field("application"), &tenant(), &rules()).unwrap_err();
        assert_eq!(refusal.field.as_deref(), Some("/application"));
    }

    #[test]
    fn a_definition_that_clusters_lack_is_refused_with_the_list() {
        let refusal = refused("/spec/components", json!([{ "name": "web", "type": "webservce" }]));
        assert_eq!(refusal.field.as_deref(), Some("/spec/components/0/type"));
        assert!(refusal.detail.contains("possible are webservice, worker"), "{}", refusal.detail);
        let component = json!({ "name": "web", "type": "worker", "traits": [{ "type": "service-account" }] });
        let refusal = refused("/spec/components", json!([component]));
        assert_eq!(refusal.field.as_deref(), Some("/spec/components/0/traits/0/type"));
        let mut versioned = application();
        versioned["spec"]["components"][0]["type"] = json!("webservice@v2");
        assert!(checked(versioned).is_ok());
    }

    #[test]
    fn another_namespace_is_refused() {
        let mut own = application();
        own["metadata"]["namespace"] = json!("acme-apps");
        assert!(checked(own).is_ok());
        for namespace in ["acme-owner", "other-apps", "kube-system", "default"] {
            let refusal = refused("/metadata/namespace", json!(namespace));
            assert_eq!(refusal.reason, Reason::ApplicationNamespace, "{namespace}");
        }
    }

    proptest! {
        #[test]
        fn no_reserved_key_ever_passes(key in "[a-z]{0,3}(\\.)?(app\\.oam\\.dev|kubenova\\.io)/[a-z]{1,5}", value in "[a-z]{0,5}") {
            let mut document = application();
            document["metadata"]["annotations"] = json!({ key: value });
            if let Ok(document) = checked(document) {
                prop_assert!(document.annotations.keys().all(|key| !(rules().is_reserved)(key)));
            }
        }
    }
}
