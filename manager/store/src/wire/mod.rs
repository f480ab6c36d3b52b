//! Core changes as the documents that clusters read. The only file of the Manager that knows their JSON shapes; the types
//! they decode into are `kubenova-crds`, which the Manager must not depend on (it brings a Kubernetes client's types).

pub mod decode;

use kubenova_core::{
    application::Application,
    change::Change,
    cluster::{Component, ComponentChange, ComponentName, Components, canonical},
    command::CommandId,
    operation::Operation,
    tenant::{Tenant, TenantId, TenantName},
};
use kubenova_schema::kinds::{CommandKind, ObjectKey};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Group and version of our kinds.
const OUR_API: &str = "kubenova.io/v1alpha1";
/// Group and version of KubeVela's Application.
const APPLICATION_API: &str = "core.oam.dev/v1beta1";

/// Labels of an Application that the platform writes.
const WRITTEN_LABELS: [&str; 4] =
    ["kubenova.io/tenant-id", "kubenova.io/tenant", "kubenova.io/application", "kubenova.io/project"];

/// A change as it is sent to a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedChange {
    /// What to do.
    pub kind: CommandKind,
    /// With what.
    pub key: ObjectKey,
    /// Exact JSON of the desired object; for a delete its reference.
    pub document: String,
}

/// Encodes a change as the command that carries it.
#[must_use]
pub fn encode(change: &Change) -> EncodedChange {
    match change {
        Change::ClusterConfig { components, .. } => EncodedChange {
            kind: CommandKind::ApplyClusterConfig,
            key: ObjectKey::ClusterConfig,
            document: cluster_config(components),
        },
        Change::Tenant(tenant) => EncodedChange {
            kind: CommandKind::ApplyTenant,
            key: tenant_key(tenant.id),
            document: tenant_document(tenant),
        },
        Change::TenantDeleted { id, name, .. } => EncodedChange {
            kind: CommandKind::DeleteTenant,
            key: tenant_key(*id),
            document: tenant_reference(*id, name),
        },
        Change::Application { tenant, application } => EncodedChange {
            kind: CommandKind::ApplyApplication,
            key: application_key(application),
            document: application_document(tenant, application, true),
        },
        Change::ApplicationDeleted { tenant, application } => EncodedChange {
            kind: CommandKind::DeleteApplication,
            key: application_key(application),
            document: application_document(tenant, application, false),
        },
    }
}

/// Encodes an operation: its kind and its document.
#[must_use]
pub fn encode_operation(operation: &Operation) -> (CommandKind, String) {
    let Operation { workflow, tenant_id, application, .. } = operation;
    let document = json!({ "tenantId": tenant_id.to_string(), "application": application.as_str() });
    (workflow.kind(), document.to_string())
}

/// The document that asks a cluster to keep an operation from beginning.
#[must_use]
pub fn encode_cancel(operation: CommandId) -> String {
    json!({ "commandId": operation.to_string() }).to_string()
}

/// Key of an operation and of its cancellation.
#[must_use]
pub fn operation_key(operation: CommandId) -> ObjectKey {
    ObjectKey::Operation { command_id: operation.to_string() }
}

/// Key of a tenant's commands.
#[must_use]
pub fn tenant_key(id: TenantId) -> ObjectKey {
    ObjectKey::Tenant { tenant_id: id.to_string() }
}

/// Key of an application's commands.
#[must_use]
pub fn application_key(application: &Application) -> ObjectKey {
    ObjectKey::Application { tenant_id: application.tenant_id.to_string(), name: application.name.to_string() }
}

fn cluster_config(components: &Components) -> String {
    json!({
        "apiVersion": OUR_API,
        "kind": "NovaClusterConfig",
        "metadata": { "name": "default" },
        "spec": { "components": components_to_json(components) },
    })
    .to_string()
}

fn tenant_document(tenant: &Tenant) -> String {
    json!({
        "apiVersion": OUR_API,
        "kind": "NovaTenant",
        "metadata": { "name": tenant.name.as_str(), "labels": { "kubenova.io/tenant-id": tenant.id.to_string() } },
        "spec": {
            "tenantId": tenant.id.to_string(),
            "quota": { "cpu": tenant.quota.cpu, "memory": tenant.quota.memory, "pods": tenant.quota.pods },
            "podSecurity": tenant.pod_security.as_str(),
        },
    })
    .to_string()
}

fn tenant_reference(id: TenantId, name: &TenantName) -> String {
    json!({
        "apiVersion": OUR_API,
        "kind": "NovaTenant",
        "metadata": { "name": name.as_str(), "labels": { "kubenova.io/tenant-id": id.to_string() } },
    })
    .to_string()
}

