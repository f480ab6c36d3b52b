//! `POST /tenants/{tenant}/placements`: puts a tenant on one more cluster.

use super::{clusters_to_change, hold};
use crate::{
    answer::Reply,
    ask::{Ask, ChangeParams, Params},
    body::JsonBody,
    error::ApiError,
    show,
    state::AppState,
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
    ask: Ask,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<PlacementCreate>,
) -> Result<Response, ApiError> {
    let mut writer = ask.write(&state).await?;
    let tenant = hold(writer.connection(), &ask, &named).await?;
    let clusters = clusters_to_change(writer.connection(), &[body.cluster], "/cluster").await?;
    let ids: Vec<ClusterId> = clusters.into_iter().map(|cluster| cluster.id).collect();
    placements::insert(writer.connection(), tenant.id, &ids, &ask.caller.subject, ask.now).await?;
    let announced = writer.announce(&ids, &Change::Tenant(tenant.clone())).await?;
    writer.audit(ask.action, "place", &format!("tenant/{}", tenant.id), Some(tenant.id)).await?;

    let placed = placements::of_tenants(writer.connection(), &[tenant.id]).await?;
    let body = TenantAccepted { tenant: show::tenant(&tenant, &placed), commands: show::announced(&announced) };
    Reply::accepted()
        .location(format!("/api/v1/tenants/{}/placements", tenant.id))
        .operations(&announced)
        .commit(writer, params.dry_run, &body, &body)
        .await
}
