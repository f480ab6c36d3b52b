//! `GET /rollouts`.

use super::{add, without_clusters};
use crate::{cursor, error::ApiError, request_context::Params, routes::clusters::list::ListParams, state::AppState};
use axum::{Json, extract::State};
use kubenova_api_types::{
    list::List,
    rollouts::{RolloutCounts, RolloutList},
};
use kubenova_core::rollout::RolloutId;
use kubenova_store::rollouts;
use std::collections::BTreeMap;

const LIST: &str = "rollouts";

/// List rollouts, newest first, without their clusters.
#[utoipa::path(get, path = "/api/v1/rollouts", tag = "rollouts", operation_id = "listRollouts", params(ListParams),
    responses((status = 200, description = "One page", body = RolloutList)))]
pub async fn list(
    State(state): State<AppState>,
    Params(params): Params<ListParams>,
) -> Result<Json<RolloutList>, ApiError> {
    let page = cursor::page(LIST, "", params.cursor.as_deref(), params.limit, |key| RolloutId::parse(key).is_some())?;
    let mut connection = state.store.acquire().await?;
    let mut found = rollouts::list(&mut connection, &page).await?;
    let more = page.cut(&mut found);
    let next_cursor = found.last().filter(|_| more).map(|last| cursor::after(LIST, "", &last.id.to_string()));
    let ids: Vec<RolloutId> = found.iter().map(|rollout| rollout.id).collect();
    let mut counts: BTreeMap<RolloutId, RolloutCounts> = BTreeMap::new();
    for (id, its_state, many) in rollouts::counts(&mut connection, &ids).await? {
        add(counts.entry(id).or_default(), its_state, many);
    }
    let item = |rollout| without_clusters(rollout, counts.get(&rollout.id).copied().unwrap_or_default());
    Ok(Json(List { items: found.iter().map(item).collect(), next_cursor }))
}

#[cfg(test)]
mod tests {
    use crate::routes::rollouts::testing::{World, body};
    use serde_json::json;

    #[tokio::test]
    async fn pages_are_newest_first_and_count_clusters() {
        let world = World::new().await;
        let mut ids = Vec::new();
        for component in ["capsule", "capsule-proxy", "kubevela"] {
            let mut request = body();
            request["component"] = json!(component);
            ids.insert(0, world.post("/api/v1/rollouts", &request).await.is(202).body["id"].clone());
        }
        let first = world.api.get("/api/v1/rollouts?limit=2").send(&world.ops).await.ok(200);
        let path = format!("/api/v1/rollouts?limit=2&cursor={}", first["nextCursor"].as_str().unwrap());
        let second = world.api.get(&path).send(&world.ops).await.ok(200);
        let items = [first["items"].as_array().unwrap().clone(), second["items"].as_array().unwrap().clone()].concat();
        assert_eq!(items.iter().map(|item| item["id"].clone()).collect::<Vec<_>>(), ids);
        assert!(items.iter().all(|item| item["counts"]["pending"] == 3 && item.get("clusters").is_none()), "{items:?}");
    }
}
