//! `POST /commands/{command}/retry`.

use super::find_to_change;
use crate::{
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::MutationResponse,
    routes::{
        applications::{not_deleting, removal},
        clusters::found,
        tenants,
    },
    state::AppState,
    views,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use jiff::SignedDuration;
use kubenova_api_types::commands::Command;
use kubenova_core::{
    application::Application,
    change::Change,
    cluster::ClusterRef,
    command, command_retry,
    operation::{DEADLINE_DEFAULT_SECONDS, DEADLINE_MIN_SECONDS, Operation, WorkflowOperation},
    refusal::{Reason, Refusal},
    tenant::{Tenant, TenantId},
};
use kubenova_schema::kinds::CommandKind;
use kubenova_store::{applications, clusters, commands, outbox::EnqueuedCommand, placements, write_tx::WriteTx};

/// Retry a command that ended without success.
///
/// Its object is sent again, under a new revision, by a new command; the answer is that one. Refused when something else is wanted
/// of the object on this cluster by now. Of an operation it makes a new one, with a new deadline.
#[utoipa::path(post, path = "/api/v1/commands/{command}/retry", tag = "commands", operation_id = "retryCommand",
    params(("command" = String, Path, description = "Id"), ChangeParams),
    responses((status = 202, description = "Stored; the new command", body = Command)))]
pub async fn retry(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    ctx.write(&state, params.dry_run, async |tx| {
        let command = find_to_change(tx.connection(), ctx.scope, &named).await?;
        command_retry::check_state(&command)?;
        let enqueued = send_again(tx, &ctx, &command).await?;
        tx.audit(ctx.action, "retry", &format!("command/{}", command.id), command.tenant_id).await?;
        let new = commands::find(tx.connection(), enqueued.command_id).await?;
        let new = new.ok_or_else(|| command_retry::outdated("the new command is gone"))?;
        Ok(MutationResponse::accepted(&views::command(&new, ctx.now))
            .location(format!("/api/v1/commands/{}", new.id))
            .operations(&[enqueued]))
    })
    .await
}

/// Writes a command with what is wanted of the object now, when that is what the command was about.
async fn send_again(
    tx: &mut WriteTx,
    ctx: &RequestContext,
    command: &command::Command,
) -> Result<EnqueuedCommand, ApiError> {
    let cluster = ClusterRef::Id(command.cluster_id.clone());
    let cluster = found(clusters::find(tx.connection(), &cluster).await?, &cluster)?;
    if !cluster.state.takes_changes() {
        let detail = format!("cluster \"{}\" is {}", cluster.name, cluster.state.as_str());
        return Err(Refusal::new(Reason::ClusterNotUsable, detail).into());
    }
    match (CommandKind::parse(&command.kind), command.tenant_id) {
        (Some(CommandKind::ApplyClusterConfig), _) => {
            let change = Change::ClusterConfig { components: cluster.components, generation: cluster.generation };
            enqueue(tx, command, &change).await
        }
        (Some(CommandKind::ApplyTenant), Some(tenant)) => tenant_again(tx, ctx, command, tenant).await,
        (Some(CommandKind::ApplyApplication), Some(tenant)) => application_again(tx, ctx, command, tenant).await,
        (Some(CommandKind::DeleteApplication), Some(tenant)) => removal_again(tx, ctx, command, tenant).await,
        (kind, Some(tenant)) if let Some(workflow) = kind.and_then(WorkflowOperation::of) => {
            operate_again(tx, ctx, command, tenant, workflow).await
        }
        _ => {
            let detail =
                format!("commands of kind {} are not retried: repeat the request that caused it", command.kind);
            Err(Refusal::new(Reason::CommandNotRetryable, detail).into())
        }
    }
}

async fn tenant_again(
    tx: &mut WriteTx,
    ctx: &RequestContext,
    command: &command::Command,
    tenant: TenantId,
) -> Result<EnqueuedCommand, ApiError> {
    let tenant = tenants::hold(tx.connection(), ctx, &tenant.to_string()).await?;
    let placed = placements::of_tenants(tx.connection(), &[tenant.id]).await?;
    if !placed.iter().any(|one| one.cluster_id == command.cluster_id) {
        let detail = format!("tenant \"{}\" is not placed on cluster {} any more", tenant.name, command.cluster_name);
        return Err(command_retry::outdated(detail).into());
    }
    enqueue(tx, command, &Change::Tenant(tenant)).await
}

/// The application that a command is about, with its tenant, both held.
async fn application_of(
    tx: &mut WriteTx,
    ctx: &RequestContext,
    command: &command::Command,
    tenant: TenantId,
) -> Result<(Tenant, Option<Application>), ApiError> {
    let tenant = tenants::hold(tx.connection(), ctx, &tenant.to_string()).await?;
    let application = applications::find_for_update(tx.connection(), tenant.id, name_of(command)).await?;
    Ok((tenant, application))
}

