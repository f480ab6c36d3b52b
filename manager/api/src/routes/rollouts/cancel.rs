//! `POST /rollouts/{rollout}/cancel`.

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

/// Cancel a rollout: no further cluster is changed. What was changed stays as it is; to take it back, roll back.
#[utoipa::path(post, path = "/api/v1/rollouts/{rollout}/cancel", tag = "rollouts", operation_id = "cancelRollout",
    params(("rollout" = String, Path, description = "Id"), ChangeParams),
    responses((status = 200, description = "The rollout; or a dry run", body = Rollout)))]
pub async fn cancel(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    ctx.write(&state, params.dry_run, async |tx| {
        let (rollout, planned) = hold(tx.connection(), &named).await?;
        let (progress, left) = verbs::cancel(&rollout, &targets(&planned), &ctx.caller.subject, ctx.now)?;
        changed(tx, &ctx, rollout, progress, &left, "cancel-rollout").await
    })
    .await
}

#[cfg(test)]
mod tests {
    use crate::routes::rollouts::testing::{World, body};
    use kubenova_core::refusal::Reason;
    use kubenova_store::audit_chain;

    #[tokio::test]
    async fn a_cancelled_rollout_changes_no_further_cluster_and_makes_room_for_another() {
        let world = World::new().await;
        let path = world.rollout().await;
        let records = async || audit_chain::pending(&mut world.api.state.store.acquire().await.unwrap()).await.unwrap();
        let before = records().await;
        let cancelled = world.verb(&path, "cancel").await.is(200);
        assert_eq!(cancelled.body["state"], "cancelling");
        assert_eq!(
            (&cancelled.body["counts"]["pending"], &cancelled.body["counts"]["skipped"]),
            (&0.into(), &3.into())
        );
        assert_eq!(records().await, before + 1);
        for verb in ["cancel", "pause", "resume"] {
            world.verb(&path, verb).await.refused(Reason::RolloutStateUnfit);
        }
        world.post("/api/v1/rollouts", &body()).await.is(202);
    }
}
