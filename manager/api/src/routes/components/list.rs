//! `GET /clusters/{cluster}/components`.

use super::shown;
use crate::{
    error::ApiError, observations::ClusterObservations, request_context::RequestContext, routes::clusters::found,
    state::AppState,
};
use axum::{
    Json,
    extract::{Path, State},
};
use kubenova_api_types::{cluster_components::ComponentList, list::List};
use kubenova_core::cluster::{ClusterRef, ComponentName};
use kubenova_schema::kinds::ObjectKey;
use kubenova_store::clusters;

/// List the components of a cluster: what is wanted of each, and what the cluster reports of it.
#[utoipa::path(get, path = "/api/v1/clusters/{cluster}/components", tag = "components", operation_id = "listComponents",
    params(("cluster" = String, Path, description = "Id or name")),
    responses((status = 200, description = "Every component", body = ComponentList)))]
pub async fn list(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
) -> Result<Json<ComponentList>, ApiError> {
    let named = ClusterRef::parse(&named);
    let mut connection = state.store.acquire().await?;
    let cluster = found(clusters::find(&mut connection, &named).await?, &named)?;
    let ids = std::slice::from_ref(&cluster.id);
    let keys = [ObjectKey::ClusterConfig.to_string()];
    let observations = ClusterObservations::read(&mut connection, &state, ctx.now, ids, &keys).await?;
    let items = ComponentName::ALL.into_iter().map(|name| shown(&cluster, name, &observations)).collect();
    Ok(Json(List { items, next_cursor: None }))
}

#[cfg(test)]
mod tests {
    use crate::{routes::components::testing::report, testing::TestApi};
    use kubenova_core::{access::Role, refusal::Reason};
    use kubenova_runtime::clock;
    use serde_json::json;

    #[tokio::test]
    async fn each_component_is_shown_as_it_is_wanted_and_as_it_is() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let cluster = api.cluster(&admin, "dc1-a").await;
        let reader = api.caller(Role::ReadOnly, None).await;
        let path = "/api/v1/clusters/dc1-a/components";
        let before = api.get(path).send(&reader).await.ok(200);
        let names: Vec<_> = before["items"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
        assert_eq!(names, ["capsule", "capsule-proxy", "kubevela"]);
        assert!(before["items"].as_array().unwrap().iter().all(|one| one.get("observed").is_none()), "{before}");
        api.hello(&cluster, clock::now()).await;
        report(&api, &cluster, 1, 1, "False").await;
        let after = api.get(path).send(&reader).await.ok(200);
        let capsule = &after["items"][0];
        assert_eq!(
            (&capsule["desired"]["version"], &capsule["observed"]["version"]),
            (&json!("0.14.0"), &json!("0.14.0"))
        );
        assert_eq!(capsule["observed"]["desiredVersion"], "0.15.0");
        assert_eq!(
            (&capsule["observed"]["ready"], &capsule["observed"]["health"]),
            (&json!(false), &json!("Degraded"))
        );
        assert_eq!(capsule["observed"]["message"], "no replica is available");
        assert_eq!(capsule["observed"]["lastError"], "pull");
        assert_eq!(capsule["observed"]["connection"], "connected");
        api.get("/api/v1/clusters/none/components").send(&reader).await.refused(Reason::ClusterNotFound);
    }
}
