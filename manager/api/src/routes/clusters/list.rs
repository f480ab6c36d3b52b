//! `GET /clusters`.

use crate::{
    cursor::{self, PageLimit},
    error::ApiError,
    observations::ClusterObservations,
    request_context::{Params, RequestContext},
    state::AppState,
    views,
};
use axum::{Json, extract::State};
use kubenova_api_types::{clusters::ClusterList, list::List};
use kubenova_core::cluster::{Cluster, ClusterId};
use kubenova_store::{clusters, enrollment_tokens, identities};

const LIST: &str = "clusters";

/// Query of a list.
#[derive(Debug, Clone, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// `nextCursor` of the page before.
    #[param(pattern = "^[A-Za-z0-9_-]+$", max_length = 1024)]
    pub cursor: Option<String>,
    /// Objects in a page.
    #[param(value_type = u32, required = false, minimum = 1, maximum = 500, default = 50)]
    pub limit: Option<PageLimit>,
}

/// List clusters, oldest first.
#[utoipa::path(get, path = "/api/v1/clusters", tag = "clusters", operation_id = "listClusters", params(ListParams),
    responses((status = 200, description = "One page", body = ClusterList)))]
pub async fn list(
    State(state): State<AppState>,
    ctx: RequestContext,
    Params(params): Params<ListParams>,
) -> Result<Json<ClusterList>, ApiError> {
    let page = cursor::page(LIST, "", params.cursor.as_deref(), params.limit, |key| ClusterId::parse(key).is_some())?;
    let mut connection = state.store.acquire().await?;
    let mut clusters = clusters::list(&mut connection, &page).await?;
    let more = page.cut(&mut clusters);
    let last = clusters.last().filter(|_| more);
    let next_cursor = last.map(|cluster| cursor::after(LIST, "", cluster.id.as_str()));
    let ids: Vec<ClusterId> = clusters.iter().map(|cluster| cluster.id.clone()).collect();
    let observations = ClusterObservations::read(&mut connection, &state, ctx.now, &ids, &[]).await?;
    let credentials = identities::of_clusters(&mut connection, &ids).await?;
    let second_uses = enrollment_tokens::second_uses(&mut connection, &ids).await?;
    let item = |cluster: &Cluster| kubenova_api_types::clusters::Cluster {
        second_uses: second_uses.get(&cluster.id).map(views::second_uses),
        ..observations.cluster(cluster, credentials.get(&cluster.id))
    };
    let items = clusters.iter().map(item).collect();
    Ok(Json(List { items, next_cursor }))
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use kubenova_core::{access::Role, refusal::Reason};
    use serde_json::Value;

    #[tokio::test]
    async fn pages_hold_every_cluster_once_in_the_order_of_their_age() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::ReadOnly, None).await;
        let ops = api.caller(Role::Ops, None).await;
        for name in ["c", "b", "a", "e", "d"] {
            api.cluster(&ops, name).await;
        }
        let (mut names, mut path) = (Vec::new(), "/api/v1/clusters?limit=2".to_owned());
        loop {
            let page = api.get(&path).send(&admin).await.ok(200);
            names.extend(page["items"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()));
            let Some(cursor) = page["nextCursor"].as_str() else { break };
            path = format!("/api/v1/clusters?limit=2&cursor={cursor}");
        }
        assert_eq!(names, ["c", "b", "a", "e", "d"]);
    }

    #[tokio::test]
    async fn bad_pages_are_refused() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        for limit in ["0", "501", "-1", "many", "2147483648", ""] {
            let path = format!("/api/v1/clusters?limit={limit}");
            let problem = api.get(&path).send(&admin).await.refused(Reason::QueryInvalid);
            assert!(problem["detail"].as_str().unwrap().contains("from 1 to 500"), "{problem}");
        }
        for cursor in ["", "AAAA", "!"] {
            let path = format!("/api/v1/clusters?cursor={cursor}");
            api.get(&path).send(&admin).await.refused(Reason::CursorInvalid);
        }
        api.get("/api/v1/clusters?page=2").send(&admin).await.refused(Reason::QueryInvalid);
    }

    #[tokio::test]
    async fn a_cursor_of_another_list_is_refused() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        for name in ["a", "b"] {
            api.tenant(&admin, name, &[]).await;
        }
        let page = api.get("/api/v1/tenants?limit=1").send(&admin).await.ok(200);
        assert_ne!(page["nextCursor"], Value::Null);
        let path = format!("/api/v1/clusters?cursor={}", page["nextCursor"].as_str().unwrap());
        api.get(&path).send(&admin).await.refused(Reason::CursorInvalid);
    }
}
