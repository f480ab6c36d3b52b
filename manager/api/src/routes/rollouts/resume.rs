//! `POST /rollouts/{rollout}/resume`.

use super::{changed, hold, targets};
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

/// Resume a rollout that is paused, or that has stopped: the failures so far are accepted then.
#[utoipa::path(post, path = "/api/v1/rollouts/{rollout}/resume", tag = "rollouts", operation_id = "resumeRollout",
    params(("rollout" = String, Path, description = "Id"), ChangeParams),
    responses((status = 200, description = "The rollout; or a dry run", body = Rollout)))]
pub async fn resume(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    ctx.write(&state, params.dry_run, async |tx| {
        let (rollout, planned) = hold(tx.connection(), &named).await?;
        let progress = verbs::resume(&rollout, &targets(&planned), &ctx.caller.subject)?;
        changed(tx, &ctx, rollout, progress, &[], "resume-rollout").await
    })
    .await
}

#[cfg(test)]
mod tests {
    use crate::routes::rollouts::testing::World;
    use kubenova_core::refusal::Reason;

    #[tokio::test]
    async fn a_paused_rollout_goes_on() {
        let world = World::new().await;
        let path = world.rollout().await;
        world.verb(&path, "resume").await.refused(Reason::RolloutStateUnfit);
        world.verb(&path, "pause").await.is(200);
        let resumed = world.verb(&path, "resume").await.is(200);
        assert_eq!((&resumed.body["state"], &resumed.body["reason"]), (&"running".into(), &"Resumed".into()));
    }
}
