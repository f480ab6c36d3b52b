//! `PUT /clusters/{cluster}/components/{component}`: what is wanted of a component, as a whole.

use super::{check, hold, shown, to_change, write};
use crate::{
    body::JsonBody,
    error::ApiError,
    observations::ClusterObservations,
    request_context::{ChangeParams, Params, RequestContext},
    response::{self, MutationResponse},
    state::AppState,
    views,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::{cluster_components::ComponentAccepted, components::ComponentChange};
use kubenova_core::{
    cluster::{ClusterRef, Component},
    pointer::Pointer,
};
use kubenova_schema::kinds::ObjectKey;

/// Replace what is wanted of a component. What is absent in the body has its default.
///
/// A body that asks for what is wanted already makes no new generation; then a command is sent only when the last one ended without
/// success. To change single fields, use `PATCH /api/v1/clusters/{cluster}`.
#[utoipa::path(put, path = "/api/v1/clusters/{cluster}/components/{component}", tag = "components", operation_id = "replaceComponent",
    params(("cluster" = String, Path, description = "Id or name"), ("component" = String, Path, description = "`capsule`, `capsule-proxy` or `kubevela`"), ChangeParams),
    request_body = ComponentChange,
    responses(
        (status = 202, description = "Stored; the cluster is sent a command", body = ComponentAccepted),
        (status = 200, description = "Nothing to do: this is wanted already; or a dry run", body = ComponentAccepted)))]
pub async fn replace(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path((named, component)): Path<(String, String)>,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<ComponentChange>,
) -> Result<Response, ApiError> {
    let named = ClusterRef::parse(&named);
    ctx.write(&state, params.dry_run, async |tx| {
        let mut cluster = hold(tx.connection(), &named).await?;
        let name = super::name(&component)?;
        ctx.matches(&response::etag(&cluster.id, cluster.generation))?;
        let wanted = to_change(&body).applied_to(&Component::default());
        check(name, &wanted, &Pointer::default())?;
        let components = cluster.components.clone().with(name, wanted);
        let enqueued = write(tx, &mut cluster, components).await?;
        if !enqueued.is_empty() {
            let target = format!("cluster/{}/component/{}", cluster.id, name.as_str());
            tx.audit(ctx.action, "replace-component", &target, None).await?;
        }
        let ids = std::slice::from_ref(&cluster.id);
        let keys = [ObjectKey::ClusterConfig.to_string()];
        let observations = ClusterObservations::read(tx.connection(), &state, ctx.now, ids, &keys).await?;
        let body =
            ComponentAccepted { component: shown(&cluster, name, &observations), commands: views::enqueued(&enqueued) };
        let response =
            if enqueued.is_empty() { MutationResponse::done(&body) } else { MutationResponse::accepted(&body) };
        Ok(response
            .location(format!("/api/v1/clusters/{}/components/{}", cluster.id, name.as_str()))
            .etag(response::etag(&cluster.id, cluster.generation))
            .operations(&enqueued))
    })
    .await
}

#[cfg(test)]
mod tests {
    use crate::testing::{TestApi, Token};
    use kubenova_core::{access::Role, cluster::ClusterState, command::CommandState, refusal::Reason};
    use kubenova_store::audit_chain;
    use serde_json::{Value, json};

    const CAPSULE: &str = "/api/v1/clusters/dc1-a/components/capsule";
    const PROXY: &str = "/api/v1/clusters/dc1-a/components/capsule-proxy";

    async fn world() -> (TestApi, Token) {
        let api = TestApi::start().await;
        let ops = api.caller(Role::Ops, None).await;
        api.cluster(&ops, "dc1-a").await;
        (api, ops)
    }

    fn proxy() -> Value {
        json!({
            "enabled": true, "publicURL": "https://proxy.example.com", "replicas": 2,
            "endpoint": { "service": { "type": "NodePort", "nodePort": 30443 }, "ingress": { "className": "nginx" } },
            "images": { "registry": "registry.example.com/mirror", "pullSecrets": ["pull"] },
            "resources": { "requests": { "cpu": "100m" } },
            "placement": { "nodeSelector": { "role": "infra" }, "tolerations": [{ "operator": "Exists" }] },
            "hostNetwork": true, "values": { "logLevel": "Debug", "client": { "qps": 50 } },
        })
    }

    #[tokio::test]
    async fn a_component_is_replaced_by_a_command_and_read_back_as_it_was_sent() {
        let (api, ops) = world().await;
        let answer = api.put(PROXY).json(&proxy()).send(&ops).await;
        let body = answer.ok(202);
        let mut desired = proxy();
        desired["adopt"] = json!(false);
        assert_eq!((&body["desired"], &body["generation"]), (&desired, &json!("2")));
        assert_eq!(
            answer.header("location"),
            format!("/api/v1/clusters/{}/components/capsule-proxy", body["clusterId"].as_str().unwrap())
        );
        assert_eq!(answer.header("operation-location"), format!("/api/v1/commands/{}", answer.commands()[0]));
        let read = api.get(PROXY).send(&ops).await;
        assert_eq!((&read.ok(200)["desired"], read.header("etag")), (&desired, answer.header("etag")));
        let command = api.get(&format!("/api/v1/commands/{}", answer.commands()[0])).send(&ops).await.ok(200);
        assert_eq!((&command["kind"], &command["target"]["generation"]), (&json!("apply-cluster-config"), &json!("2")));
        let other = api.get(CAPSULE).send(&ops).await.ok(200);
        assert_eq!(other["desired"]["version"], "0.14.0", "the others stay");
        let documents = api.database.rows().await;
        assert!(
            documents.iter().any(|row| row.contains("registry.example.com/mirror") && row.starts_with("commands ")),
            "{documents:?}"
        );
    }

