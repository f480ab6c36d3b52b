//! `POST /clusters/{cluster}/detach`: a cluster is no longer managed, and everything there stays.

use super::revoke::Revocation;
use crate::{
    body::JsonBody,
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::clusters::{Cluster, ClusterRevoke};
use kubenova_core::cluster::ClusterState;
use kubenova_store::revocations::RevocationReason;

/// Detach a cluster.
///
/// Its credentials are revoked and nothing is sent to it any more. Tenants and applications there go on as they are, and what is
/// wanted there is kept: `undelete` takes the cluster back. Its commands wait meanwhile. To give up a cluster that never comes back,
/// purge it.
#[utoipa::path(post, path = "/api/v1/clusters/{cluster}/detach", tag = "clusters", operation_id = "detachCluster",
    params(("cluster" = String, Path, description = "Id or name"), ChangeParams), request_body = ClusterRevoke,
    responses((status = 202, description = "The cluster, now detached", body = Cluster)))]
pub async fn detach(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<ClusterRevoke>,
) -> Result<Response, ApiError> {
    let revocation = Revocation {
        verb: "detach",
        done: "detached",
        state: ClusterState::Detached,
        reason: RevocationReason::Detached,
        unfit: "it is not managed any more",
    };
    revocation.carry_out(&state, &ctx, params.dry_run, &named, &body).await
}

#[cfg(test)]
mod tests {
    use crate::routes::applications::testing::{APPS, SHOP, World, form};
    use kubenova_core::refusal::Reason;
    use serde_json::json;

    const DETACH: &str = "/api/v1/clusters/west/detach";

    #[tokio::test]
    async fn a_detached_cluster_keeps_what_is_wanted_there_and_is_taken_back() {
        let world = World::new().await;
        world.post(APPS, form("west")).await.is(202);
        let detached = world.post(DETACH, json!({ "cluster": "west" })).await.ok(202);
        assert_eq!((&detached["state"], &detached["stateReason"]), (&json!("detached"), &json!("Detached")));
        world.get(SHOP).await.is(200);
        world.post(DETACH, json!({ "cluster": "west" })).await.refused(Reason::ClusterStateUnfit);
        let enrollments = "/api/v1/clusters/west/enrollments";
        world.post(enrollments, json!({})).await.refused(Reason::ClusterNotUsable);

        let undelete = "/api/v1/clusters/west/undelete";
        let back = world.api.post(undelete).send(&world.admin).await.ok(200);
        assert_eq!((&back["state"], back.get("stateReason")), (&json!("pendingBootstrap"), None));
        world.api.post(undelete).send(&world.admin).await.refused(Reason::ClusterStateUnfit);
        world.api.post(enrollments).send(&world.admin).await.is(201);
        let wrong = world.post(DETACH, json!({ "cluster": "east" })).await;
        assert_eq!(wrong.refusal(), (422, "FIELD_INVALID", "/cluster"));
    }
}
