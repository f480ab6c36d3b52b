//! `GET /tenants/{tenant}/placements`: where a tenant is placed, and its observed state there.

use crate::{
    error::ApiError, observations::ClusterObservations, request_context::RequestContext, routes::tenants,
    state::AppState, views,
};
use axum::{
    Json,
    extract::{Path, State},
};
use kubenova_api_types::{list::List, tenants::PlacementList};
use kubenova_core::cluster::ClusterId;
use kubenova_store::{placements, wire};

/// List a tenant's placements. All of them in one page: a tenant is on few clusters.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/placements", tag = "tenants", operation_id = "listPlacements",
    params(("tenant" = String, Path, description = "Id or name")),
    responses((status = 200, description = "All placements", body = PlacementList)))]
pub async fn list(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
) -> Result<Json<PlacementList>, ApiError> {
    let mut connection = state.store.acquire().await?;
    let tenant = tenants::find(&mut connection, &ctx, &named).await?;
    let placed = placements::of_tenants(&mut connection, &[tenant.id]).await?;
    let key = wire::tenant_key(tenant.id).to_string();
    let ids: Vec<ClusterId> = placed.iter().map(|placement| placement.cluster_id.clone()).collect();
    let observations =
        ClusterObservations::read(&mut connection, &state, ctx.now, &ids, std::slice::from_ref(&key)).await?;
    let one = |placement| {
        let mut body = views::placement(placement);
        body.observed = observations.object(&placement.cluster_id, &key);
        body
    };
    Ok(Json(List { items: placed.iter().map(one).collect(), next_cursor: None }))
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use kubenova_core::{access::Role, refusal::Reason};
    use serde_json::{Value, json};

    #[tokio::test]
    async fn placements_are_listed_with_what_their_clusters_reported() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        api.cluster(&admin, "dc1-a").await;
        let tenant = api.tenant(&admin, "acme", &["dc1-a"]).await;
        let owner = api.caller(Role::TenantOwner, Some(tenant)).await;
        let list = api.get("/api/v1/tenants/acme/placements").send(&owner).await.ok(200);
        assert_eq!(list["items"][0]["clusterName"], json!("dc1-a"));
        assert_eq!(list["items"][0]["observed"], Value::Null, "the cluster has reported nothing");
        api.get("/api/v1/tenants/none/placements").send(&owner).await.refused(Reason::TenantNotFound);
    }
}
