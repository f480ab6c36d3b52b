//! `DELETE /tenants/{tenant}/apps/{application}`: an explicit request that it be gone, on every cluster it is on.

use super::found;
use crate::{
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::{self, MutationResponse},
    routes::tenants,
    state::AppState,
    views,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::applications::ApplicationAccepted;
use kubenova_core::{change::Change, cluster::ClusterId};
use kubenova_store::applications;

/// Remove an application from all its clusters.
#[utoipa::path(delete, path = "/api/v1/tenants/{tenant}/apps/{application}", tag = "applications", operation_id = "deleteApplication",
    params(("tenant" = String, Path, description = "Id or name"), ("application" = String, Path, description = "Name"), ChangeParams),
    responses((status = 202, description = "Accepted; the clusters will hear of it", body = ApplicationAccepted)))]
pub async fn remove(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path((named, name)): Path<(String, String)>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let mut tx = ctx.write(&state).await?;
    let tenant = tenants::hold(tx.connection(), &ctx, &named).await?;
    let application = found(applications::find_to_change(tx.connection(), tenant.id, &name).await?, &name)?;
    ctx.matches(&response::etag(&application.id, application.generation))?;
    let targets = applications::targets(tx.connection(), &[application.id]).await?;
    let clusters: Vec<ClusterId> = targets.iter().map(|target| target.cluster_id.clone()).collect();
    let change = Change::ApplicationDeleted { tenant: tenant.name.clone(), application: application.clone() };
    let enqueued = tx.enqueue_commands(&clusters, &change).await?;
    applications::remove(tx.connection(), application.id).await?;
    tx.audit(ctx.action, "delete", &format!("application/{}/{}", tenant.id, application.name), Some(tenant.id)).await?;

    let body = ApplicationAccepted {
        application: views::application(&tenant, &application, &targets),
        commands: views::enqueued(&enqueued),
    };
    MutationResponse::accepted().operations(&enqueued).commit(tx, params.dry_run, &body, &body).await
}
