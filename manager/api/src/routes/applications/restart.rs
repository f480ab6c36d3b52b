//! `POST /tenants/{tenant}/apps/{application}/restart`: an operation on each cluster of an application.

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

/// Run the workflow of an application once more, on all its clusters or on those that are named.
///
/// Each cluster gets an operation of its own: it begins before its deadline or expires, and is carried out once. It can be cancelled
/// until it has begun. The desired state stays as it is.
#[utoipa::path(post, path = "/api/v1/tenants/{tenant}/apps/{application}/restart", tag = "applications",
    operation_id = "restartApplication",
    params(("tenant" = String, Path, description = "Id or name"), ("application" = String, Path, description = "Name"), ChangeParams),
    request_body(content = Option<ApplicationOperation>),
    responses((status = 202, description = "Stored; the clusters are sent operations", body = OperationAccepted)))]
pub async fn restart(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(names): Path<Named>,
    Params(params): Params<ChangeParams>,
    OptionalBody(body): OptionalBody<ApplicationOperation>,
) -> Result<Response, ApiError> {
    operation::operate(&state, &ctx, names, params.dry_run, &body, WorkflowOperation::Restart).await
}

/// Restart an application (the same as under `/api/v1/tenants`).
#[utoipa::path(post, path = "/users/{tenant}/apps/{application}/restart", tag = "applications",
    operation_id = "restartApplicationAtRoot",
    params(("tenant" = String, Path, description = "Id or name"), ("application" = String, Path, description = "Name"), ChangeParams),
    request_body(content = Option<ApplicationOperation>),
    responses((status = 202, description = "Stored; the clusters are sent operations", body = OperationAccepted)))]
pub async fn restart_at_root(
    state: State<AppState>,
    ctx: RequestContext,
    names: Path<Named>,
    params: Params<ChangeParams>,
    body: OptionalBody<ApplicationOperation>,
) -> Result<Response, ApiError> {
    restart(state, ctx, names, params, body).await
}

#[cfg(test)]
mod tests {
    use crate::routes::applications::testing::{APPS, SHOP, World};
    use jiff::Timestamp;
    use kubenova_core::{
        access::Role,
        command::{CommandId, CommandState},
        refusal::Reason,
    };
    use kubenova_runtime::clock;
    use serde_json::{Value, json};

    const RESTART: &str = "/api/v1/tenants/acme/apps/shop/restart";

    /// `shop` on west and east, sent to both and ready there.
    async fn running() -> World {
        let world = World::new().await;
        let body = json!({ "name": "shop", "image": "nginx:1", "clusters": ["west", "east"] });
        let commands = world.post(APPS, body).await.is(202).commands();
        world.api.relay(&world.west).await;
        world.api.relay(&world.east).await;
        let of = async |cluster: &str| {
            let list = world.get(&format!("/api/v1/commands?application=shop&cluster={cluster}")).await.ok(200);
            CommandId::parse(list["items"][0]["id"].as_str().unwrap()).unwrap()
        };
        assert_eq!(commands.len(), 2);
        world.api.report(&world.west, of("west").await, CommandState::Succeeded, "Ready").await;
        world.api.report(&world.east, of("east").await, CommandState::Succeeded, "Ready").await;
        world
    }

    async fn command(world: &World, id: CommandId) -> Value {
        world.get(&format!("/api/v1/commands/{id}")).await.ok(200)
    }

    #[tokio::test]
    async fn each_cluster_gets_an_operation_with_a_deadline() {
        let world = running().await;
        let before: Timestamp = clock::now();
        let answer = world.api.post(RESTART).send(&world.admin).await.is(202);
        let commands = answer.commands();
        assert_eq!(commands.len(), 2);
        let not_after: Timestamp = answer.body["notAfter"].as_str().unwrap().parse().unwrap();
        assert!((599..=700).contains(&not_after.duration_since(before).as_secs()), "{not_after}");
        assert_eq!(answer.headers.get_all("operation-location").iter().count(), 2);
        assert!(answer.header("location").ends_with("&application=shop"));
        let shown = command(&world, commands[0]).await;
        assert_eq!((&shown["kind"], &shown["target"]["application"]), (&json!("restart-workflow"), &json!("shop")));
        assert_eq!(shown["target"]["key"], format!("operation/{}", commands[0]));
        assert_eq!(shown["notAfter"], answer.body["notAfter"]);
        assert_eq!(world.get(SHOP).await.is(200).body["generation"], "1", "the desired state is as it was");
        let status = world.get(&format!("{SHOP}/status")).await.ok(200);
        assert_eq!(status["clusters"][0]["command"]["kind"], "apply-application", "it is about the document");
    }

