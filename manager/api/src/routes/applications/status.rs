//! `GET /tenants/{tenant}/apps/{application}/status`: how an application does, cluster by cluster.

use super::found;
use crate::{
    error::ApiError, observations::ClusterObservations, request_context::RequestContext, routes::tenants,
    state::AppState, views,
};
use axum::{
    Json,
    extract::{Path, State},
};
use kubenova_api_types::{
    applications::{ApplicationClusterStatus, ApplicationStatus},
    clusters::Observed,
};
use kubenova_core::{
    application::Application,
    cluster::ClusterId,
    command::{Command, CommandState},
};
use kubenova_store::{applications, commands, wire};

/// Read how an application does on each cluster. What came from a cluster says as of when.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/apps/{application}/status", tag = "applications", operation_id = "getApplicationStatus",
    params(("tenant" = String, Path, description = "Id or name"), ("application" = String, Path, description = "Name")),
    responses((status = 200, description = "Its status", body = ApplicationStatus)))]
pub async fn status(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path((named, name)): Path<(String, String)>,
) -> Result<Json<ApplicationStatus>, ApiError> {
    let mut connection = state.store.read().await?;
    let tenant = tenants::find(&mut connection, &ctx, &named).await?;
    let application = found(applications::find(&mut connection, tenant.id, &name).await?, &name)?;
    let targets = applications::targets(&mut connection, &[application.id]).await?;
    let ids: Vec<ClusterId> = targets.iter().map(|target| target.cluster_id.clone()).collect();
    let key = wire::application_key(&application).to_string();
    let newest = commands::newest(&mut connection, &ids, std::slice::from_ref(&key)).await?;
    let heard = ClusterObservations::read(&mut connection, &state, ctx.now, &ids, std::slice::from_ref(&key)).await?;
    let clusters: Vec<ApplicationClusterStatus> = targets
        .into_iter()
        .map(|target| {
            let command = newest.iter().find(|command| command.cluster_id == target.cluster_id);
            let observed = heard.object(&target.cluster_id, &key);
            ApplicationClusterStatus {
                cluster_id: target.cluster_id.to_string(),
                cluster_name: target.cluster_name,
                ready: command.is_some_and(|command| ready(&application, command, observed.as_ref())),
                command: command.map(|command| views::command(command, ctx.now)),
                observed,
            }
        })
        .collect();
    Ok(Json(answer(&application, clusters)))
}

/// Read how an application does (the same as under `/api/v1/tenants`).
#[utoipa::path(get, path = "/users/{tenant}/apps/{application}/status", tag = "applications", operation_id = "getApplicationStatusAtRoot",
    params(("tenant" = String, Path, description = "Id or name"), ("application" = String, Path, description = "Name")),
    responses((status = 200, description = "Its status", body = ApplicationStatus)))]
pub async fn status_at_root(
    state: State<AppState>,
    ctx: RequestContext,
    names: Path<(String, String)>,
) -> Result<Json<ApplicationStatus>, ApiError> {
    status(state, ctx, names).await
}

/// The requested version is Ready: the cluster says so of this revision or a later one; where it said nothing yet, its last
/// word about the command counts.
fn ready(application: &Application, command: &Command, observed: Option<&Observed>) -> bool {
    let requested = command.generation == application.generation;
    match observed {
        Some(observed) => {
            requested
                && observed.ready
                && observed.revision.parse().is_ok_and(|revision: i64| revision >= command.revision)
        }
        None => requested && command.state == CommandState::Succeeded,
    }
}

fn answer(application: &Application, clusters: Vec<ApplicationClusterStatus>) -> ApplicationStatus {
    ApplicationStatus {
        id: application.id.to_string(),
        name: application.name.to_string(),
        tenant_id: application.tenant_id.to_string(),
        generation: application.generation.to_string(),
        ready: !clusters.is_empty() && clusters.iter().all(|cluster| cluster.ready),
        clusters,
    }
}