    #[tokio::test]
    async fn what_is_wanted_already_makes_no_command_unless_the_last_one_failed() {
        let (api, ops) = world().await;
        let body = json!({ "enabled": true, "version": "0.15.0", "images": {}, "hostNetwork": false });
        let first = api.put(CAPSULE).json(&body).send(&ops).await.is(202);
        let records = async || audit_chain::pending(&mut api.state.store.acquire().await.unwrap()).await.unwrap();
        let before = records().await;
        let same = api.put(CAPSULE).json(&json!({ "version": "0.15.0", "enabled": true })).send(&ops).await.is(200);
        assert_eq!((same.commands().len(), &same.body["generation"]), (0, &json!("2")));
        assert_eq!(records().await, before, "nothing was changed");
        let cluster = kubenova_core::cluster::ClusterId::parse(first.body["clusterId"].as_str().unwrap()).unwrap();
        api.relay(&cluster).await;
        api.report(&cluster, first.commands()[0], CommandState::Refused, "ClusterFrozen").await;
        let again = api.put(CAPSULE).json(&body).send(&ops).await.is(202);
        assert_eq!((again.commands().len(), &again.body["generation"]), (1, &json!("2")));
    }

    #[tokio::test]
    async fn an_etag_guards_against_lost_updates_and_a_key_against_repeats() {
        let (api, ops) = world().await;
        let etag = api.get(CAPSULE).send(&ops).await.header("etag").to_owned();
        let body = json!({ "enabled": true, "replicas": 2 });
        let put = || api.put(CAPSULE).header("if-match", &etag).json(&body);
        let first = put().key("key-1").send(&ops).await.is(202);
        put().send(&ops).await.refused(Reason::EtagMismatch);
        let again = put().key("key-1").send(&ops).await.is(202);
        assert_eq!((again.header("idempotency-replayed"), again.commands()), ("true", first.commands()));
        let dry =
            api.put(&format!("{CAPSULE}?dryRun=true")).json(&json!({ "enabled": false })).send(&ops).await.is(200);
        assert_eq!((&dry.body["desired"]["enabled"], &dry.body["commands"]), (&json!(false), &json!([])));
        assert_eq!(api.get(CAPSULE).send(&ops).await.ok(200)["desired"]["enabled"], true);
    }

    #[tokio::test]
    async fn every_bad_value_is_refused_with_its_place() {
        let (api, ops) = world().await;
        for (path, body, pointer) in [
            (CAPSULE, json!({ "version": "1 2" }), "/version"),
            (CAPSULE, json!({ "replicas": 0 }), "/replicas"),
            (CAPSULE, json!({ "publicURL": "https://x" }), "/publicURL"),
            (CAPSULE, json!({ "endpoint": { "service": {} } }), "/endpoint"),
            (CAPSULE, json!({ "images": { "registy": "x" } }), "/images/registy"),
            (CAPSULE, json!({ "images": { "digest": "latest" } }), "/images/digest"),
            (CAPSULE, json!({ "images": { "pullPolicy": "always" } }), "/images/pullPolicy"),
            (CAPSULE, json!({ "resources": { "limits": { "memory": "1 GB" } } }), "/resources/limits/memory"),
            (CAPSULE, json!({ "placement": { "tolerations": [{}] } }), "/placement/tolerations/0/key"),
            (CAPSULE, json!({ "values": { "revisionLimit": 20 } }), "/values/revisionLimit"),
            (CAPSULE, json!({ "values": { "webhookTimeoutSeconds": "3" } }), "/values/webhookTimeoutSeconds"),
            (PROXY, json!({ "publicURL": "http://x" }), "/publicURL"),
            (PROXY, json!({ "endpoint": { "ingress": {} } }), "/endpoint/ingress"),
            (PROXY, json!({ "endpoint": { "service": { "type": "nodePort" } } }), "/endpoint/service/type"),
        ] {
            let refused = api.put(path).json(&body).send(&ops).await;
            assert_eq!(refused.refusal(), (422, "FIELD_INVALID", pointer), "{body}");
        }
        api.put("/api/v1/clusters/dc1-a/components/velaux")
            .json(&json!({}))
            .send(&ops)
            .await
            .refused(Reason::ComponentNotFound);
        api.put("/api/v1/clusters/none/components/capsule")
            .json(&json!({}))
            .send(&ops)
            .await
            .refused(Reason::ClusterNotFound);
    }

    #[tokio::test]
    async fn who_may_not_change_clusters_and_clusters_that_take_no_changes_are_refused() {
        let (api, ops) = world().await;
        let reader = api.caller(Role::ReadOnly, None).await;
        api.put(CAPSULE).json(&json!({})).send(&reader).await.refused(Reason::Forbidden);
        api.cluster_in_state("gone", ClusterState::Detached).await;
        let gone = "/api/v1/clusters/gone/components/capsule";
        api.put(gone).json(&json!({ "enabled": true })).send(&ops).await.refused(Reason::ClusterNotUsable);
    }
}
