//! `POST /commands/{command}/cancel`.

use super::find_to_change;
use crate::{
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::MutationResponse,
    state::AppState,
    views,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::commands::Command;
use kubenova_core::{
    command,
    command_cancel::{self, Cancel},
    refusal::{Reason, Refusal},
};
use kubenova_store::write_tx::WriteTx;

/// Cancel a command that was not sent yet, or an operation.
///
/// A command that was not sent ends as `cancelled`, and its cluster never gets it. What is wanted of its object stays as it is, so a
/// retry sends it after all. A document that was sent cannot be cancelled, because only the cluster knows what became of it: write the
/// version before of the object again, and a newer command takes its place. Of an operation that was sent the cluster is asked to keep
/// it from beginning, by the command in `Operation-Location`: it ends as `cancelled` if it had not begun, else as it does. Repeating
/// the request changes nothing.
#[utoipa::path(post, path = "/api/v1/commands/{command}/cancel", tag = "commands", operation_id = "cancelCommand",
    params(("command" = String, Path, description = "Id"), ChangeParams),
    responses(
        (status = 200, description = "The command, cancelled; or a dry run", body = Command),
        (status = 202, description = "The operation, whose cluster is asked to keep it from beginning", body = Command)))]
pub async fn cancel(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    ctx.write(&state, params.dry_run, async |tx| {
        let command = find_to_change(tx.connection(), ctx.scope, &named).await?;
        // The statement decides, not what was read: the relay may send the command at any moment.
        if tx.cancel_command(command.id).await? {
            tx.audit(ctx.action, "cancel", &format!("command/{}", command.id), command.tenant_id).await?;
        }
        let command = find_to_change(tx.connection(), ctx.scope, &named).await?;
        match command_cancel::decide(&command)? {
            Cancel::Done => Ok(MutationResponse::done(&views::command(&command, ctx.now))),
            Cancel::Ask => ask(tx, &ctx, &named, &command).await,
        }
    })
    .await
}

/// Asks the cluster of an operation to keep it from beginning.
async fn ask(
    tx: &mut WriteTx,
    ctx: &RequestContext,
    named: &str,
    operation: &command::Command,
) -> Result<MutationResponse, ApiError> {
    let asked = tx.request_cancel(operation).await?;
    let Some(asked) = asked else {
        let detail = "the command has ended meanwhile";
        return Err(Refusal::new(Reason::CommandEnded, detail).into());
    };
    tx.audit(ctx.action, "cancel", &format!("command/{}", operation.id), operation.tenant_id).await?;
    let operation = find_to_change(tx.connection(), ctx.scope, named).await?;
    Ok(MutationResponse::accepted(&views::command(&operation, ctx.now)).operations(&[asked]))
}

#[cfg(test)]
mod tests {
    use crate::routes::applications::testing::{APPS, SHOP, World, form};
    use kubenova_core::{
        access::Role,
        command::{CommandId, CommandState},
        refusal::Reason,
    };
    use serde_json::json;

    fn path(command: CommandId) -> String {
        format!("/api/v1/commands/{command}/cancel")
    }

    async fn cancel(world: &World, command: CommandId) -> crate::testing::TestAnswer {
        world.api.post(&path(command)).send(&world.admin).await
    }

    #[tokio::test]
    async fn what_was_not_sent_ends_and_is_never_sent() {
        let world = World::new().await;
        let command = world.post(APPS, form("west")).await.is(202).commands()[0];
        let dry = world.api.post(&format!("{}?dryRun=true", path(command))).send(&world.admin).await.ok(200);
        assert_eq!(dry["state"], "cancelled");
        let read = async || world.get(&format!("/api/v1/commands/{command}")).await.ok(200);
        assert_eq!(read().await["state"], "queued");
        let cancelled = cancel(&world, command).await.ok(200);
        assert_eq!((&cancelled["state"], &cancelled["reason"]), (&json!("cancelled"), &json!("Requested")));
        assert_eq!(cancel(&world, command).await.ok(200), cancelled, "a repetition changes nothing");
        world.api.relay(&world.west).await;
        let read = read().await;
        assert_eq!((&read["state"], &read["attempts"]), (&json!("cancelled"), &json!(0)));
        assert_eq!(world.get(SHOP).await.is(200).body["state"], "active", "the application is still wanted");
    }

    #[tokio::test]
    async fn what_was_sent_or_has_ended_is_refused_with_what_to_do() {
        let world = World::new().await;
        let command = world.post(APPS, form("west")).await.is(202).commands()[0];
        world.api.relay(&world.west).await;
        let refused = cancel(&world, command).await.refused(Reason::CommandSent);
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains("the command is sent") && detail.contains("version before"), "{detail}");
        world.api.report(&world.west, command, CommandState::Failed, "No").await;
        cancel(&world, command).await.refused(Reason::CommandEnded);
    }

    #[tokio::test]
    async fn callers_of_a_tenant_cancel_only_commands_about_its_applications() {
        let world = World::new().await;
        let tenant = world.get("/api/v1/commands?tenant=acme&cluster=west").await.ok(200)["items"][0]["id"].clone();
        let tenant = CommandId::parse(tenant.as_str().unwrap()).unwrap();
        let application = world.post(APPS, form("west")).await.is(202).commands()[0];
        let owner = world.token(Role::TenantOwner, Some(world.acme)).await;
        let other = world.token(Role::TenantOwner, Some(world.other)).await;
        let reader = world.token(Role::ReadOnly, Some(world.acme)).await;
        world.api.post(&path(tenant)).send(&owner).await.refused(Reason::Forbidden);
        world.api.post(&path(application)).send(&other).await.refused(Reason::CommandNotFound);
        world.api.post(&path(application)).send(&reader).await.refused(Reason::Forbidden);
        world.api.post(&path(application)).send(&owner).await.is(200);
        world.api.post(&path(tenant)).send(&world.admin).await.is(200);
    }
}