    #[tokio::test]
    async fn clusters_and_deadline_are_chosen_and_checked() {
        let world = running().await;
        let one = world.post(RESTART, json!({ "clusters": ["west", "west"], "deadlineSeconds": 10 })).await.is(202);
        assert_eq!(one.commands().len(), 1);
        assert_eq!(one.header("location"), format!("/api/v1/commands/{}", one.commands()[0]));
        let at_root = world.api.post("/users/acme/apps/shop/restart").send(&world.admin).await.is(202);
        assert_eq!(at_root.commands().len(), 2);
        for (body, pointer) in [
            (json!({ "deadlineSeconds": 9 }), "/deadlineSeconds"),
            (json!({ "deadlineSeconds": 86_401 }), "/deadlineSeconds"),
            (json!({ "clusters": ["north"] }), "/clusters"),
            (json!({ "clusters": [] }), "/clusters"),
        ] {
            assert_eq!(world.post(RESTART, body.clone()).await.refusal(), (422, "FIELD_INVALID", pointer), "{body}");
        }
        let dry = world.api.post(&format!("{RESTART}?dryRun=true")).send(&world.admin).await.ok(200);
        assert_eq!(dry["commands"], json!([]));
        world.post("/api/v1/tenants/acme/apps/none/restart", json!({})).await.refused(Reason::ApplicationNotFound);
        world.delete(SHOP).await.is(202);
        world.post(RESTART, json!({})).await.refused(Reason::ApplicationDeleting);
    }

    #[tokio::test]
    async fn who_may_write_applications_may_restart_them() {
        let world = running().await;
        for (role, status) in
            [(Role::TenantOwner, 202), (Role::ProjectDev, 202), (Role::ReadOnly, 403), (Role::Billing, 403)]
        {
            let token = world.token(role, Some(world.acme)).await;
            world.api.post(RESTART).send(&token).await.is(status);
        }
        let foreign = world.token(Role::TenantOwner, Some(world.other)).await;
        world.api.post(RESTART).send(&foreign).await.refused(Reason::TenantNotFound);
    }

    #[tokio::test]
    async fn a_sent_operation_is_cancelled_by_its_cluster_and_retried_as_a_new_one() {
        let world = running().await;
        let id = world.post(RESTART, json!({ "clusters": ["west"] })).await.is(202).commands()[0];
        world.api.relay(&world.west).await;
        let cancel = async || world.api.post(&format!("/api/v1/commands/{id}/cancel")).send(&world.admin).await.is(202);
        let asked = cancel().await;
        let shown = (&asked.body["state"], &asked.body["reason"]);
        assert_eq!(shown, (&json!("sent"), &json!("CancelRequested")));
        let path = asked.header("operation-location");
        let request = CommandId::parse(path.rsplit('/').next().unwrap()).unwrap();
        assert_eq!(cancel().await.header("operation-location"), path, "a repetition asks once");
        let retry = || world.api.post(&format!("/api/v1/commands/{id}/retry"));
        retry().send(&world.admin).await.refused(Reason::CommandNotRetryable);

        world.api.relay(&world.west).await;
        world.api.report(&world.west, request, CommandState::Acknowledged, "Stored").await;
        let cancelled = command(&world, id).await;
        assert_eq!((&cancelled["state"], &cancelled["reason"]), (&json!("cancelled"), &json!("Requested")));
        world.api.post(&format!("/api/v1/commands/{id}/cancel")).send(&world.admin).await.is(200);

        let again = retry().send(&world.admin).await.is(202);
        assert_ne!(again.body["id"], cancelled["id"]);
        assert_eq!((&again.body["kind"], &again.body["state"]), (&json!("restart-workflow"), &json!("queued")));
    }

    #[tokio::test]
    async fn a_queued_operation_is_cancelled_at_once() {
        let world = running().await;
        let id = world.post(RESTART, json!({ "clusters": ["west"] })).await.is(202).commands()[0];
        let cancelled = world.api.post(&format!("/api/v1/commands/{id}/cancel")).send(&world.admin).await.ok(200);
        assert_eq!(cancelled["state"], "cancelled");
    }
}
