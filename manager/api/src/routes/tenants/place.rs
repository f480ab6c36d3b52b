//! `POST /tenants/{tenant}/placements`: puts a tenant on one more cluster.

use super::{clusters_to_change, hold};
use crate::{
    body::JsonBody,
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
use kubenova_api_types::tenants::{PlacementCreate, TenantAccepted};
use kubenova_core::{change::Change, cluster::ClusterId};
use kubenova_store::placements;

/// Place a tenant on a cluster.
#[utoipa::path(post, path = "/api/v1/tenants/{tenant}/placements", tag = "tenants", operation_id = "createPlacement",
    params(("tenant" = String, Path, description = "Id or name"), ChangeParams), request_body = PlacementCreate,
    responses((status = 202, description = "Stored; a command for the cluster is enqueued", body = TenantAccepted)))]
pub async fn place(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<PlacementCreate>,
) -> Result<Response, ApiError> {
    ctx.write(&state, params.dry_run, async |tx| {
        let tenant = hold(tx.connection(), &ctx, &named).await?;
        let clusters = clusters_to_change(tx.connection(), &[body.cluster], "/cluster").await?;
        let ids: Vec<ClusterId> = clusters.into_iter().map(|cluster| cluster.id).collect();
        placements::insert(tx.connection(), tenant.id, &ids, &ctx.caller.subject, ctx.now).await?;
        let enqueued = tx.enqueue_commands(&ids, &Change::Tenant(tenant.clone())).await?;
        tx.audit(ctx.action, "place", &format!("tenant/{}", tenant.id), Some(tenant.id)).await?;

        let placed = placements::of_tenants(tx.connection(), &[tenant.id]).await?;
        let body = TenantAccepted { tenant: views::tenant(&tenant, &placed), commands: views::enqueued(&enqueued) };
        Ok(MutationResponse::accepted(&body)
            .location(format!("/api/v1/tenants/{}/placements", tenant.id))
            .operations(&enqueued))
    })
    .await
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use kubenova_core::{access::Role, cluster::ClusterState, refusal::Reason};
    use serde_json::json;

    #[tokio::test]
    async fn a_tenant_is_placed_once_on_a_cluster() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        api.cluster(&admin, "dc1-a").await;
        let tenant = api.tenant(&admin, "acme", &[]).await;
        let path = "/api/v1/tenants/acme/placements";
        let body = json!({ "cluster": "dc1-a" });
        let dry = api.post(&format!("{path}?dryRun=true")).json(&body).send(&admin).await.ok(200);
        assert_eq!((&dry["commands"], &dry["placements"][0]["clusterName"]), (&json!([]), &json!("dc1-a")));
        let answer = api.post(path).json(&body).send(&admin).await;
        assert_eq!(answer.ok(202)["commands"].as_array().unwrap().len(), 1);
        assert_eq!(answer.header("location"), format!("/api/v1/tenants/{tenant}/placements"));
        api.post(path).json(&body).send(&admin).await.refused(Reason::PlacementExists);
        let none = api.post(path).json(&json!({ "cluster": "none" })).send(&admin).await.refused(Reason::FieldInvalid);
        assert_eq!(none["fields"][0]["pointer"], "/cluster");
        api.post("/api/v1/tenants/none/placements").json(&body).send(&admin).await.refused(Reason::TenantNotFound);
    }

    #[tokio::test]
    async fn no_tenant_is_placed_on_a_cluster_that_accepts_no_changes() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        api.tenant(&admin, "acme", &[]).await;
        for (name, state) in
            [("a", ClusterState::Revoking), ("b", ClusterState::Revoked), ("c", ClusterState::Detached)]
        {
            api.cluster_in_state(name, state).await;
            let place = api.post("/api/v1/tenants/acme/placements").json(&json!({ "cluster": name }));
            let refused = place.send(&admin).await;
            assert_eq!(refused.refusal(), (409, "CLUSTER_NOT_USABLE", "/cluster"), "{state:?}");
            let create = api.post("/api/v1/tenants").json(&json!({ "name": "other", "clusters": [name] }));
            let refused = create.send(&admin).await;
            assert_eq!(refused.refusal(), (409, "CLUSTER_NOT_USABLE", "/clusters"), "{state:?}");
        }
    }
}
