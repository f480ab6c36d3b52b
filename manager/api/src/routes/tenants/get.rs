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
    let mut connection = state.store.acquire().await?;
    let tenant = tenants::find(&mut connection, &ctx, &named).await?;
    let placed = placements::of_tenants(&mut connection, &[tenant.id]).await?;
    Ok(response::with_etag(&response::etag(&tenant.id, tenant.generation), views::tenant(&tenant, &placed)))
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use kubenova_core::{access::Role, refusal::Reason};

    #[tokio::test]
    async fn a_tenant_is_read_by_id_and_by_name_also_by_its_owner() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let id = api.tenant(&admin, "acme", &[]).await;
        let owner = api.caller(Role::TenantOwner, Some(id)).await;
        let by_name = api.get("/api/v1/tenants/acme").send(&owner).await;
        assert_eq!(by_name.ok(200), api.get(&format!("/api/v1/tenants/{id}")).send(&admin).await.ok(200));
        assert_eq!(by_name.header("etag"), format!("\"{id}.1\""));
        api.get("/api/v1/tenants/none").send(&admin).await.refused(Reason::TenantNotFound);
    }
}