/// The spec is spliced in as text, so that no number of the caller's is read and written again.
fn application_document(tenant: &TenantName, application: &Application, with_spec: bool) -> String {
    let mut labels = application.labels.clone();
    let written =
        [application.tenant_id.to_string(), tenant.to_string(), application.name.to_string(), tenant.to_string()];
    labels.extend(WRITTEN_LABELS.map(str::to_owned).into_iter().zip(written));
    let mut metadata =
        json!({ "name": application.name.as_str(), "namespace": tenant.apps_namespace(), "labels": labels });
    if with_spec && !application.annotations.is_empty() {
        metadata["annotations"] = json!(application.annotations);
    }
    let spec = if with_spec { format!(r#","spec":{}"#, application.spec) } else { String::new() };
    format!(r#"{{"apiVersion":"{APPLICATION_API}","kind":"Application","metadata":{metadata}{spec}}}"#)
}

/// Components in the JSON shape of a NovaClusterConfig's `spec.components`.
#[must_use]
pub fn components_to_json(components: &Components) -> Value {
    let one = |name: ComponentName| (name.field().to_owned(), component_to_json(components.get(name)));
    Value::Object(ComponentName::ALL.into_iter().map(one).collect())
}

/// One component in the shape of the document.
#[must_use]
pub fn component_to_json(component: &Component) -> Value {
    let mut value = json!({ "enabled": component.enabled, "adopt": component.adopt, "replicas": component.replicas });
    if component.paused {
        value["paused"] = json!(true);
    }
    if !component.version.is_empty() {
        value["version"] = json!(component.version);
    }
    if !component.public_url.is_empty() {
        value["publicURL"] = json!(component.public_url);
    }
    for (field, text) in &component.settings {
        value[field] = setting_to_json(text);
    }
    value
}

fn setting_to_json(text: &str) -> Value {
    serde_json::from_str(text).expect("settings are written as JSON by this release alone")
}

/// Reads what [`components_to_json`] wrote.
#[must_use]
pub fn components_from_json(value: &Value) -> Components {
    let read =
        |components: Components, name: ComponentName| components.with(name, component_from_json(&value[name.field()]));
    ComponentName::ALL.into_iter().fold(Components::default(), read)
}

/// Fields of a component that core knows; the others are settings.
const COMPONENT_FIELDS: [&str; 6] = ["enabled", "paused", "version", "adopt", "replicas", "publicURL"];

/// Reads what [`component_to_json`] wrote.
#[must_use]
pub fn component_from_json(value: &Value) -> Component {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let fields = value.as_object().into_iter().flatten();
    let settings = fields.filter(|(field, _)| !COMPONENT_FIELDS.contains(&field.as_str()));
    Component {
        enabled: value["enabled"].as_bool().unwrap_or_default(),
        paused: value["paused"].as_bool().unwrap_or_default(),
        version: text("version"),
        adopt: value["adopt"].as_bool().unwrap_or_default(),
        replicas: replicas(&value["replicas"]).unwrap_or(1),
        public_url: text("publicURL"),
        settings: settings.map(|(field, value)| (field.clone(), canonical(value))).collect(),
    }
}

fn replicas(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|replicas| u32::try_from(replicas).ok())
}

/// A change of a component; a setting that gets its default again is null.
pub(crate) fn change_to_json(change: &ComponentChange) -> Value {
    let known = [
        ("enabled", change.enabled.map(Value::from)),
        ("paused", change.paused.map(Value::from)),
        ("version", change.version.clone().map(Value::from)),
        ("adopt", change.adopt.map(Value::from)),
        ("replicas", change.replicas.map(Value::from)),
        ("publicURL", change.public_url.clone().map(Value::from)),
    ];
    let known = known.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?)));
    let setting = |(field, text): (&String, &Option<String>)| {
        (field.clone(), text.as_deref().map_or(Value::Null, setting_to_json))
    };
    Value::Object(known.chain(change.settings.iter().map(setting)).collect())
}

/// Reads what [`change_to_json`] wrote.
pub(crate) fn change_from_json(value: &Value) -> ComponentChange {
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let fields = value.as_object().into_iter().flatten();
    let settings = fields.filter(|(field, _)| !COMPONENT_FIELDS.contains(&field.as_str()));
    let setting = |(field, value): (&String, &Value)| {
        (field.clone(), Some(value).filter(|value| !value.is_null()).map(canonical))
    };
    ComponentChange {
        enabled: value["enabled"].as_bool(),
        paused: value["paused"].as_bool(),
        version: text("version"),
        adopt: value["adopt"].as_bool(),
        replicas: replicas(&value["replicas"]),
        public_url: text("publicURL"),
        settings: settings.map(setting).collect(),
    }
}

