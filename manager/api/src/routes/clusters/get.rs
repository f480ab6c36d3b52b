//! `GET /clusters/{cluster}`: the request, what is heard from it, and how its enrollment went.

use super::found;
use crate::{
    error::ApiError, observations::ClusterObservations, request_context::RequestContext, response, state::AppState,
    views,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::clusters::Cluster;
use kubenova_core::cluster::ClusterRef;
use kubenova_schema::kinds::ObjectKey;
use kubenova_store::{clusters, enrollments};

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
    let mut connection = state.store.read().await?;
    let cluster = found(clusters::find(&mut connection, &named).await?, &named)?;
    let tokens = enrollments::of_cluster(&mut connection, &cluster.id).await?;
    let key = ObjectKey::ClusterConfig.to_string();
    let heard = ClusterObservations::read(
        &mut connection,
        &state,
        ctx.now,
        std::slice::from_ref(&cluster.id),
        std::slice::from_ref(&key),
    )
    .await?;
    let mut body = views::cluster(&cluster);
    body.connection = heard.connection(&cluster.id).as_str().to_owned();
    body.session = heard.session(&cluster.id);
    body.observed = heard.object(&cluster.id, &key);
    body.enrollments = tokens.iter().map(|token| views::enrollment(token, ctx.now)).collect();
    Ok(response::with_etag(&response::etag(&cluster.id, cluster.generation), body))
}
