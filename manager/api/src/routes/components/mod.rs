//! Components of a cluster: what is wanted of each, what the cluster reports of it, and changes of what is wanted.

pub mod get;
pub mod list;
pub mod replace;

use crate::{error::ApiError, observations::ClusterObservations, routes::clusters::found, views};
use kubenova_api_types::{
    cluster_components::{ClusterComponent, ComponentObserved},
    components::{ComponentChange as ChangeBody, ComponentsChange},
};
use kubenova_core::{
    application::needs_command_again,
    change::Change,
    cluster::{
        Cluster, ClusterRef, Component, ComponentChange, ComponentName, Components, canonical,
        component_health::{self, Health},
    },
    pointer::Pointer,
    refusal::{Reason, Refusal},
};
use kubenova_schema::kinds::ObjectKey;
use kubenova_store::{clusters, commands, connection::Connection, outbox::EnqueuedCommand, write_tx::WriteTx};
use serde::Serialize;
use serde_json::Value;

/// The component of this name.
pub(crate) fn name(text: &str) -> Result<ComponentName, Refusal> {
    ComponentName::parse(text)
        .ok_or_else(|| Refusal::new(Reason::ComponentNotFound, format!("there is no component {text:?}")))
}

/// The cluster, held: what is wanted of it changes only here until the transaction ends.
pub(crate) async fn hold(connection: &mut Connection, named: &ClusterRef) -> Result<Cluster, ApiError> {
    let cluster = found(clusters::find(connection, named).await?, named)?;
    let held = clusters::lock_all(connection, std::slice::from_ref(&cluster.id)).await?.pop();
    Ok(found(held, named)?)
}

/// A body as a change.
pub(crate) fn to_change(body: &ChangeBody) -> ComponentChange {
    let ChangeBody { endpoint, images, resources, placement, host_network, values, .. } = body;
    let settings = [
        ("endpoint", setting(endpoint.as_ref())),
        ("images", setting(images.as_ref())),
        ("resources", setting(resources.as_ref())),
        ("placement", setting(placement.as_ref())),
        ("hostNetwork", setting(host_network.as_ref())),
        ("values", setting(values.as_ref())),
    ];
    ComponentChange {
        enabled: body.enabled,
        paused: body.paused,
        version: body.version.clone(),
        adopt: body.adopt,
        replicas: body.replicas,
        public_url: body.public_url.clone(),
        settings: settings.into_iter().filter_map(|(field, text)| Some((field.to_owned(), text?))).collect(),
    }
}

/// A field of a body: none when it is absent, and none in it when it has its default.
fn setting(field: Option<&impl Serialize>) -> Option<Option<String>> {
    let value = serde_json::to_value(field?).expect("bodies are plain data");
    let is_default = matches!(&value, Value::Bool(false)) || value.as_object().is_some_and(|fields| fields.is_empty());
    Some((!is_default).then(|| canonical(&value)))
}

/// Components with what a request changes of them.
pub(crate) fn changed(before: Components, change: &ComponentsChange) -> Result<Components, Refusal> {
    let of = |name| match name {
        ComponentName::Capsule => change.capsule.as_ref(),
        ComponentName::CapsuleProxy => change.capsule_proxy.as_ref(),
        ComponentName::KubeVela => change.kubevela.as_ref(),
    };
    ComponentName::ALL.into_iter().try_fold(before, |components, name| {
        let Some(change) = of(name) else { return Ok(components) };
        let component = to_change(change).applied_to(components.get(name));
        check(name, &component, &Pointer::default().field("components").field(name.field()))?;
        Ok(components.with(name, component))
    })
}

/// Checks a component that a request asks for; `pointer` is where it stands there.
pub(crate) fn check(name: ComponentName, component: &Component, pointer: &Pointer) -> Result<(), Refusal> {
    component.check(name, &pointer.to_string())?;
    component.check_settings(name, pointer)
}

