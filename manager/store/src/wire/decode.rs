//! Documents that clusters hold as core values: what [`super::encode`] wrote, read back after the database lost it.

use super::{APPLICATION_API, WRITTEN_LABELS, components_from_json};
use kubenova_core::{
    application::ApplicationName,
    cluster::Components,
    tenant::{PodSecurity, Quota, TenantId, TenantName},
};
use kubenova_schema::kinds::{CommandKind, ObjectKey};
use serde_json::Value;
use std::collections::BTreeMap;

/// What a document asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Desired {
    /// The cluster's components.
    ClusterConfig(Components),
    /// A tenant on the cluster.
    Tenant(DesiredTenant),
    /// No tenant of this id on the cluster.
    TenantDeleted(TenantId),
    /// An application on the cluster.
    Application(DesiredApplication),
    /// No application of this name of the tenant on the cluster.
    ApplicationDeleted {
        /// The tenant.
        tenant_id: TenantId,
        /// Its name.
        name: ApplicationName,
    },
}

/// A tenant as its document has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredTenant {
    /// Its id.
    pub id: TenantId,
    /// Its name.
    pub name: TenantName,
    /// Its quota.
    pub quota: Quota,
    /// Its level.
    pub pod_security: PodSecurity,
}

/// An application as its document has it: which form it was requested in is not in there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredApplication {
    /// The tenant.
    pub tenant_id: TenantId,
    /// Its name.
    pub name: ApplicationName,
    /// Labels that the caller set.
    pub labels: BTreeMap<String, String>,
    /// Annotations that the caller set.
    pub annotations: BTreeMap<String, String>,
    /// Exact JSON.
    pub spec: String,
}

