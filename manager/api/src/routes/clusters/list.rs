//! `GET /clusters`.

use crate::{
    cursor,
    error::ApiError,
    observations::ClusterObservations,
    request_context::{Params, RequestContext},
    state::AppState,
    views,
};
use axum::{Json, extract::State};
use kubenova_api_types::{clusters::Cluster, list::List};
use kubenova_core::cluster::ClusterId;
use kubenova_store::clusters;

const LIST: &str = "clusters";

/// Query of a list.
#[derive(Debug, Clone, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// `nextCursor` of the page before.
    pub cursor: Option<String>,
    /// Objects in a page: 50 when absent, at most 500.
    pub limit: Option<u32>,
}

/// List clusters, oldest first.
#[utoipa::path(get, path = "/api/v1/clusters", tag = "clusters", operation_id = "listClusters", params(ListParams),
    responses((status = 200, description = "One page", body = List<Cluster>)))]
pub async fn list(
    State(state): State<AppState>,
    ctx: RequestContext,
    Params(params): Params<ListParams>,
) -> Result<Json<List<Cluster>>, ApiError> {
    let page = cursor::page(LIST, "", params.cursor.as_deref(), params.limit)?;
    let mut connection = state.store.read().await?;
    let mut clusters = clusters::list(&mut connection, &page).await?;
    let more = page.cut(&mut clusters);
    let last = clusters.last().filter(|_| more);
    let next_cursor = last.map(|cluster| cursor::after(LIST, "", cluster.id.as_str()));
    let ids: Vec<ClusterId> = clusters.iter().map(|cluster| cluster.id.clone()).collect();
    let heard = ClusterObservations::read(&mut connection, &state, ctx.now, &ids, &[]).await?;
    let one = |cluster| {
        let mut body = views::cluster(cluster);
        body.connection = heard.connection(&cluster.id).as_str().to_owned();
        body.session = heard.session(&cluster.id);
        body
    };
    Ok(Json(List { items: clusters.iter().map(one).collect(), next_cursor }))
}
