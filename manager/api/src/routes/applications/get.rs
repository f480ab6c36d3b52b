//! `GET /tenants/{tenant}/apps/{application}`.

use super::{found, view::Surroundings};
use crate::{error::ApiError, request_context::RequestContext, response, routes::tenants, state::AppState};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::applications::Application;
use kubenova_store::applications;

/// Read an application: its desired state. How it does is at `/status`.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/apps/{application}", tag = "applications", operation_id = "getApplication",
    params(("tenant" = String, Path, description = "Id or name"), ("application" = String, Path, description = "Name")),
    responses((status = 200, description = "The application", body = Application)))]
pub async fn get(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path((named, name)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let mut connection = state.store.acquire().await?;
    let tenant = tenants::find(&mut connection, &ctx, &named).await?;
    let application = found(applications::find(&mut connection, tenant.id, &name).await?, &name)?;
    let surroundings = Surroundings::read(&mut connection, std::slice::from_ref(&application)).await?;
    let etag = response::etag(&application.id, application.generation);
    Ok(response::with_etag(&etag, surroundings.view(&tenant, &application, ctx.now)))
}

#[cfg(test)]
mod tests {
    use crate::routes::applications::testing::{APPS, SHOP, World, form};
    use kubenova_core::access::Role;

    #[tokio::test]
    async fn an_application_is_read_by_those_who_may() {
        let world = World::new().await;
        world.post(APPS, form("west")).await.is(202);
        for role in [Role::Admin, Role::TenantOwner, Role::ProjectDev, Role::ReadOnly] {
            let token = world.token(role, (role != Role::Admin).then_some(world.acme)).await;
            let read = world.api.get(SHOP).send(&token).await.is(200);
            assert_eq!(read.body["clusters"][0]["clusterName"], "west");
            assert_eq!(read.body["clusters"][0]["state"], "active");
        }
        let billing = world.token(Role::Billing, Some(world.acme)).await;
        world.api.get(SHOP).send(&billing).await.is(403);
    }

    #[tokio::test]
    async fn what_is_not_there_or_another_tenant_s_is_not_found() {
        let world = World::new().await;
        world.post("/api/v1/tenants/other/apps", form("west")).await.is(202);
        assert_eq!(world.get(SHOP).await.refusal(), (404, "APPLICATION_NOT_FOUND", ""));
        assert_eq!(world.get("/api/v1/tenants/none/apps/shop").await.refusal(), (404, "TENANT_NOT_FOUND", ""));
        let owner = world.token(Role::TenantOwner, Some(world.acme)).await;
        let path = "/api/v1/tenants/other/apps/shop";
        let foreign = world.api.get(path).send(&owner).await;
        assert_eq!(foreign.refusal(), (404, "TENANT_NOT_FOUND", ""));
    }
}
