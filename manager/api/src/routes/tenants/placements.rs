//! `GET /tenants/{tenant}/placements`: where a tenant is, and what is heard of it from there.

use crate::{
    error::ApiError, observations::ClusterObservations, request_context::RequestContext, routes::tenants,
    state::AppState, views,
};
use axum::{
    Json,
    extract::{Path, State},
};
use kubenova_api_types::{list::List, tenants::Placement};
use kubenova_core::cluster::ClusterId;
use kubenova_store::{placements, wire};

/// List a tenant's placements. All of them: a tenant is on few clusters.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/placements", tag = "tenants", operation_id = "listPlacements",
    params(("tenant" = String, Path, description = "Id or name")),
    responses((status = 200, description = "All placements", body = List<Placement>)))]
pub async fn list(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
) -> Result<Json<List<Placement>>, ApiError> {
    let mut connection = state.store.read().await?;
    let tenant = tenants::find(&mut connection, &ctx, &named).await?;
    let placed = placements::of_tenants(&mut connection, &[tenant.id]).await?;
    let key = wire::tenant_key(tenant.id).to_string();
    let ids: Vec<ClusterId> = placed.iter().map(|placement| placement.cluster_id.clone()).collect();
    let heard = ClusterObservations::read(&mut connection, &state, ctx.now, &ids, std::slice::from_ref(&key)).await?;
    let one = |placement| {
        let mut body = views::placement(placement);
        body.observed = heard.object(&placement.cluster_id, &key);
        body
    };
    Ok(Json(List { items: placed.iter().map(one).collect(), next_cursor: None }))
}
