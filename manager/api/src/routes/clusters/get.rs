//! `GET /clusters/{cluster}`: desired state, observed state, and how its enrollment went.

use super::found;
use crate::{
    error::ApiError, observations::ClusterObservations, request_context::RequestContext, response, state::AppState,
    views,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::clusters::{Cluster, ClusterSealingKey};
use kubenova_core::{cluster::ClusterRef, page::Page};
use kubenova_schema::{kinds::ObjectKey, sealing::SealingKey};
use kubenova_store::{clusters, enrollment_attempts, enrollment_tokens, identities, revocations};

/// Tokens shown with a cluster: the newest ones explain why it does not join. The others are at `…/enrollments`.
const TOKENS_MAX: u32 = 10;

/// Read a cluster by id or name.
#[utoipa::path(get, path = "/api/v1/clusters/{cluster}", tag = "clusters", operation_id = "getCluster",
    params(("cluster" = String, Path, description = "Id or name")),
    responses((status = 200, description = "The cluster", body = Cluster)))]
pub async fn get(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
) -> Result<Response, ApiError> {
    let named = ClusterRef::parse(&named);
    let mut connection = state.store.acquire().await?;
    let cluster = found(clusters::find(&mut connection, &named).await?, &named)?;
    let newest = Page::new(None, Some(TOKENS_MAX));
    let mut tokens = enrollment_tokens::list(&mut connection, &cluster.id, &newest).await?;
    newest.cut(&mut tokens);
    let key = ObjectKey::ClusterConfig.to_string();
    let observations = ClusterObservations::read(
        &mut connection,
        &state,
        ctx.now,
        std::slice::from_ref(&cluster.id),
        std::slice::from_ref(&key),
    )
    .await?;
    let credentials = identities::of_clusters(&mut connection, std::slice::from_ref(&cluster.id)).await?;
    let mut body = observations.cluster(&cluster, credentials.get(&cluster.id));
    let second_uses = enrollment_tokens::second_uses(&mut connection, std::slice::from_ref(&cluster.id)).await?;
    body.second_uses = second_uses.get(&cluster.id).map(views::second_uses);
    body.observed = observations.object(&cluster.id, &key);
    if let Some(credentials) = &mut body.credentials {
        let renewals = enrollment_attempts::renewals(&mut connection, &cluster.id).await?;
        credentials.renewals = renewals.iter().map(views::enrollment_attempt).collect();
        let sealing_key = identities::sealing_key(&mut connection, &cluster.id).await?;
        credentials.sealing_key =
            sealing_key.map(|SealingKey { public_key, signature }| ClusterSealingKey { public_key, signature });
        credentials.revocation = revocations::of_cluster(&mut connection, &cluster.id).await?.map(views::revocation);
    }
    body.enrollments = tokens.iter().map(|token| views::enrollment(token, ctx.now)).collect();
    Ok(response::with_etag(&response::etag(&cluster.id, cluster.generation), body))
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use kubenova_core::{access::Role, refusal::Reason};

    #[tokio::test]
    async fn a_cluster_is_read_by_id_and_by_name() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let id = api.cluster(&admin, "dc1-a").await;
        let by_name = api.get("/api/v1/clusters/dc1-a").send(&admin).await;
        let by_id = api.get(&format!("/api/v1/clusters/{id}")).send(&admin).await;
        assert_eq!(by_name.ok(200), by_id.ok(200));
        assert_eq!(by_id.header("etag"), format!("\"{id}.1\""));
        assert_eq!(by_id.body["enrollments"][0]["state"], "open");
        for missing in ["none", "c00000000000000000000000001"] {
            let path = format!("/api/v1/clusters/{missing}");
            api.get(&path).send(&admin).await.refused(Reason::ClusterNotFound);
        }
    }
}
