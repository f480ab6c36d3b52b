//! `POST /tenants/{tenant}/apps/{application}/workflow/resume`: a workflow that is held goes on on each cluster of an application.

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

/// Have the workflow of an application go on, on all its clusters or on those that are named.
///
/// Ends a step of type `suspend` as well as what `POST .../workflow/suspend` asked for. Where the workflow is not held, the operation
/// fails.
#[utoipa::path(post, path = "/api/v1/tenants/{tenant}/apps/{application}/workflow/resume", tag = "applications",
    operation_id = "resumeWorkflow",
    params(("tenant" = String, Path, description = "Id or name"), ("application" = String, Path, description = "Name"), ChangeParams),
    request_body(content = Option<ApplicationOperation>),
    responses((status = 202, description = "Stored; the clusters are sent operations", body = OperationAccepted)))]
pub async fn resume(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(names): Path<Named>,
    Params(params): Params<ChangeParams>,
    OptionalBody(body): OptionalBody<ApplicationOperation>,
) -> Result<Response, ApiError> {
    operation::operate(&state, &ctx, names, params.dry_run, &body, WorkflowOperation::Resume).await
}

#[cfg(test)]
mod tests {
    use crate::routes::applications::testing::{APPS, World, form};
    use kubenova_core::{access::Role, refusal::Reason};
    use serde_json::json;

    #[tokio::test]
    async fn a_workflow_is_held_let_go_and_ended_by_operations_of_their_own() {
        let world = World::new().await;
        world.post(APPS, form("west")).await.is(202);
        for word in ["suspend", "resume", "terminate"] {
            let path = format!("{APPS}/shop/workflow/{word}");
            let answer = world.api.post(&path).send(&world.admin).await.is(202);
            let id = answer.commands()[0];
            let shown = world.get(&format!("/api/v1/commands/{id}")).await.ok(200);
            let said = (&shown["kind"], &shown["target"]["application"], &shown["notAfter"]);
            assert_eq!(said, (&json!(format!("{word}-workflow")), &json!("shop"), &answer.body["notAfter"]));
            let body = json!({ "clusters": ["north"] });
            assert_eq!(world.post(&path, body).await.refusal(), (422, "FIELD_INVALID", "/clusters"));
            let reader = world.token(Role::ReadOnly, Some(world.acme)).await;
            world.api.post(&path).send(&reader).await.is(403);
            world.post(&format!("{APPS}/none/workflow/{word}"), json!({})).await.refused(Reason::ApplicationNotFound);
        }
    }

    #[tokio::test]
    async fn an_operation_on_a_workflow_is_retried_as_the_same() {
        let world = World::new().await;
        world.post(APPS, form("west")).await.is(202);
        let path = format!("{APPS}/shop/workflow/resume");
        let id = world.api.post(&path).send(&world.admin).await.is(202).commands()[0];
        world.api.post(&format!("/api/v1/commands/{id}/cancel")).send(&world.admin).await.ok(200);
        let again = world.api.post(&format!("/api/v1/commands/{id}/retry")).send(&world.admin).await.is(202);
        assert_eq!(again.body["kind"], "resume-workflow");
    }
}
