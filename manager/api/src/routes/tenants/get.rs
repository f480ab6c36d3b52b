//! `GET /tenants/{tenant}`.

use crate::{answer, ask::Ask, error::ApiError, routes::tenants, show, state::AppState};
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
pub async fn get(State(state): State<AppState>, ask: Ask, Path(named): Path<String>) -> Result<Response, ApiError> {
    let mut connection = state.store.read().await?;
    let tenant = tenants::find(&mut connection, &ask, &named).await?;
    let placed = placements::of_tenants(&mut connection, &[tenant.id]).await?;
    Ok(answer::with_etag(&answer::etag(&tenant.id, tenant.generation), show::tenant(&tenant, &placed)))
}
