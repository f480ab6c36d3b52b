//! `POST /tenants/{tenant}/apps/{application}/workflow/terminate`: a workflow is ended on each cluster of an application.

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

/// End the workflow of an application, on all its clusters or on those that are named.
///
/// The steps that have not ended fail, and so does the command that began the workflow. What runs goes on running. `POST .../restart`
/// begins the workflow once more.
#[utoipa::path(post, path = "/api/v1/tenants/{tenant}/apps/{application}/workflow/terminate", tag = "applications",
    operation_id = "terminateWorkflow",
    params(("tenant" = String, Path, description = "Id or name"), ("application" = String, Path, description = "Name"), ChangeParams),
    request_body(content = Option<ApplicationOperation>),
    responses((status = 202, description = "Stored; the clusters are sent operations", body = OperationAccepted)))]
pub async fn terminate(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(names): Path<Named>,
    Params(params): Params<ChangeParams>,
    OptionalBody(body): OptionalBody<ApplicationOperation>,
) -> Result<Response, ApiError> {
    operation::operate(&state, &ctx, names, params.dry_run, &body, WorkflowOperation::Terminate).await
}
