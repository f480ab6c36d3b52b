//! `POST /tenants/{tenant}/placements`: puts a tenant on one more cluster.

use super::{clusters_to_change, hold};
use crate::{
    body::JsonBody,
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::MutationResponse,
    state::AppState,
    views,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::tenants::{PlacementCreate, TenantAccepted};
use kubenova_core::{change::Change, cluster::ClusterId};
use kubenova_store::placements;

/// Place a tenant on a cluster.
#[utoipa::path(post, path = "/api/v1/tenants/{tenant}/placements", tag = "tenants", operation_id = "createPlacement",
    params(("tenant" = String, Path, description = "Id or name"), ChangeParams), request_body = PlacementCreate,
    responses((status = 202, description = "Accepted; the cluster will hear of it", body = TenantAccepted)))]
pub async fn place(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<PlacementCreate>,
) -> Result<Response, ApiError> {
    let mut tx = ctx.write(&state).await?;
    let tenant = hold(tx.connection(), &ctx, &named).await?;
    let clusters = clusters_to_change(tx.connection(), &[body.cluster], "/cluster").await?;
    let ids: Vec<ClusterId> = clusters.into_iter().map(|cluster| cluster.id).collect();
    placements::insert(tx.connection(), tenant.id, &ids, &ctx.caller.subject, ctx.now).await?;
    let enqueued = tx.enqueue_commands(&ids, &Change::Tenant(tenant.clone())).await?;
    tx.audit(ctx.action, "place", &format!("tenant/{}", tenant.id), Some(tenant.id)).await?;

    let placed = placements::of_tenants(tx.connection(), &[tenant.id]).await?;
    let body = TenantAccepted { tenant: views::tenant(&tenant, &placed), commands: views::enqueued(&enqueued) };
    MutationResponse::accepted()
        .location(format!("/api/v1/tenants/{}/placements", tenant.id))
        .operations(&enqueued)
        .commit(tx, params.dry_run, &body, &body)
        .await
}
