//! `POST /clusters/{cluster}/purge`: a cluster that will never come back.

use super::{check_named, found, shown};
use crate::{
    body::JsonBody,
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::MutationResponse,
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use jiff::Timestamp;
use kubenova_api_types::clusters::{ClusterPurge, ClusterPurged};
use kubenova_core::{
    cluster::{Cluster, ClusterRef, ClusterState, STALE_AFTER},
    refusal::{Reason, Refusal},
};
use kubenova_store::{cluster_purge, clusters};

/// Purge a cluster that will never come back.
///
/// Its open commands end as `failed` with reason `ClusterGone`, its tenants are no longer placed on it, applications are taken off
/// it, and those that ran nowhere else are gone. Whoever shows its credentials or a token of it is refused from then on. Its usage
/// and the history of its commands stay. With `dryRun=true` the answer lists what would go, and has the header `Dry-Run: true`.
///
/// A cluster in session is not purged: uninstall its Operator first. What still runs there is not touched.
#[utoipa::path(post, path = "/api/v1/clusters/{cluster}/purge", tag = "clusters", operation_id = "purgeCluster",
    params(("cluster" = String, Path, description = "Id or name"), ChangeParams), request_body = ClusterPurge,
    responses((status = 200, description = "The cluster, and what went with it; or a dry run", body = ClusterPurged)))]
pub async fn purge(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<ClusterPurge>,
) -> Result<Response, ApiError> {
    let named = ClusterRef::parse(&named);
    ctx.write(&state, params.dry_run, async |tx| {
        let cluster = found(clusters::lock(tx.connection(), &named).await?, &named)?;
        check_named(&cluster, &body.cluster, "purge")?;
        let heartbeat = cluster_purge::last_heartbeat(tx.connection(), &cluster.id).await?;
        check_silent(&cluster, heartbeat, ctx.now)?;
        let purged = tx.purge_cluster(&cluster.id).await?;
        if cluster.state != ClusterState::Purged {
            tx.audit(ctx.action, "purge", &format!("cluster/{}", cluster.id), None).await?;
        }
        Ok(MutationResponse::done(&ClusterPurged {
            cluster: shown(tx.connection(), &state, ctx.now, &named).await?,
            tenants: purged.tenants,
            applications: purged.applications,
            applications_gone: purged.applications_gone,
            commands_ended: purged.commands.to_string(),
        }))
    })
    .await
}

fn check_silent(cluster: &Cluster, heartbeat: Option<Timestamp>, now: Timestamp) -> Result<(), Refusal> {
    let Some(last) = heartbeat.filter(|last| now.duration_since(*last) < STALE_AFTER) else { return Ok(()) };
    let detail = format!("cluster \"{}\" is in session; its last heartbeat came at {last:.0}", cluster.name);
    Err(Refusal::new(Reason::ClusterInSession, detail))
}

#[cfg(test)]
mod tests {
    use crate::routes::applications::testing::{APPS, SHOP, World, form};
    use kubenova_core::{access::Role, refusal::Reason};
    use serde_json::json;

    const PURGE: &str = "/api/v1/clusters/west/purge";

    #[tokio::test]
    async fn what_a_dry_run_lists_goes_and_the_cluster_is_refused_from_then_on() {
        let world = World::new().await;
        let command = world.post(APPS, form("west")).await.is(202).commands()[0];
        world.api.relay(&world.west).await;
        let body = json!({ "cluster": "west" });
        let dry = world.post(&format!("{PURGE}?dryRun=true"), body.clone()).await;
        let listed = json!([["acme", "other"], ["acme/shop"], ["acme/shop"], "4"]);
        let shown = |answer: &serde_json::Value| {
            json!([answer["tenants"], answer["applications"], answer["applicationsGone"], answer["commandsEnded"]])
        };
        assert_eq!((shown(&dry.ok(200)), dry.header("dry-run")), (listed.clone(), "true"));
        world.get(SHOP).await.is(200);

        let purged = world.post(PURGE, body.clone()).await;
        assert_eq!(purged.header("dry-run"), "", "the same status and body, and it is none");
        let purged = purged.ok(200);
        assert_eq!((shown(&purged), &purged["state"]), (listed, &json!("purged")));
        world.get(SHOP).await.refused(Reason::ApplicationNotFound);
        let ended = world.get(&format!("/api/v1/commands/{command}")).await.ok(200);
        assert_eq!((&ended["state"], &ended["reason"]), (&json!("failed"), &json!("ClusterGone")));
        let placed = world.get("/api/v1/tenants/acme/placements").await.ok(200);
        assert_eq!(placed["items"].as_array().unwrap().len(), 1);
        world.post("/api/v1/clusters/west/enrollments", json!({})).await.refused(Reason::ClusterNotUsable);
        let place = json!({ "cluster": "west" });
        let refused = world.post("/api/v1/tenants/acme/placements", place).await;
        assert_eq!(refused.refusal(), (409, "CLUSTER_NOT_USABLE", "/cluster"));

        let again = world.post(PURGE, body).await.ok(200);
        assert_eq!(shown(&again), json!([[], [], [], "0"]), "a repetition finds nothing");
        let retry = world.api.post(&format!("/api/v1/commands/{command}/retry")).send(&world.admin).await;
        retry.refused(Reason::ClusterNotUsable);
    }

    #[tokio::test]
    async fn who_means_another_cluster_or_may_not_is_refused() {
        let world = World::new().await;
        let wrong = world.post(PURGE, json!({ "cluster": "east" })).await;
        assert_eq!(wrong.refusal(), (422, "FIELD_INVALID", "/cluster"));
        world.post("/api/v1/clusters/none/purge", json!({ "cluster": "none" })).await.refused(Reason::ClusterNotFound);
        let ops = world.token(Role::Ops, None).await;
        world.api.post(PURGE).json(&json!({ "cluster": "west" })).send(&ops).await.refused(Reason::Forbidden);
    }

    #[tokio::test]
    async fn a_cluster_in_session_is_not_purged() {
        let world = World::new().await;
        let session = "insert into sessions (cluster_id, session, incarnation, boot_id, lease_term, opened_at, last_heartbeat_at, recorded_by)
                       select id, 1, '1', 'b', 1, now(), now(), now() from clusters where name = 'west'";
        world.api.database.execute(session).await;
        let refused = world.post(PURGE, json!({ "cluster": "west" })).await.refused(Reason::ClusterInSession);
        assert!(refused["detail"].as_str().unwrap().contains("last heartbeat"), "{refused}");
        world.api.database.execute("update sessions set last_heartbeat_at = now() - interval '1 hour'").await;
        world.post(PURGE, json!({ "cluster": "west" })).await.ok(200);
    }
}
