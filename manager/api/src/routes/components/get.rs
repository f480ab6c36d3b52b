//! `GET /clusters/{cluster}/components/{component}`.

use super::shown;
use crate::{
    error::ApiError, observations::ClusterObservations, request_context::RequestContext, response,
    routes::clusters::found, state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::cluster_components::ClusterComponent;
use kubenova_core::cluster::ClusterRef;
use kubenova_schema::kinds::ObjectKey;
use kubenova_store::clusters;

/// Read a component of a cluster. Its ETag is the cluster's: every change of what is wanted there makes another one.
#[utoipa::path(get, path = "/api/v1/clusters/{cluster}/components/{component}", tag = "components", operation_id = "getComponent",
    params(("cluster" = String, Path, description = "Id or name"), ("component" = String, Path, description = "`capsule`, `capsule-proxy` or `kubevela`")),
    responses((status = 200, description = "The component", body = ClusterComponent)))]
pub async fn get(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path((named, component)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let named = ClusterRef::parse(&named);
    let mut connection = state.store.acquire().await?;
    let cluster = found(clusters::find(&mut connection, &named).await?, &named)?;
    let name = super::name(&component)?;
    let ids = std::slice::from_ref(&cluster.id);
    let keys = [ObjectKey::ClusterConfig.to_string()];
    let observations = ClusterObservations::read(&mut connection, &state, ctx.now, ids, &keys).await?;
    Ok(response::with_etag(&response::etag(&cluster.id, cluster.generation), shown(&cluster, name, &observations)))
}

#[cfg(test)]
mod tests {
    use crate::{routes::components::testing::report, testing::TestApi};
    use kubenova_core::{access::Role, refusal::Reason};
    use kubenova_runtime::clock;

    #[tokio::test]
    async fn a_component_is_ready_when_the_cluster_says_so_of_what_is_wanted_now() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let cluster = api.cluster(&admin, "dc1-a").await;
        api.hello(&cluster, clock::now()).await;
        report(&api, &cluster, 1, 1, "True").await;
        let path = format!("/api/v1/clusters/{cluster}/components/capsule");
        let answer = api.get(&path).send(&admin).await;
        assert_eq!(answer.ok(200)["observed"]["ready"], true);
        assert_eq!(answer.header("etag"), format!("\"{cluster}.1\""));
        for missing in ["capsuleProxy", "velaux", "x"] {
            let path = format!("/api/v1/clusters/dc1-a/components/{missing}");
            api.get(&path).send(&admin).await.refused(Reason::ComponentNotFound);
        }
    }
}