/// Labels as JSON.
pub(crate) fn labels_to_json(labels: &BTreeMap<String, String>) -> Value {
    Value::Object(labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect::<Map<_, _>>())
}

/// Reads what [`labels_to_json`] wrote.
pub(crate) fn labels_from_json(value: Value) -> Result<BTreeMap<String, String>, serde_json::Error> {
    serde_json::from_value(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use kubenova_core::application::{ApplicationId, ApplicationName, Form};
    use uuid::Uuid;

    fn tenant() -> Tenant {
        let name = TenantName::parse("acme").unwrap();
        Tenant::new(TenantId(Uuid::from_u128(1)), name, Timestamp::UNIX_EPOCH, "ann")
    }

    fn application() -> Application {
        Application {
            id: ApplicationId(Uuid::from_u128(2)),
            tenant_id: tenant().id,
            name: ApplicationName::parse("shop").unwrap(),
            form: Form::Raw,
            labels: BTreeMap::from([("team".into(), "web".into())]),
            annotations: BTreeMap::new(),
            spec: r#"{"components":[{"weight":1.10}]}"#.into(),
            generation: 3,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
            created_by: "ann".into(),
            deleting_since: None,
        }
    }

    fn read(encoded: &EncodedChange) -> Value {
        serde_json::from_str(&encoded.document).unwrap()
    }

    #[test]
    fn a_tenant_is_keyed_by_id_and_named_by_name() {
        let encoded = encode(&Change::Tenant(tenant()));
        assert_eq!(encoded.key.to_string(), "tenant/00000000-0000-0000-0000-000000000001");
        let document = read(&encoded);
        assert_eq!(document["metadata"]["name"], "acme");
        assert_eq!(document["spec"]["tenantId"], "00000000-0000-0000-0000-000000000001");
        assert_eq!(document["spec"]["quota"], json!({"cpu": "8", "memory": "16Gi", "pods": 50}));
        assert_eq!(document["spec"]["podSecurity"], "baseline");
    }

    #[test]
    fn an_application_keeps_its_spec_to_the_byte_and_gets_our_labels() {
        let encoded = encode(&Change::Application { tenant: tenant().name, application: application() });
        assert!(encoded.document.ends_with(r#","spec":{"components":[{"weight":1.10}]}}"#), "{}", encoded.document);
        let metadata = read(&encoded)["metadata"].clone();
        assert_eq!(metadata["namespace"], "acme-apps");
        assert_eq!(metadata["labels"]["kubenova.io/project"], "acme");
        assert_eq!(metadata["labels"]["team"], "web");
        assert!(metadata.get("annotations").is_none());
    }

    #[test]
    fn a_delete_carries_the_reference_alone() {
        let encoded = encode(&Change::ApplicationDeleted { tenant: tenant().name, application: application() });
        assert_eq!(encoded.kind, CommandKind::DeleteApplication);
        assert!(read(&encoded).get("spec").is_none());
        let encoded = encode(&Change::TenantDeleted { id: tenant().id, name: tenant().name, generation: 2 });
        assert_eq!(read(&encoded)["metadata"]["name"], "acme");
    }

    #[test]
    fn components_read_back_and_empty_texts_are_left_out() {
        let components = Components {
            capsule: Component { enabled: true, version: "0.14.0".into(), replicas: 2, ..Component::default() },
            capsule_proxy: Component {
                public_url: "https://proxy.example".into(),
                paused: true,
                settings: BTreeMap::from([("endpoint".into(), r#"{"service":{"type":"NodePort"}}"#.into())]),
                ..Component::default()
            },
            kubevela: Component::default(),
        };
        let value = components_to_json(&components);
        assert_eq!(components_from_json(&value), components);
        assert!(value["kubevela"].get("version").is_none() && value["kubevela"].get("paused").is_none());
        assert_eq!(value["capsuleProxy"]["endpoint"]["service"]["type"], "NodePort");
        let encoded = encode(&Change::ClusterConfig { components, generation: 1 });
        assert_eq!(read(&encoded)["spec"]["components"], value);
        assert_eq!(encoded.key.to_string(), "cluster-config/default");
    }

    #[test]
    fn a_change_of_a_component_reads_back() {
        let change = ComponentChange {
            enabled: Some(false),
            version: Some(String::new()),
            settings: BTreeMap::from([("images".into(), Some(r#"{"registry":"a"}"#.into())), ("values".into(), None)]),
            ..ComponentChange::default()
        };
        let value = change_to_json(&change);
        assert_eq!(change_from_json(&value), change);
        assert_eq!(value, json!({ "enabled": false, "version": "", "images": { "registry": "a" }, "values": null }));
    }
}