/// Writes what is wanted of a cluster that is held, and the command that carries it. Nothing when it is wanted already, unless the last
/// command with it ended without success.
pub(crate) async fn write(
    tx: &mut WriteTx,
    cluster: &mut Cluster,
    components: Components,
) -> Result<Vec<EnqueuedCommand>, ApiError> {
    if !cluster.state.takes_changes() {
        let detail = format!("cluster \"{}\" is {}", cluster.name, cluster.state.as_str());
        return Err(Refusal::new(Reason::ClusterNotUsable, detail).into());
    }
    let ids = std::slice::from_ref(&cluster.id);
    if components == cluster.components {
        let newest = commands::newest(tx.connection(), ids, &[ObjectKey::ClusterConfig.to_string()]).await?.pop();
        if !needs_command_again(newest.map(|command| command.state)) {
            return Ok(Vec::new());
        }
    } else {
        cluster.components = components;
        cluster.generation += 1;
        cluster.updated_at = tx.context().now;
        clusters::update_components(tx.connection(), cluster).await?;
    }
    let change = Change::ClusterConfig { components: cluster.components.clone(), generation: cluster.generation };
    let enqueued = tx.enqueue_commands(ids, &change).await?;
    cluster.revision = enqueued.iter().map(|one| one.revision).max().unwrap_or(cluster.revision);
    Ok(enqueued)
}

/// A component with what the cluster reports of it.
pub(crate) fn shown(cluster: &Cluster, name: ComponentName, observations: &ClusterObservations) -> ClusterComponent {
    ClusterComponent {
        name: name.as_str().to_owned(),
        cluster_id: cluster.id.to_string(),
        desired: views::component(cluster.components.get(name)),
        generation: cluster.generation.to_string(),
        observed: observed(cluster, name, observations),
    }
}

fn observed(cluster: &Cluster, name: ComponentName, observations: &ClusterObservations) -> Option<ComponentObserved> {
    let key = ObjectKey::ClusterConfig.to_string();
    let about = observations.object(&cluster.id, &key)?;
    let conditions = observations.conditions(&cluster.id, &key)?;
    let detail = about.details.unwrap_or_default();
    let health = component_health::health(name, cluster.components.get(name), conditions, &detail);
    let report = component_health::report(name, &detail).unwrap_or_default();
    let condition = about.conditions.into_iter().find(|condition| condition.kind == name.condition());
    let (reason, message) = condition.map(|condition| (condition.reason, condition.message)).unwrap_or_default();
    Some(ComponentObserved {
        connection: about.connection,
        as_of: about.as_of,
        revision: about.revision,
        ready: health == Health::Healthy,
        health: report.health,
        desired_version: report.desired_version,
        version: report.version,
        reason,
        message,
        unsettled_since: report.unsettled_since,
        last_error: report.last_error,
    })
}

#[cfg(test)]
pub(crate) mod testing {
    use crate::testing::TestApi;
    use jiff::Timestamp;
    use kubenova_core::cluster::ClusterId;
    use kubenova_store::observed::{self, ObservedObject, Version};
    use serde_json::json;

    /// What a cluster reports of Capsule, at the revision of a command.
    pub(crate) async fn report(api: &TestApi, cluster: &ClusterId, revision: i64, counter: i64, status: &str) {
        let condition = json!({
            "type": "CapsuleReady", "status": status, "reason": "NotAvailable", "message": "no replica is available",
            "observedGeneration": 3,
        });
        let component = json!({ "name": "capsule", "desiredVersion": "0.15.0", "version": "0.14.0", "health": "Degraded", "lastError": "pull" });
        let object = ObservedObject {
            object_key: "cluster-config/default".to_owned(),
            revision,
            absent: false,
            conditions: json!([condition]),
            detail: json!({ "components": [component], "generation": 3 }),
            as_of: Timestamp::UNIX_EPOCH,
        };
        let version = Version { epoch: 1, session: 1, counter };
        let mut connection = api.state.store.acquire().await.unwrap();
        assert_eq!(observed::merge(&mut connection, cluster, version, &[object]).await.unwrap(), 1);
    }
}
