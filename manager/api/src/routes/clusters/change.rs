//! `PATCH /clusters/{cluster}`: whether its enrollments wait for an administrator, and what is wanted of its components.

use super::shown;
use crate::{
    body::JsonBody,
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::{self, MutationResponse},
    routes::components::{self, hold},
    state::AppState,
    views,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::clusters::{ClusterChange, ClusterChanged};
use kubenova_core::cluster::ClusterRef;
use kubenova_store::enrollment_approvals;

/// Change a cluster: whether its enrollments wait for an administrator, and its components.
///
/// What is absent in the body stays as it is. An installation that waits already is answered by the new rule when it asks again: made
/// automatic, it gets its credentials; one that was rejected stays rejected. Components are changed field by field, so that
/// `{"components": {"capsuleProxy": {"enabled": true, "publicURL": "https://…"}}}` switches Capsule Proxy on; the cluster is sent a
/// command when that makes a difference.
#[utoipa::path(patch, path = "/api/v1/clusters/{cluster}", tag = "clusters", operation_id = "changeCluster",
    params(("cluster" = String, Path, description = "Id or name"), ChangeParams), request_body = ClusterChange,
    responses(
        (status = 202, description = "Stored; the cluster is sent a command", body = ClusterChanged),
        (status = 200, description = "Nothing to do for the cluster; or a dry run", body = ClusterChanged)))]
pub async fn change(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<ClusterChange>,
) -> Result<Response, ApiError> {
    let named = ClusterRef::parse(&named);
    ctx.write(&state, params.dry_run, async |tx| {
        let mut cluster = hold(tx.connection(), &named).await?;
        ctx.matches(&response::etag(&cluster.id, cluster.generation))?;
        let target = format!("cluster/{}", cluster.id);
        if let Some(approval) = body.approval.map(views::to_approval)
            && enrollment_approvals::set(tx.connection(), &cluster.id, approval).await?
        {
            let verb = format!("approval-{}", approval.as_str());
            tx.audit(ctx.action, &verb, &target, None).await?;
        }
        let mut enqueued = Vec::new();
        if let Some(change) = body.components {
            let wanted = components::changed(cluster.components.clone(), &change)?;
            enqueued = components::write(tx, &mut cluster, wanted).await?;
            if !enqueued.is_empty() {
                tx.audit(ctx.action, "change-components", &target, None).await?;
            }
        }
        let body = ClusterChanged {
            cluster: shown(tx.connection(), &state, ctx.now, &named).await?,
            commands: views::enqueued(&enqueued),
        };
        let response =
            if enqueued.is_empty() { MutationResponse::done(&body) } else { MutationResponse::accepted(&body) };
        Ok(response
            .location(format!("/api/v1/clusters/{}", cluster.id))
            .etag(response::etag(&cluster.id, cluster.generation))
            .operations(&enqueued))
    })
    .await
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use axum::http::Method;
    use kubenova_core::{access::Role, cluster::ClusterState, refusal::Reason};
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
            let changed = api.request(Method::PATCH, PATH).json(&json!({ "approval": approval }));
            assert_eq!(changed.send(&ops).await.ok(200)["approval"], approval);
            assert_eq!(api.get(PATH).send(&ops).await.ok(200)["approval"], approval);
            assert_eq!(records().await, before + written);
        }
        let patch = |path: &str, body| api.request(Method::PATCH, path).json(&body);
        patch(PATH, json!({})).send(&ops).await.is(200);
        let refused = patch(PATH, json!({ "approval": "never" })).send(&ops).await;
        assert_eq!(refused.refusal(), (422, "FIELD_INVALID", "/approval"));
        patch(PATH, json!({ "name": "other" })).send(&ops).await.refused(Reason::FieldInvalid);
        patch("/api/v1/clusters/none", json!({})).send(&ops).await.refused(Reason::ClusterNotFound);
        let reader = api.caller(Role::ReadOnly, None).await;
        patch(PATH, json!({})).send(&reader).await.refused(Reason::Forbidden);
    }

    #[tokio::test]
    async fn capsule_proxy_is_switched_on_and_off_on_a_living_cluster() {
        let api = TestApi::start().await;
        let ops = api.caller(Role::Ops, None).await;
        api.cluster(&ops, "dc1-a").await;
        let patch = |proxy| api.request(Method::PATCH, PATH).json(&json!({ "components": { "capsuleProxy": proxy } }));
        let on = json!({
            "enabled": true, "publicURL": "https://proxy.example.com",
            "endpoint": { "service": { "type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"] } },
        });
        let answer = patch(on).send(&ops).await.is(202);
        let proxy = &answer.body["components"]["capsuleProxy"];
        assert_eq!((&proxy["enabled"], &proxy["publicURL"]), (&json!(true), &json!("https://proxy.example.com")));
        assert_eq!((answer.commands().len(), &answer.body["generation"]), (1, &json!("2")));
        assert_eq!(answer.header("etag"), format!("\"{}.2\"", answer.body["id"].as_str().unwrap()));

        let off = patch(json!({ "enabled": false })).send(&ops).await.is(202);
        let proxy = &off.body["components"]["capsuleProxy"];
        assert_eq!((&proxy["enabled"], &proxy["endpoint"]["service"]["type"]), (&json!(false), &json!("LoadBalancer")));
        assert_eq!(off.body["components"]["capsule"]["enabled"], true, "the others stay");
        assert_eq!(patch(json!({ "enabled": false })).send(&ops).await.is(200).commands(), []);
        let cleared = patch(json!({ "endpoint": {}, "publicURL": "" })).send(&ops).await.is(202);
        assert!(cleared.body["components"]["capsuleProxy"].get("endpoint").is_none());
    }

    #[tokio::test]
    async fn changes_of_components_are_checked_as_a_whole_and_guarded() {
        let api = TestApi::start().await;
        let ops = api.caller(Role::Ops, None).await;
        api.cluster(&ops, "dc1-a").await;
        let patch = |components| api.request(Method::PATCH, PATH).json(&json!({ "components": components }));
        for (components, pointer) in [
            (json!({ "capsule": { "replicas": 6 } }), "/components/capsule/replicas"),
            (
                json!({ "capsuleProxy": { "endpoint": { "gateway": { "name": "a", "namespace": "b" } } } }),
                "/components/capsuleProxy/endpoint/gateway",
            ),
            (json!({ "velaux": {} }), "/components/velaux"),
        ] {
            let refused = patch(components).send(&ops).await;
            assert_eq!(refused.refusal(), (422, "FIELD_INVALID", pointer));
        }
        let etag = api.get(PATH).send(&ops).await.header("etag").to_owned();
        let guarded = || patch(json!({ "capsule": { "paused": true } })).header("if-match", &etag);
        guarded().send(&ops).await.is(202);
        guarded().send(&ops).await.refused(Reason::EtagMismatch);
        api.cluster_in_state("gone", ClusterState::Revoked).await;
        let gone = api.request(Method::PATCH, "/api/v1/clusters/gone");
        let gone = gone.json(&json!({ "components": { "capsule": { "enabled": false } } })).send(&ops).await;
        gone.refused(Reason::ClusterNotUsable);
    }
}
