//! `GET /tenants`.

use crate::{
    cursor,
    error::ApiError,
    request_context::{Params, RequestContext},
    routes::clusters::list::ListParams,
    state::AppState,
    views,
};
use axum::{Json, extract::State};
use kubenova_api_types::{list::List, tenants::Tenant};
use kubenova_core::tenant::TenantId;
use kubenova_store::{placements, tenants};

const LIST: &str = "tenants";

/// List tenants, oldest first: all, or the one that the caller is limited to.
#[utoipa::path(get, path = "/api/v1/tenants", tag = "tenants", operation_id = "listTenants", params(ListParams),
    responses((status = 200, description = "One page", body = List<Tenant>)))]
pub async fn list(
    State(state): State<AppState>,
    ctx: RequestContext,
    Params(params): Params<ListParams>,
) -> Result<Json<List<Tenant>>, ApiError> {
    let page = cursor::page(LIST, "", params.cursor.as_deref(), params.limit)?;
    let mut connection = state.store.read().await?;
    let mut tenants = tenants::list(&mut connection, &page, ctx.scope.tenant()).await?;
    let more = page.cut(&mut tenants);
    let ids: Vec<TenantId> = tenants.iter().map(|tenant| tenant.id).collect();
    let placed = placements::of_tenants(&mut connection, &ids).await?;
    let next_cursor = tenants.last().filter(|_| more).map(|tenant| cursor::after(LIST, "", &tenant.id.to_string()));
    Ok(Json(List { items: tenants.iter().map(|tenant| views::tenant(tenant, &placed)).collect(), next_cursor }))
}
