//! `POST /tenants/{tenant}/apps/{application}/workflow/suspend`: a workflow is held where it is on each cluster of an application.

use super::operation::{self, Named};
use crate::{
    body::OptionalBody,
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::{applications::ApplicationOperation, commands::OperationAccepted};
use kubenova_core::operation::WorkflowOperation;

/// Hold the workflow of an application where it is, on all its clusters or on those that are named.
///
/// What runs goes on running; no further step begins until the workflow is resumed. Its command does not fail meanwhile: no deadline
/// counts. Where the workflow has ended, or is held already, the operation fails.
#[utoipa::path(post, path = "/api/v1/tenants/{tenant}/apps/{application}/workflow/suspend", tag = "applications",
    operation_id = "suspendWorkflow",
    params(("tenant" = String, Path, description = "Id or name"), ("application" = String, Path, description = "Name"), ChangeParams),
    request_body(content = Option<ApplicationOperation>),
    responses((status = 202, description = "Stored; the clusters are sent operations", body = OperationAccepted)))]
pub async fn suspend(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(names): Path<Named>,
    Params(params): Params<ChangeParams>,
    OptionalBody(body): OptionalBody<ApplicationOperation>,
) -> Result<Response, ApiError> {
    operation::operate(&state, &ctx, names, params.dry_run, &body, WorkflowOperation::Suspend).await
}
