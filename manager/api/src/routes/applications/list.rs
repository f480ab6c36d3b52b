//! `GET /tenants/{tenant}/apps`.

use super::view::Surroundings;
use crate::{
    cursor,
    error::ApiError,
    request_context::{Params, RequestContext},
    routes::{clusters::list::ListParams, tenants},
    state::AppState,
};
use axum::{
    Json,
    extract::{Path, State},
};
use kubenova_api_types::{applications::ApplicationList, list::List};
use kubenova_core::application::ApplicationId;
use kubenova_store::applications;

const LIST: &str = "applications";

/// List a tenant's applications, oldest first.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/apps", tag = "applications", operation_id = "listApplications",
    params(("tenant" = String, Path, description = "Id or name"), ListParams),
    responses((status = 200, description = "One page", body = ApplicationList)))]
pub async fn list(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ListParams>,
) -> Result<Json<ApplicationList>, ApiError> {
    let mut connection = state.store.acquire().await?;
    let tenant = tenants::find(&mut connection, &ctx, &named).await?;
    let filter = tenant.id.to_string();
    let page =
        cursor::page(LIST, &filter, params.cursor.as_deref(), params.limit, |key| ApplicationId::parse(key).is_some())?;
    let mut applications = applications::list(&mut connection, tenant.id, &page).await?;
    let more = page.cut(&mut applications);
    let surroundings = Surroundings::read(&mut connection, &applications).await?;
    let next_cursor =
        applications.last().filter(|_| more).map(|last| cursor::after(LIST, &filter, &last.id.to_string()));
    let items = applications.iter().map(|application| surroundings.view(&tenant, application, ctx.now)).collect();
    Ok(Json(List { items, next_cursor }))
}

#[cfg(test)]
mod tests {
    use crate::routes::applications::testing::{APPS, World};
    use kubenova_core::access::Role;
    use serde_json::json;

    #[tokio::test]
    async fn pages_hold_every_application_once_oldest_first() {
        let world = World::new().await;
        let names: Vec<String> = (0..5).map(|number| format!("app-{number}")).collect();
        for name in &names {
            world.post(APPS, json!({ "name": name, "image": "x", "clusters": ["west"] })).await.is(202);
        }
        let (mut seen, mut path) = (Vec::new(), format!("{APPS}?limit=2"));
        loop {
            let page = world.get(&path).await.is(200).body;
            let items = page["items"].as_array().unwrap();
            assert!((1..=2).contains(&items.len()));
            seen.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
            let Some(cursor) = page["nextCursor"].as_str() else { break };
            path = format!("{APPS}?limit=2&cursor={cursor}");
        }
        assert_eq!(seen, names);
    }

    #[tokio::test]
    async fn a_cursor_belongs_to_its_list() {
        let world = World::new().await;
        for name in ["one", "two"] {
            world.post(APPS, json!({ "name": name, "image": "x", "clusters": ["west"] })).await.is(202);
        }
        let page = world.get(&format!("{APPS}?limit=1")).await.is(200).body;
        let cursor = page["nextCursor"].as_str().unwrap();
        let other = world.get(&format!("/api/v1/tenants/other/apps?cursor={cursor}")).await;
        assert_eq!(other.refusal(), (400, "CURSOR_INVALID", ""));
        assert_eq!(world.get(&format!("{APPS}?cursor=x{cursor}")).await.refusal(), (400, "CURSOR_INVALID", ""));
        assert_eq!(world.get(&format!("{APPS}?color=blue")).await.status, 400);
    }

    #[tokio::test]
    async fn who_may_list() {
        let world = World::new().await;
        for (role, status) in
            [(Role::TenantOwner, 200), (Role::ProjectDev, 200), (Role::ReadOnly, 200), (Role::Billing, 403)]
        {
            let token = world.token(role, Some(world.acme)).await;
            world.api.get(APPS).send(&token).await.is(status);
            let foreign = world.api.get("/api/v1/tenants/other/apps").send(&token).await;
            assert_eq!(foreign.status.as_u16(), if status == 200 { 404 } else { 403 });
        }
    }
}
