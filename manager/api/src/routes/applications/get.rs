//! `GET /tenants/{tenant}/apps/{application}`.

use super::found;
use crate::{error::ApiError, request_context::RequestContext, response, routes::tenants, state::AppState, views};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::applications::Application;
use kubenova_store::applications;

/// Read an application: what is requested. How it does is at `/status`.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/apps/{application}", tag = "applications", operation_id = "getApplication",
    params(("tenant" = String, Path, description = "Id or name"), ("application" = String, Path, description = "Name")),
    responses((status = 200, description = "The application", body = Application)))]
pub async fn get(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path((named, name)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let mut connection = state.store.read().await?;
    let tenant = tenants::find(&mut connection, &ctx, &named).await?;
    let application = found(applications::find(&mut connection, tenant.id, &name).await?, &name)?;
    let targets = applications::targets(&mut connection, &[application.id]).await?;
    let etag = response::etag(&application.id, application.generation);
    Ok(response::with_etag(&etag, views::application(&tenant, &application, &targets)))
}
