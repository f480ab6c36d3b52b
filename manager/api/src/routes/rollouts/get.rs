//! `GET /rollouts/{rollout}`.

use super::{found, with_clusters};
use crate::{error::ApiError, state::AppState};
use axum::{
    Json,
    extract::{Path, State},
};
use kubenova_api_types::rollouts::Rollout;
use kubenova_core::rollout::RolloutId;
use kubenova_store::rollouts;

/// Read a rollout with the state of every cluster.
#[utoipa::path(get, path = "/api/v1/rollouts/{rollout}", tag = "rollouts", operation_id = "getRollout",
    params(("rollout" = String, Path, description = "Id")),
    responses((status = 200, description = "The rollout", body = Rollout)))]
pub async fn get(State(state): State<AppState>, Path(named): Path<String>) -> Result<Json<Rollout>, ApiError> {
    let mut connection = state.store.acquire().await?;
    let rollout = match RolloutId::parse(&named) {
        Some(id) => rollouts::find(&mut connection, id).await?,
        None => None,
    };
    let rollout = found(rollout, &named)?;
    let planned = rollouts::targets(&mut connection, rollout.id).await?;
    Ok(Json(with_clusters(&rollout, &planned)))
}

#[cfg(test)]
mod tests {
    use crate::routes::rollouts::testing::World;
    use kubenova_core::{access::Role, refusal::Reason};

    #[tokio::test]
    async fn whoever_sees_clusters_sees_rollouts() {
        let world = World::new().await;
        let path = world.rollout().await;
        let reader = world.api.caller(Role::ReadOnly, None).await;
        assert_eq!(world.api.get(&path).send(&reader).await.ok(200)["counts"]["pending"], 3);
        for missing in ["none", "0198c1d2-0000-7000-8000-000000000000"] {
            world.api.get(&format!("/api/v1/rollouts/{missing}")).send(&reader).await.refused(Reason::RolloutNotFound);
        }
    }
}
