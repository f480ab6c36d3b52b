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
use kubenova_api_types::{list::List, tenants::TenantList};
use kubenova_core::tenant::TenantId;
use kubenova_store::{placements, tenants};

const LIST: &str = "tenants";

/// List tenants, oldest first: all, or the one that the caller is limited to.
#[utoipa::path(get, path = "/api/v1/tenants", tag = "tenants", operation_id = "listTenants", params(ListParams),
    responses((status = 200, description = "One page", body = TenantList)))]
pub async fn list(
    State(state): State<AppState>,
    ctx: RequestContext,
    Params(params): Params<ListParams>,
) -> Result<Json<TenantList>, ApiError> {
    let page = cursor::page(LIST, "", params.cursor.as_deref(), params.limit, |key| TenantId::parse(key).is_some())?;
    let mut connection = state.store.acquire().await?;
    let mut tenants = tenants::list(&mut connection, &page, ctx.scope.tenant()).await?;
    let more = page.cut(&mut tenants);
    let ids: Vec<TenantId> = tenants.iter().map(|tenant| tenant.id).collect();
    let placed = placements::of_tenants(&mut connection, &ids).await?;
    let next_cursor = tenants.last().filter(|_| more).map(|tenant| cursor::after(LIST, "", &tenant.id.to_string()));
    Ok(Json(List { items: tenants.iter().map(|tenant| views::tenant(tenant, &placed)).collect(), next_cursor }))
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use kubenova_core::access::Role;
    use serde_json::Value;

    fn names(page: &Value) -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn callers_see_all_tenants_or_their_own() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let mut ids = Vec::new();
        for name in ["b", "a", "c"] {
            ids.push(api.tenant(&admin, name, &[]).await);
        }
        let developer = api.caller(Role::ProjectDev, Some(ids[1])).await;
        assert_eq!(names(&api.get("/api/v1/tenants").send(&developer).await.ok(200)), ["a"]);
        let first = api.get("/api/v1/tenants?limit=2").send(&admin).await.ok(200);
        let path = format!("/api/v1/tenants?limit=2&cursor={}", first["nextCursor"].as_str().unwrap());
        let second = api.get(&path).send(&admin).await.ok(200);
        assert_eq!([names(&first), names(&second)].concat(), ["b", "a", "c"]);
        assert_eq!(second["nextCursor"], Value::Null);
    }
}
