//! `GET /tenants/{tenant}/apps`.

use crate::{
    cursor,
    error::ApiError,
    request_context::{Params, RequestContext},
    routes::{clusters::list::ListParams, tenants},
    state::AppState,
    views,
};
use axum::{
    Json,
    extract::{Path, State},
};
use kubenova_api_types::{applications::Application, list::List};
use kubenova_core::application::ApplicationId;
use kubenova_store::applications;

const LIST: &str = "applications";

/// List a tenant's applications, oldest first.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/apps", tag = "applications", operation_id = "listApplications",
    params(("tenant" = String, Path, description = "Id or name"), ListParams),
    responses((status = 200, description = "One page", body = List<Application>)))]
pub async fn list(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ListParams>,
) -> Result<Json<List<Application>>, ApiError> {
    let mut connection = state.store.read().await?;
    let tenant = tenants::find(&mut connection, &ctx, &named).await?;
    let filter = tenant.id.to_string();
    let page = cursor::page(LIST, &filter, params.cursor.as_deref(), params.limit)?;
    let mut applications = applications::list(&mut connection, tenant.id, &page).await?;
    let more = page.cut(&mut applications);
    let ids: Vec<ApplicationId> = applications.iter().map(|application| application.id).collect();
    let targets = applications::targets(&mut connection, &ids).await?;
    let next_cursor =
        applications.last().filter(|_| more).map(|last| cursor::after(LIST, &filter, &last.id.to_string()));
    let items = applications.iter().map(|application| views::application(&tenant, application, &targets)).collect();
    Ok(Json(List { items, next_cursor }))
}
