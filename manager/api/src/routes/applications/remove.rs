//! `DELETE /tenants/{tenant}/apps/{application}`: an explicit request that it be removed from every cluster it is on.

use super::{found, removal, view::Surroundings};
use crate::{
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::{self, MutationResponse},
    routes::tenants,
    state::AppState,
    views,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::applications::{ApplicationAccepted, ApplicationState};
use kubenova_core::cluster::ClusterId;
use kubenova_store::{application_removal, applications};

/// Delete an application from all its clusters.
///
/// It stays visible with the state `deleting` until every cluster reported that nothing of it is left: no pod, also none of a
/// Job, and no claim, also none of a StatefulSet. A cluster that was never sent anything about it is done at once; when that
/// holds for all of them the answer is 200 and the application is gone. Repeating the request changes nothing, except that
/// clusters whose delete command ended without success are sent another one.
#[utoipa::path(delete, path = "/api/v1/tenants/{tenant}/apps/{application}", tag = "applications", operation_id = "deleteApplication",
    params(("tenant" = String, Path, description = "Id or name"), ("application" = String, Path, description = "Name"), ChangeParams),
    responses(
        (status = 202, description = "The delete is stored; clusters are sent delete commands", body = ApplicationAccepted),
        (status = 200, description = "Deleted: no cluster was ever sent anything about it; or a dry run", body = ApplicationAccepted)))]
pub async fn remove(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path((named, name)): Path<(String, String)>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    ctx.write(&state, params.dry_run, async |tx| {
        let tenant = tenants::hold(tx.connection(), &ctx, &named).await?;
        let mut application = found(applications::find_for_update(tx.connection(), tenant.id, &name).await?, &name)?;
        ctx.matches(&response::etag(&application.id, application.generation))?;
        let targets = applications::targets(tx.connection(), &[application.id]).await?;
        let clusters: Vec<ClusterId> = targets.into_iter().map(|target| target.cluster_id).collect();
        let enqueued = removal::remove_from(tx, &tenant, &application, &clusters, ctx.now).await?;
        let repeated = application.deleting_since.is_some();
        application.deleting_since.get_or_insert(ctx.now);
        application_removal::mark_deleting(tx.connection(), application.id, ctx.now).await?;
        let gone = application_removal::remove_if_nowhere(tx.connection(), application.id).await?;
        if !repeated || !enqueued.is_empty() {
            let target = format!("application/{}/{}", tenant.id, application.name);
            tx.audit(ctx.action, "delete", &target, Some(tenant.id)).await?;
        }

        let surroundings = Surroundings::read(tx.connection(), std::slice::from_ref(&application)).await?;
        let mut view = surroundings.view(&tenant, &application, ctx.now);
        if gone {
            view.state = ApplicationState::Deleted;
        }
        let body = ApplicationAccepted { application: view, commands: views::enqueued(&enqueued) };
        let response = if gone { MutationResponse::done(&body) } else { MutationResponse::accepted(&body) };
        Ok(response.operations(&enqueued))
    })
    .await
}

#[cfg(test)]
mod tests {
    use crate::routes::applications::testing::{APPS, SHOP, World, form};
    use kubenova_core::{access::Role, command::CommandState};
    use serde_json::{Value, json};

    /// `shop` on west and east, sent to both.
    async fn running() -> World {
        let world = World::new().await;
        world.post(APPS, json!({ "name": "shop", "image": "nginx:1", "clusters": ["west", "east"] })).await.is(202);
        world.api.relay(&world.west).await;
        world.api.relay(&world.east).await;
        world
    }

    fn removal(application: &Value, cluster: &str) -> Value {
        let clusters = application["clusters"].as_array().unwrap();
        clusters.iter().find(|one| one["clusterName"] == cluster).map_or(Value::Null, |one| one["removal"].clone())
    }

    #[tokio::test]
    async fn it_stays_visible_until_every_cluster_removed_it() {
        let world = running().await;
        let deleted = world.delete(SHOP).await.is(202);
        let commands = deleted.commands();
        assert_eq!((commands.len(), &deleted.body["state"]), (2, &"deleting".into()));
        assert_eq!(world.get(APPS).await.body["items"][0]["state"], "deleting");

        world.api.relay(&world.west).await;
        world.api.defer(&world.west, commands[0], "DeletesPerHour").await;
        let read = world.get(SHOP).await.is(200).body;
        let west = removal(&read, "west");
        assert_eq!((&west["state"], &west["waitingFor"]), (&"sent".into(), &"DeletesPerHour".into()));
        assert!(west["nextAttemptAt"].is_string(), "{west}");
        assert_eq!(removal(&read, "east")["waitingFor"], "ClusterNotJoined");

        world.api.report(&world.west, commands[0], CommandState::Succeeded, "Gone").await;
        let read = world.get(SHOP).await.is(200).body;
        assert_eq!(read["clusters"].as_array().unwrap().len(), 1);
        world.api.relay(&world.east).await;
        world.api.report(&world.east, commands[1], CommandState::Succeeded, "Gone").await;
        world.get(SHOP).await.is(404);
        assert_eq!(world.get(APPS).await.body["items"], json!([]));
        world.post(APPS, form("west")).await.is(202);
    }

