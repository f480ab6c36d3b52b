//! `PATCH /clusters/{cluster}`: what can be changed of a cluster. What runs in it is not touched.

use super::{found, shown};
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
use kubenova_api_types::clusters::{Cluster, ClusterChange};
use kubenova_core::cluster::ClusterRef;
use kubenova_store::{clusters, enrollment_approvals};

/// Change a cluster: whether its enrollments wait for an administrator.
///
/// What is absent in the body stays as it is. An installation that waits already is answered by the new rule when it asks again: made
/// automatic, it gets its credentials; one that was rejected stays rejected.
#[utoipa::path(patch, path = "/api/v1/clusters/{cluster}", tag = "clusters", operation_id = "changeCluster",
    params(("cluster" = String, Path, description = "Id or name"), ChangeParams), request_body = ClusterChange,
    responses((status = 200, description = "The cluster; or a dry run", body = Cluster)))]
pub async fn change(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<ClusterChange>,
) -> Result<Response, ApiError> {
    let named = ClusterRef::parse(&named);
    ctx.write(&state, params.dry_run, async |tx| {
        let cluster = found(clusters::find(tx.connection(), &named).await?, &named)?;
        if let Some(approval) = body.approval.map(views::to_approval)
            && enrollment_approvals::set(tx.connection(), &cluster.id, approval).await?
        {
            let verb = format!("approval-{}", approval.as_str());
            tx.audit(ctx.action, &verb, &format!("cluster/{}", cluster.id), None).await?;
        }
        Ok(MutationResponse::done(&shown(tx.connection(), &state, ctx.now, &named).await?))
    })
    .await
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use kubenova_core::{access::Role, refusal::Reason};
    use kubenova_store::audit_chain;
    use serde_json::json;

    const PATH: &str = "/api/v1/clusters/dc1-a";

    #[tokio::test]
    async fn approval_is_chosen_at_creation_and_changed_later() {
        let api = TestApi::start().await;
        let ops = api.caller(Role::Ops, None).await;
        let body = json!({ "name": "dc1-a", "approval": "manual" });
        assert_eq!(api.post("/api/v1/clusters").json(&body).send(&ops).await.ok(201)["approval"], "manual");
        let records = async || audit_chain::pending(&mut api.state.store.acquire().await.unwrap()).await.unwrap();
        let before = records().await;
        for (approval, written) in [("automatic", 1), ("automatic", 1), ("manual", 2)] {
            let changed = api.request(axum::http::Method::PATCH, PATH).json(&json!({ "approval": approval }));
            assert_eq!(changed.send(&ops).await.ok(200)["approval"], approval);
            assert_eq!(api.get(PATH).send(&ops).await.ok(200)["approval"], approval);
            assert_eq!(records().await, before + written);
        }
        let patch = |path: &str, body| api.request(axum::http::Method::PATCH, path).json(&body);
        patch(PATH, json!({})).send(&ops).await.is(200);
        let refused = patch(PATH, json!({ "approval": "never" })).send(&ops).await;
        assert_eq!(refused.refusal(), (422, "FIELD_INVALID", "/approval"));
        patch(PATH, json!({ "name": "other" })).send(&ops).await.refused(Reason::FieldInvalid);
        patch("/api/v1/clusters/none", json!({})).send(&ops).await.refused(Reason::ClusterNotFound);
        let reader = api.caller(Role::ReadOnly, None).await;
        patch(PATH, json!({})).send(&reader).await.refused(Reason::Forbidden);
    }
}
