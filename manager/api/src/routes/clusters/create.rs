//! `POST /clusters`: a new cluster, its first command (the configuration) and the token that enrolls it.

use super::enroll;
use crate::{
    body::JsonBody,
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::{self, MutationResponse},
    state::AppState,
    views,
};
use axum::{extract::State, response::Response};
use kubenova_api_types::clusters::{ClusterCreate, ClusterCreated, ComponentChange, ComponentsChange};
use kubenova_core::{
    change::Change,
    cluster::{self, Cluster, ClusterId, ClusterName, ClusterState, Component, Components},
    refusal::Refusal,
};
use kubenova_runtime::random;
use kubenova_store::{clusters, enrollments};

/// Create a cluster.
///
/// The answer holds the enrollment token, shown this once, and the helm command that uses it.
#[utoipa::path(post, path = "/api/v1/clusters", tag = "clusters", operation_id = "createCluster", params(ChangeParams),
    request_body = ClusterCreate, responses((status = 201, description = "Created", body = ClusterCreated)))]
pub async fn create(
    State(state): State<AppState>,
    ctx: RequestContext,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<ClusterCreate>,
) -> Result<Response, ApiError> {
    let mut cluster = requested(&state, &ctx, body)?;
    let ticket = enroll::ticket(&state, &ctx, &cluster.id);

    let mut tx = ctx.write(&state).await?;
    clusters::insert(tx.connection(), &cluster).await?;
    enrollments::create(tx.connection(), &ticket.kept).await?;
    let change = Change::ClusterConfig { components: cluster.components.clone(), generation: cluster.generation };
    let enqueued = tx.enqueue_commands(std::slice::from_ref(&cluster.id), &change).await?;
    tx.audit(ctx.action, "create", &format!("cluster/{}", cluster.id), None).await?;

    cluster.revision = enqueued.iter().map(|one| one.revision).max().unwrap_or_default();
    let shown = ClusterCreated {
        cluster: views::cluster(&cluster),
        enrollment: ticket.shown,
        commands: views::enqueued(&enqueued),
    };
    let mut kept = shown.clone();
    kept.enrollment.token = None;
    MutationResponse::created()
        .location(format!("/api/v1/clusters/{}", cluster.id))
        .etag(response::etag(&cluster.id, cluster.generation))
        .operations(&enqueued)
        .commit(tx, params.dry_run, &shown, &kept)
        .await
}

/// Create a cluster (the same as `POST /api/v1/clusters`).
#[utoipa::path(post, path = "/clusters", tag = "clusters", operation_id = "createClusterAtRoot", params(ChangeParams),
    request_body = ClusterCreate, responses((status = 201, description = "Created", body = ClusterCreated)))]
pub async fn create_at_root(
    state: State<AppState>,
    ctx: RequestContext,
    params: Params<ChangeParams>,
    body: JsonBody<ClusterCreate>,
) -> Result<Response, ApiError> {
    create(state, ctx, params, body).await
}

fn requested(state: &AppState, ctx: &RequestContext, body: ClusterCreate) -> Result<Cluster, Refusal> {
    let name = ClusterName::parse(&body.name)?;
    cluster::check_descriptions(&body.datacenter, &body.labels)?;
    Ok(Cluster {
        id: ClusterId::from_uuid(random::uuid_v7()),
        name,
        datacenter: body.datacenter,
        labels: body.labels,
        components: components(state.settings.components.clone(), body.components.unwrap_or_default())?,
        generation: 1,
        epoch: 1,
        revision: 0,
        kubernetes_uid: None,
        incarnation: 0,
        state: ClusterState::PendingBootstrap,
        enrolled_at: None,
        created_at: ctx.now,
        updated_at: ctx.now,
        created_by: ctx.caller.subject.clone(),
    })
}

fn components(defaults: Components, change: ComponentsChange) -> Result<Components, Refusal> {
    let components = Components {
        capsule: component(defaults.capsule, change.capsule),
        capsule_proxy: component(defaults.capsule_proxy, change.capsule_proxy),
        kubevela: component(defaults.kubevela, change.kubevela),
    };
    components.capsule.check("/components/capsule")?;
    components.capsule_proxy.check("/components/capsuleProxy")?;
    components.kubevela.check("/components/kubevela")?;
    Ok(components)
}

fn component(default: Component, change: Option<ComponentChange>) -> Component {
    let Some(change) = change else { return default };
    Component {
        enabled: change.enabled.unwrap_or(default.enabled),
        version: change.version.unwrap_or(default.version),
        adopt: change.adopt.unwrap_or(default.adopt),
        replicas: change.replicas.unwrap_or(default.replicas),
        public_url: change.public_url.unwrap_or(default.public_url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::default_components;

    #[test]
    fn a_request_changes_only_what_it_says() {
        let change = ComponentsChange {
            capsule: Some(ComponentChange { replicas: Some(2), ..ComponentChange::default() }),
            ..ComponentsChange::default()
        };
        let components = components(default_components(), change).unwrap();
        assert_eq!(components.capsule, Component { replicas: 2, ..default_components().capsule });
        assert_eq!(components.kubevela, default_components().kubevela);
    }
}