/// What is missing or malformed in a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its document has no usable {0}: another release of the Manager wrote it")]
pub struct Undecodable(pub &'static str);

/// Reads the document of a command. None for a kind that changes no desired state.
pub fn decode(kind: CommandKind, key: &ObjectKey, document: &str) -> Result<Desired, Undecodable> {
    match (kind, key) {
        (CommandKind::ApplyClusterConfig, _) => {
            let components = &json(document)?["spec"]["components"];
            components.as_object().ok_or(Undecodable("components"))?;
            Ok(Desired::ClusterConfig(components_from_json(components)))
        }
        (CommandKind::ApplyTenant, ObjectKey::Tenant { tenant_id }) => tenant(tenant_id, document),
        (CommandKind::DeleteTenant, ObjectKey::Tenant { tenant_id }) => Ok(Desired::TenantDeleted(id(tenant_id)?)),
        (CommandKind::ApplyApplication, ObjectKey::Application { tenant_id, name }) => {
            application(id(tenant_id)?, application_name(name)?, document).map(Desired::Application)
        }
        (CommandKind::DeleteApplication, ObjectKey::Application { tenant_id, name }) => {
            Ok(Desired::ApplicationDeleted { tenant_id: id(tenant_id)?, name: application_name(name)? })
        }
        _ => Err(Undecodable("kind")),
    }
}

fn json(document: &str) -> Result<Value, Undecodable> {
    serde_json::from_str(document).map_err(|_| Undecodable("JSON"))
}

fn id(text: &str) -> Result<TenantId, Undecodable> {
    TenantId::parse(text).ok_or(Undecodable("tenant id"))
}

fn application_name(text: &str) -> Result<ApplicationName, Undecodable> {
    ApplicationName::parse(text).map_err(|_| Undecodable("name"))
}

fn tenant(tenant_id: &str, document: &str) -> Result<Desired, Undecodable> {
    let document = json(document)?;
    let name = document["metadata"]["name"].as_str().and_then(|name| TenantName::parse(name).ok());
    let spec = &document["spec"];
    let text = |name: &'static str| spec["quota"][name].as_str().map(str::to_owned).ok_or(Undecodable(name));
    let pods = spec["quota"]["pods"].as_u64().and_then(|pods| u32::try_from(pods).ok());
    let quota = Quota { cpu: text("cpu")?, memory: text("memory")?, pods: pods.ok_or(Undecodable("pods"))? };
    quota.check().map_err(|_| Undecodable("quota"))?;
    let pod_security = spec["podSecurity"].as_str().and_then(PodSecurity::parse).ok_or(Undecodable("podSecurity"))?;
    let (id, name) = (id(tenant_id)?, name.ok_or(Undecodable("name"))?);
    Ok(Desired::Tenant(DesiredTenant { id, name, quota, pod_security }))
}

/// The spec is taken out as text, so that no number of the caller's is read and written again.
fn application(tenant_id: TenantId, name: ApplicationName, document: &str) -> Result<DesiredApplication, Undecodable> {
    let head = format!(r#"{{"apiVersion":"{APPLICATION_API}","kind":"Application","metadata":"#);
    let rest = document.strip_prefix(&head).ok_or(Undecodable("metadata"))?;
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
    let metadata = values.next().and_then(Result::ok).ok_or(Undecodable("metadata"))?;
    let spec = rest
        .get(values.byte_offset()..)
        .and_then(|rest| rest.strip_prefix(r#","spec":"#))
        .and_then(|rest| rest.strip_suffix('}'))
        .ok_or(Undecodable("spec"))?;
    json(spec).map_err(|_| Undecodable("spec"))?;
    let mut labels = texts(&metadata["labels"]).ok_or(Undecodable("labels"))?;
    labels.retain(|key, _| !WRITTEN_LABELS.contains(&key.as_str()));
    let annotations = texts(&metadata["annotations"]).ok_or(Undecodable("annotations"))?;
    Ok(DesiredApplication { tenant_id, name, labels, annotations, spec: spec.to_owned() })
}

fn texts(value: &Value) -> Option<BTreeMap<String, String>> {
    match value {
        Value::Null => Some(BTreeMap::new()),
        value => serde_json::from_value(value.clone()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture,
        wire::{self, EncodedChange},
    };
    use kubenova_core::{
        application::Application,
        change::Change,
        cluster::{Component, Components},
    };

    fn read(change: &Change) -> Desired {
        let EncodedChange { kind, key, document } = wire::encode(change);
        decode(kind, &key, &document).unwrap()
    }

    #[test]
    fn what_was_encoded_is_read_back() {
        let tenant = fixture::tenant(1);
        let (quota, pod_security) = (tenant.quota.clone(), tenant.pod_security);
        let expected = Desired::Tenant(DesiredTenant { id: tenant.id, name: tenant.name.clone(), quota, pod_security });
        assert_eq!(read(&Change::Tenant(tenant.clone())), expected);
        let deleted = Change::TenantDeleted { id: tenant.id, name: tenant.name.clone(), generation: 2 };
        assert_eq!(read(&deleted), Desired::TenantDeleted(tenant.id));
        let capsule = Component { enabled: true, version: "1.2".into(), replicas: 2, ..Component::default() };
        let components = Components { capsule, ..Components::default() };
        let config = Change::ClusterConfig { components: components.clone(), generation: 1 };
        assert_eq!(read(&config), Desired::ClusterConfig(components));
    }

    #[test]
    fn an_application_is_read_back_to_the_byte_and_without_what_the_platform_wrote() {
        let tenant = fixture::tenant(1);
        let application = Application {
            spec: r#"{"components":[{"weight":1.10,"text":"},\"spec\":{"}]}"#.into(),
            annotations: BTreeMap::from([("note".to_owned(), "}".to_owned())]),
            ..fixture::application(&tenant, "shop")
        };
        let change = Change::Application { tenant: tenant.name.clone(), application: application.clone() };
        let Desired::Application(desired) = read(&change) else { panic!("an application") };
        assert_eq!((&desired.spec, &desired.labels), (&application.spec, &application.labels));
        assert_eq!(desired.annotations, application.annotations);
        let deleted = Change::ApplicationDeleted { tenant: tenant.name.clone(), application: application.clone() };
        let expected = Desired::ApplicationDeleted { tenant_id: tenant.id, name: application.name };
        assert_eq!(read(&deleted), expected);
    }

    #[test]
    fn what_no_release_wrote_is_refused() {
        let key = ObjectKey::Tenant { tenant_id: fixture::tenant(1).id.to_string() };
        let refused = |kind, document: &str| decode(kind, &key, document).unwrap_err().0;
        assert_eq!(refused(CommandKind::ApplyTenant, "{}"), "cpu");
        assert_eq!(refused(CommandKind::ApplyTenant, "x"), "JSON");
        assert_eq!(refused(CommandKind::ApplyApplication, "{}"), "kind", "another object");
    }
}
