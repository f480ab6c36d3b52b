//! `GET /tenants/{tenant}`.

use crate::{error::ApiError, request_context::RequestContext, response, routes::tenants, state::AppState, views};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::tenants::Tenant;
use kubenova_store::placements;

/// Read a tenant by id or name.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}", tag = "tenants", operation_id = "getTenant",
    params(("tenant" = String, Path, description = "Id or name")),
    responses((status = 200, description = "The tenant", body = Tenant)))]
pub async fn get(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
) -> Result<Response, ApiError> {
    let mut connection = state.store.read().await?;
    let tenant = tenants::find(&mut connection, &ctx, &named).await?;
    let placed = placements::of_tenants(&mut connection, &[tenant.id]).await?;
    Ok(response::with_etag(&response::etag(&tenant.id, tenant.generation), views::tenant(&tenant, &placed)))
}
