//! `POST /clusters/{cluster}/sync`: compare what a cluster holds now, instead of within the hour.

use super::{found, shown};
use crate::{
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::MutationResponse,
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::clusters::Cluster;
use kubenova_core::cluster::ClusterRef;
use kubenova_store::{clusters, listings};

/// Have a cluster's listing compared now.
///
/// Listings are compared at each hello, when they change, and once an hour. After this request the cluster's next heartbeat is compared
/// as well; when it differs from what was commanded, what is missing there is sent again. `GET /api/v1/clusters/{cluster}/sync`
/// shows the result: `inSyncAt` of its listing, or `differsSince` and the exchange.
#[utoipa::path(post, path = "/api/v1/clusters/{cluster}/sync", tag = "clusters", operation_id = "compareCluster",
    params(("cluster" = String, Path, description = "Id or name"), ChangeParams),
    responses((status = 202, description = "The next heartbeat is compared; the cluster", body = Cluster)))]
pub async fn compare(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let named = ClusterRef::parse(&named);
    ctx.write(&state, params.dry_run, async |tx| {
        let cluster = found(clusters::find(tx.connection(), &named).await?, &named)?;
        listings::compare_next(tx.connection(), &cluster.id).await?;
        tx.audit(ctx.action, "compare", &format!("cluster/{}", cluster.id), None).await?;
        Ok(MutationResponse::accepted(&shown(tx.connection(), &state, ctx.now, &named).await?))
    })
    .await
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use jiff::{SignedDuration, Timestamp};
    use kubenova_core::{access::Role, refusal::Reason};
    use kubenova_store::listings;
    use serde_json::json;

    #[tokio::test]
    async fn the_next_heartbeat_of_the_cluster_is_compared() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let clusters = [api.cluster(&admin, "dc1-a").await, api.cluster(&admin, "dc1-b").await];
        let mut connection = api.state.store.acquire().await.unwrap();
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1);
        for cluster in &clusters {
            listings::at_hello(&mut connection, cluster, "", 1, now).await.unwrap();
        }
        let later = now + SignedDuration::from_secs(1);
        assert_eq!(
            listings::due(&mut connection, &clusters, later).await.unwrap(),
            [],
            "they were compared at their hello"
        );
        let asked = api.post("/api/v1/clusters/dc1-b/sync").json(&json!({})).send(&admin).await;
        assert_eq!(asked.ok(202)["name"], "dc1-b");
        assert_eq!(listings::due(&mut connection, &clusters, later).await.unwrap(), [clusters[1].clone()]);
        api.post("/api/v1/clusters/none/sync").json(&json!({})).send(&admin).await.refused(Reason::ClusterNotFound);
    }
}
