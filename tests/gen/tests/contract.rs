//! What the Manager writes for our own kinds is what the Operator reads: the Manager must not depend on `kubenova-crds`
//! (it brings a Kubernetes client's types), so nothing but this test compares the two.

use jiff::Timestamp;
use kubenova_core::{
    change::Change,
    cluster::{Component, Components},
    tenant::{PodSecurity, Quota, Tenant, TenantId, TenantName},
};
use kubenova_crds::{cluster_config::NovaClusterConfig, tenant::NovaTenant};
use kubenova_store::wire;
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Decodes a document as the Operator does, and finds the first part of it that was not understood.
fn lost<K: DeserializeOwned + Serialize>(change: &Change) -> Result<K, String> {
    let written: Value = serde_json::from_str(&wire::encode(change).document).map_err(|error| error.to_string())?;
    let read: K = serde_json::from_value(written.clone()).map_err(|error| error.to_string())?;
    let again = serde_json::to_value(&read).map_err(|error| error.to_string())?;
    match first_difference("", &written, &again) {
        None => Ok(read),
        Some(pointer) => Err(format!("{pointer} of {written} is lost: {again}")),
    }
}

/// The first part of `written` that `read` does not hold; what `read` has beside it does not matter.
fn first_difference(pointer: &str, written: &Value, read: &Value) -> Option<String> {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => written.iter().find_map(|(key, value)| {
            first_difference(&format!("{pointer}/{key}"), value, read.get(key).unwrap_or(&Value::Null))
        }),
        _ => (written != read).then(|| pointer.to_owned()),
    }
}

fn component() -> impl Strategy<Value = Component> {
    (any::<bool>(), any::<bool>(), 1..=5_u32, "([0-9]{1,2}\\.[0-9]{1,2})?").prop_map(
        |(enabled, adopt, replicas, version)| Component { enabled, version, adopt, replicas, ..Component::default() },
    )
}

fn tenant() -> impl Strategy<Value = Tenant> {
    ("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}", "[a-z]{3,20}", 0..=10_000_u32, any::<bool>())
        .prop_filter_map("a name that a tenant may have", |(id, name, pods, is_restricted)| {
            Some(Tenant {
                id: TenantId::parse(&id)?,
                name: TenantName::parse(&name).ok()?,
                quota: Quota { cpu: "1500m".to_owned(), memory: "3Gi".to_owned(), pods },
                pod_security: if is_restricted { PodSecurity::Restricted } else { PodSecurity::Baseline },
                generation: 1,
                created_at: Timestamp::UNIX_EPOCH,
                updated_at: Timestamp::UNIX_EPOCH,
                created_by: "admin".to_owned(),
            })
        })
}

proptest! {
    #[test]
    fn a_cluster_configuration_is_read_as_it_was_written(
        capsule in component(), proxy in component(), kubevela in component(), public_url in "(https://[a-z]{1,9}\\.test)?",
    ) {
        let capsule_proxy = Component { public_url: public_url.clone(), ..proxy };
        let components = Components { capsule: capsule.clone(), capsule_proxy, kubevela };
        let read: NovaClusterConfig =
            lost(&Change::ClusterConfig { components, generation: 1 }).map_err(TestCaseError::fail)?;
        let read = read.spec.components.expect("the Manager always writes components");
        prop_assert_eq!(read.capsule_proxy.public_url, public_url);
        let read = read.capsule.component;
        prop_assert_eq!((read.enabled, read.adopt, read.replicas), (capsule.enabled, capsule.adopt, capsule.replicas));
        prop_assert_eq!(read.version, capsule.version);
    }

    #[test]
    fn a_tenant_is_read_as_it_was_written(tenant in tenant()) {
        let read: NovaTenant = lost(&Change::Tenant(tenant.clone())).map_err(TestCaseError::fail)?;
        prop_assert_eq!(read.spec.tenant_id, tenant.id.to_string());
        prop_assert_eq!(read.spec.quota.pods, tenant.quota.pods);
        prop_assert_eq!(format!("{:?}", read.spec.pod_security), format!("{:?}", tenant.pod_security));
        prop_assert_eq!(read.metadata.name.as_deref(), Some(tenant.name.as_str()));
        let label = read.metadata.labels.and_then(|labels| labels.get(kubenova_crds::labels::TENANT_ID).cloned());
        prop_assert_eq!(label, Some(tenant.id.to_string()), "the label by which policies know a tenant of ours");
    }
}

#[test]
fn a_field_that_the_kind_lacks_is_found() {
    let written = serde_json::json!({ "spec": { "quota": { "gpu": "1" } } });
    let read = serde_json::json!({ "spec": { "quota": { "cpu": "8" } } });
    assert_eq!(first_difference("", &written, &read).as_deref(), Some("/spec/quota/gpu"));
}