    #[tokio::test]
    async fn a_second_delete_changes_nothing() {
        let world = running().await;
        let first = world.delete(SHOP).await.is(202);
        let second = world.delete(SHOP).await.is(202);
        assert_eq!(second.commands(), []);
        assert_eq!(second.body["deletingSince"], first.body["deletingSince"]);
        assert_eq!(second.body["clusters"], first.body["clusters"]);
    }

    #[tokio::test]
    async fn a_refused_delete_stays_visible_with_its_reason_and_can_be_tried_again() {
        let world = running().await;
        let commands = world.delete(SHOP).await.is(202).commands();
        world.api.relay(&world.west).await;
        world.api.report(&world.west, commands[0], CommandState::Refused, "Freeze").await;
        let west = removal(&world.get(SHOP).await.is(200).body, "west");
        assert_eq!((&west["state"], &west["reason"]), (&"refused".into(), &"Freeze".into()));
        assert_eq!(west["message"], "the cluster says Freeze");
        let again = world.delete(SHOP).await.is(202);
        assert_eq!(again.commands().len(), 1, "only the cluster that refused is asked again");
        let west = removal(&world.get(SHOP).await.body, "west");
        assert_eq!((&west["state"], &west["commandId"]), (&"queued".into(), &again.commands()[0].to_string().into()));
    }

    #[tokio::test]
    async fn its_name_is_not_free_and_it_cannot_be_changed_meanwhile() {
        let world = running().await;
        world.delete(SHOP).await.is(202);
        assert_eq!(world.post(APPS, form("west")).await.refusal(), (409, "APPLICATION_DELETING", ""));
        assert_eq!(world.put(SHOP, form("west")).await.refusal(), (409, "APPLICATION_DELETING", ""));
    }

    #[tokio::test]
    async fn what_no_cluster_was_ever_sent_is_gone_at_once() {
        let world = World::new().await;
        let apply = world.post(APPS, form("west")).await.is(202).commands()[0];
        let deleted = world.delete(SHOP).await.is(200);
        assert_eq!((deleted.commands().len(), &deleted.body["state"]), (0, &"deleted".into()));
        world.get(SHOP).await.is(404);
        assert_eq!(world.get(&format!("/api/v1/commands/{apply}")).await.body["state"], "cancelled");
        world.post(APPS, form("west")).await.is(202);
    }

    #[tokio::test]
    async fn only_clusters_that_were_sent_something_are_waited_for() {
        let world = World::new().await;
        world.post(APPS, json!({ "name": "shop", "image": "nginx:1", "clusters": ["west", "east"] })).await.is(202);
        world.api.relay(&world.west).await;
        let deleted = world.delete(SHOP).await.is(202);
        assert_eq!(deleted.commands().len(), 1);
        assert_eq!(deleted.body["clusters"].as_array().unwrap().len(), 1);
        assert_eq!(deleted.body["clusters"][0]["clusterName"], "west");
    }

    #[tokio::test]
    async fn refusals_and_the_dry_run() {
        let world = running().await;
        let dry = world.delete(&format!("{SHOP}?dryRun=true")).await.is(200);
        assert_eq!(dry.body["state"], "deleting");
        assert_eq!(world.get(SHOP).await.body["state"], "active");
        assert_eq!(world.delete(&format!("{APPS}/none")).await.refusal(), (404, "APPLICATION_NOT_FOUND", ""));
        let stale = world.api.delete(SHOP).header("if-match", "\"x.1\"").send(&world.admin).await;
        assert_eq!(stale.refusal(), (412, "ETAG_MISMATCH", ""));
        for (role, tenant, status) in [
            (Role::ReadOnly, "acme", 403),
            (Role::Billing, "acme", 403),
            (Role::TenantOwner, "other", 404),
            (Role::ProjectDev, "acme", 202),
        ] {
            let token = world.token(role, Some(world.acme)).await;
            let path = format!("/api/v1/tenants/{tenant}/apps/shop");
            world.api.delete(&path).send(&token).await.is(status);
        }
    }
}
