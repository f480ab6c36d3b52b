//! What is there: everything with a label of ours, everything of the components' kinds, tenants, and whether an Operator runs.

use crate::apiserver::{
    self,
    client::Apiserver,
    dynamic, kinds,
    served::{self, ServedKind},
    usage, verbs,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Api, Client, ResourceExt as _, api::ObjectMeta};
use kubenova_crds::{
    SYSTEM_NAMESPACE,
    cluster_config::{NAME as CONFIG, NovaClusterConfig},
    labels,
    tenant::NovaTenant,
    usage_report::NovaUsageReport,
};
use kubenova_operator_core::{
    components::{object::Key, render::COMPONENT_LABEL},
    leaving::{self, COMPONENT_GROUPS, CREATED_BY_CAPSULE, Found, FoundObject, FoundTenant, PART_OF},
    tenant::{FINALIZER, apps_namespace},
};
use std::collections::BTreeMap;

/// Pods of the Operator.
const OPERATOR: &str = "app.kubernetes.io/name=kubenova-operator";
/// Kinds whose objects follow from others and go with them.
const DERIVED: [&str; 5] = ["Endpoints", "EndpointSlice", "Event", "Pod", "ReplicaSet"];

pub(super) async fn found(apiserver: &Apiserver) -> Result<Found, apiserver::Error> {
    let client = apiserver.client();
    let kinds = served::kinds(&client).await?;
    let objects = objects(&client, &kinds).await?;
    let configs: Api<NovaClusterConfig> = Api::all(client.clone());
    let config = absent_if_not_served(verbs::get(&configs, CONFIG).await)?;
    Ok(Found {
        cluster_id: config.and_then(|config| config.status).map(|status| status.cluster_id).unwrap_or_default(),
        operator_pods: operator_pods(&client).await?,
        tenants: tenants(&client).await?,
        failing: failing(&client, &objects).await?,
        objects,
        unconfirmed_windows: unconfirmed_windows(&client).await?,
    })
}

/// Every object that `leaving` decides about.
async fn objects(client: &Client, kinds: &[ServedKind]) -> Result<Vec<FoundObject>, apiserver::Error> {
    let kinds: Vec<ServedKind> =
        kinds.iter().filter(|kind| !DERIVED.contains(&kind.resource.kind.as_str())).cloned().collect();
    let of_components: Vec<ServedKind> =
        kinds.iter().filter(|kind| COMPONENT_GROUPS.contains(&kind.resource.group.as_str())).cloned().collect();
    let part_of = format!("{}={}", PART_OF.0, PART_OF.1);
    let mut all: BTreeMap<Key, FoundObject> = BTreeMap::new();
    for (kinds, selector) in [
        (&kinds, part_of.as_str()),
        (&kinds, COMPONENT_LABEL),
        (&kinds, CREATED_BY_CAPSULE),
        (&kinds, labels::TENANT_ID),
        (&of_components, ""),
    ] {
        for (kind, metadata) in served::labelled(client, kinds, selector).await? {
            let key = kind.key(&metadata);
            let ObjectMeta { labels, annotations, .. } = metadata;
            let object = FoundObject::new(key.clone(), labels.unwrap_or_default(), &annotations.unwrap_or_default());
            all.insert(key, object);
        }
    }
    Ok(all.into_values().collect())
}

async fn operator_pods(client: &Client) -> Result<Vec<String>, apiserver::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let has_ended = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    let pods = verbs::list(&pods, OPERATOR).await?;
    Ok(pods.iter().filter(|pod| !has_ended(pod)).map(|pod| pod.name_any()).collect())
}

/// NovaTenants, and Capsule Tenants of KubeNova whose NovaTenant is gone.
async fn tenants(client: &Client) -> Result<Vec<FoundTenant>, apiserver::Error> {
    let mut tenants = BTreeMap::new();
    for tenant in absent_if_not_served(verbs::list(&Api::<NovaTenant>::all(client.clone()), "").await)? {
        let is_finalized = tenant.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
        let is_being_deleted = tenant.metadata.deletion_timestamp.is_some();
        tenants.insert(tenant.name_any(), (is_finalized, is_being_deleted));
    }
    for tenant in kinds::list_if_served(&kinds::capsule_tenants(client), labels::TENANT_ID).await? {
        tenants.entry(tenant.name_any()).or_insert((false, false));
    }
    let mut found = Vec::new();
    for (name, (is_finalized, is_being_deleted)) in tenants {
        let namespace = apps_namespace(&name);
        let applications = kinds::namespaced(client, "core.oam.dev", "v1beta1", "Application", &namespace);
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
        found.push(FoundTenant {
            applications: names(verbs::list_metadata(&applications, "").await?),
            claims: names(verbs::list_metadata(&claims, "").await?),
            name,
            is_finalized,
            is_being_deleted,
        });
    }
    Ok(found)
}

fn names(objects: Vec<ObjectMeta>) -> Vec<String> {
    objects.into_iter().filter_map(|metadata| metadata.name).collect()
}

/// Webhook configurations of the components, and Capsule's settings, that refuse requests while no webhook answers.
async fn failing(client: &Client, objects: &[FoundObject]) -> Result<Vec<Key>, apiserver::Error> {
    let mut failing = Vec::new();
    for object in objects {
        let is_ours = object.labels.contains_key(COMPONENT_LABEL) || object.labels.contains_key(CREATED_BY_CAPSULE);
        if !is_ours || !leaving::holds_webhooks(&serde_json::json!({ "kind": object.key.kind })) {
            continue;
        }
        let Some(live) = dynamic::get(client, &object.key).await? else { continue };
        if leaving::ignore_failures(&mut kinds::to_value(&live)?) {
            failing.push(object.key.clone());
        }
    }
    // Capsule's settings first: it writes its configurations again from them.
    failing.sort_by_key(|key| key.kind != "CapsuleConfiguration");
    Ok(failing)
}

async fn unconfirmed_windows(client: &Client) -> Result<usize, apiserver::Error> {
    let reports = absent_if_not_served(usage::list(client, SYSTEM_NAMESPACE).await)?;
    let is_received =
        |report: &&NovaUsageReport| report.status.as_ref().is_some_and(|status| !status.received_at.is_empty());
    Ok(reports.len() - reports.iter().filter(is_received).count())
}

/// A kind that is not installed has no objects.
fn absent_if_not_served<T: Default>(read: Result<T, apiserver::Error>) -> Result<T, apiserver::Error> {
    match read {
        Err(error) if error.is_not_found() => Ok(T::default()),
        read => read,
    }
}
