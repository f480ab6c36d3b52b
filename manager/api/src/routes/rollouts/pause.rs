//! `POST /rollouts/{rollout}/pause`.

use super::{changed, hold};
use crate::{
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::rollouts::Rollout;
use kubenova_core::rollout::verbs;

/// Pause a rollout: no further cluster is changed until it is resumed. Those that are being changed are followed to their end.
#[utoipa::path(post, path = "/api/v1/rollouts/{rollout}/pause", tag = "rollouts", operation_id = "pauseRollout",
    params(("rollout" = String, Path, description = "Id"), ChangeParams),
    responses((status = 200, description = "The rollout; or a dry run", body = Rollout)))]
pub async fn pause(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    ctx.write(&state, params.dry_run, async |tx| {
        let (rollout, _) = hold(tx.connection(), &named).await?;
        let progress = verbs::pause(&rollout, &ctx.caller.subject)?;
        changed(tx, &ctx, rollout, progress, &[], "pause-rollout").await
    })
    .await
}

#[cfg(test)]
mod tests {
    use crate::routes::rollouts::testing::World;
    use kubenova_core::{access::Role, refusal::Reason};

    #[tokio::test]
    async fn a_rollout_is_paused_once() {
        let world = World::new().await;
        let path = world.rollout().await;
        let dry = world.api.post(&format!("{path}/pause?dryRun=true")).send(&world.ops).await.is(200);
        assert_eq!(dry.body["state"], "paused");
        let paused = world.verb(&path, "pause").await.is(200);
        assert_eq!((&paused.body["state"], &paused.body["reason"]), (&"paused".into(), &"Requested".into()));
        assert!(paused.body["message"].as_str().unwrap().contains("ops-caller"), "{paused:?}");
        let refused = world.verb(&path, "pause").await.refused(Reason::RolloutStateUnfit);
        assert!(refused["detail"].as_str().unwrap().starts_with("the rollout is paused (Requested)"), "{refused}");
        let reader = world.api.caller(Role::ReadOnly, None).await;
        world.api.post(&format!("{path}/pause")).send(&reader).await.refused(Reason::Forbidden);
        world.verb("/api/v1/rollouts/none", "pause").await.refused(Reason::RolloutNotFound);
    }
}