fn name_of(command: &command::Command) -> &str {
    command.application_name.as_deref().unwrap_or_default()
}

fn deleted(command: &command::Command) -> Refusal {
    command_retry::outdated(format!("the application \"{}\" was deleted", name_of(command)))
}

async fn application_again(
    tx: &mut WriteTx,
    ctx: &RequestContext,
    command: &command::Command,
    tenant: TenantId,
) -> Result<EnqueuedCommand, ApiError> {
    let (tenant, application) = application_of(tx, ctx, command, tenant).await?;
    let application = application.ok_or_else(|| deleted(command))?;
    let targets = applications::targets(tx.connection(), &[application.id]).await?;
    if !targets.iter().any(|target| target.cluster_id == command.cluster_id && target.delete_command.is_none()) {
        let (name, cluster) = (name_of(command), &command.cluster_name);
        let detail = format!("the application \"{name}\" should not run on cluster {cluster} any more");
        return Err(command_retry::outdated(detail).into());
    }
    enqueue(tx, command, &Change::Application { tenant: tenant.name, application }).await
}

/// A new operation, with as much time as the first had. One that was adopted from its cluster was written here after its time began.
async fn operate_again(
    tx: &mut WriteTx,
    ctx: &RequestContext,
    command: &command::Command,
    tenant: TenantId,
    workflow: WorkflowOperation,
) -> Result<EnqueuedCommand, ApiError> {
    let (_, application) = application_of(tx, ctx, command, tenant).await?;
    let application = application.ok_or_else(|| deleted(command))?;
    not_deleting(&application)?;
    let operation = Operation::on(&application, workflow);
    let clusters = std::slice::from_ref(&command.cluster_id);
    let given = command.not_after.unwrap_or(command.queued_at).duration_since(command.queued_at);
    let least = SignedDuration::from_secs(i64::from(DEADLINE_MIN_SECONDS));
    let given = if given < least { SignedDuration::from_secs(i64::from(DEADLINE_DEFAULT_SECONDS)) } else { given };
    let not_after = ctx.now.checked_add(given).unwrap_or(ctx.now);
    let enqueued = tx.enqueue_operations(clusters, &operation, not_after).await?;
    Ok(enqueued.into_iter().next().expect("one operation for each cluster"))
}

/// A delete is retried while the application still waits for this very command.
async fn removal_again(
    tx: &mut WriteTx,
    ctx: &RequestContext,
    command: &command::Command,
    tenant: TenantId,
) -> Result<EnqueuedCommand, ApiError> {
    let (tenant, application) = application_of(tx, ctx, command, tenant).await?;
    let not_awaited = || {
        let (name, cluster) = (name_of(command), &command.cluster_name);
        command_retry::outdated(format!("the delete of application \"{name}\" from cluster {cluster} is not awaited"))
    };
    let application = application.ok_or_else(not_awaited)?;
    check_newest(tx, command).await?;
    let targets = applications::targets(tx.connection(), &[application.id]).await?;
    if !targets.iter().any(|target| target.delete_command == Some(command.id)) {
        return Err(not_awaited().into());
    }
    let clusters = std::slice::from_ref(&command.cluster_id);
    let enqueued = removal::remove_from(tx, &tenant, &application, clusters, ctx.now).await?;
    Ok(enqueued.into_iter().next().ok_or_else(not_awaited)?)
}

/// The caller holds the object, so that no newer command about it is written meanwhile.
async fn enqueue(tx: &mut WriteTx, command: &command::Command, change: &Change) -> Result<EnqueuedCommand, ApiError> {
    check_newest(tx, command).await?;
    let enqueued = tx.enqueue_commands(std::slice::from_ref(&command.cluster_id), change).await?;
    Ok(enqueued.into_iter().next().expect("one command for each cluster"))
}

async fn check_newest(tx: &mut WriteTx, command: &command::Command) -> Result<(), ApiError> {
    let keys = std::slice::from_ref(&command.object_key);
    let newest = commands::newest(tx.connection(), std::slice::from_ref(&command.cluster_id), keys).await?;
    Ok(newest.first().map_or(Ok(()), |newest| command_retry::check_newest(command, newest))?)
}

#[cfg(test)]
mod tests {
    use crate::{
        routes::applications::testing::{APPS, SHOP, World, form},
        testing::TestAnswer,
    };
    use kubenova_core::{
        access::Role,
        command::{CommandId, CommandState},
        refusal::Reason,
    };
    use serde_json::json;

    fn path(command: CommandId) -> String {
        format!("/api/v1/commands/{command}/retry")
    }

    async fn retry(world: &World, command: CommandId) -> TestAnswer {
        world.api.post(&path(command)).send(&world.admin).await
    }

    /// `shop` on west, whose command ended there like this.
    async fn ended(state: CommandState) -> (World, CommandId) {
        let world = World::new().await;
        let command = world.post(APPS, form("west")).await.is(202).commands()[0];
        world.api.relay(&world.west).await;
        world.api.report(&world.west, command, state, "Because").await;
        (world, command)
    }

    fn id(answer: &TestAnswer) -> CommandId {
        CommandId::parse(answer.body["id"].as_str().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn what_ended_without_success_is_sent_again_by_a_new_command() {
        for state in [CommandState::Failed, CommandState::Refused, CommandState::Expired, CommandState::Cancelled] {
            let (world, command) = ended(state).await;
            let dry = world.api.post(&format!("{}?dryRun=true", path(command))).send(&world.admin).await;
            assert_eq!(dry.ok(200)["state"], "queued");
            let answer = world.api.post(&path(command)).key("k").send(&world.admin).await.is(202);
            let new = id(&answer);
            assert_eq!(answer.header("operation-location"), format!("/api/v1/commands/{new}"));
            assert_eq!(id(&world.api.post(&path(command)).key("k").send(&world.admin).await), new, "{state:?}");
            let old = world.get(&format!("/api/v1/commands/{command}")).await.ok(200);
            assert_eq!((&old["state"], old["target"] == answer.body["target"]), (&json!(state.as_str()), true));
            let again = retry(&world, command).await.refused(Reason::CommandOutdated);
            assert!(again["detail"].as_str().unwrap().contains(&new.to_string()), "{again}");
            world.api.relay(&world.west).await;
            world.api.report(&world.west, new, CommandState::Succeeded, "Ready").await;
            retry(&world, new).await.refused(Reason::CommandNotRetryable);
        }
    }

    #[tokio::test]
    async fn what_is_under_way_is_not_retried() {
        let world = World::new().await;
        let command = world.post(APPS, form("west")).await.is(202).commands()[0];
        retry(&world, command).await.refused(Reason::CommandNotRetryable);
        world.api.relay(&world.west).await;
        retry(&world, command).await.refused(Reason::CommandNotRetryable);
    }

    #[tokio::test]
    async fn what_is_not_wanted_any_more_is_not_sent_again() {
        let (world, command) = ended(CommandState::Failed).await;
        world.put(SHOP, json!({ "name": "shop", "image": "nginx:2", "clusters": ["west"] })).await.is(202);
        let refused = retry(&world, command).await.refused(Reason::CommandOutdated);
        assert!(refused["detail"].as_str().unwrap().contains("generation 2) is queued"), "{refused}");

        // Cancelled with the delete of its application, of which no cluster was sent anything.
        let world = World::new().await;
        let command = world.post(APPS, form("west")).await.is(202).commands()[0];
        world.delete(SHOP).await.is(200);
        let refused = retry(&world, command).await.refused(Reason::CommandOutdated);
        assert!(refused["detail"].as_str().unwrap().contains("was deleted"), "{refused}");
        // The same name again, on another cluster.
        world.post(APPS, form("east")).await.is(202);
        let refused = retry(&world, command).await.refused(Reason::CommandOutdated);
        assert!(refused["detail"].as_str().unwrap().contains("should not run on cluster west"), "{refused}");
    }

    #[tokio::test]
    async fn a_delete_that_failed_is_sent_again_and_the_application_waits_for_the_new_one() {
        let (world, _) = ended(CommandState::Succeeded).await;
        let delete = world.delete(SHOP).await.is(202).commands()[0];
        world.api.relay(&world.west).await;
        world.api.report(&world.west, delete, CommandState::Refused, "Freeze").await;
        let new = id(&retry(&world, delete).await.is(202));
        retry(&world, delete).await.refused(Reason::CommandOutdated);
        world.api.relay(&world.west).await;
        world.api.report(&world.west, new, CommandState::Succeeded, "Gone").await;
        world.get(SHOP).await.is(404);
        retry(&world, delete).await.refused(Reason::CommandOutdated);
    }

    #[tokio::test]
    async fn commands_of_clusters_and_tenants_are_for_those_who_run_them() {
        let world = World::new().await;
        world.api.relay(&world.west).await;
        let list = world.get("/api/v1/commands?cluster=west&state=sent").await.ok(200);
        let owner = world.token(Role::TenantOwner, Some(world.acme)).await;
        let ops = world.token(Role::Ops, None).await;
        let mut kinds = Vec::new();
        for item in list["items"].as_array().unwrap() {
            let command = CommandId::parse(item["id"].as_str().unwrap()).unwrap();
            world.api.report(&world.west, command, CommandState::Failed, "No").await;
            let own = item["tenantId"] == json!(world.acme.to_string());
            let refused = if own { Reason::Forbidden } else { Reason::CommandNotFound };
            world.api.post(&path(command)).send(&owner).await.refused(refused);
            kinds.push(world.api.post(&path(command)).send(&ops).await.ok(202)["kind"].as_str().unwrap().to_owned());
        }
        kinds.sort();
        assert_eq!(kinds, ["apply-cluster-config", "apply-tenant", "apply-tenant"]);
    }
}
