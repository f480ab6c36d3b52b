//! `POST /rollouts/{rollout}/rollback`.

use super::{create::begin, hold, targets};
use crate::{
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::rollouts::Rollout as RolloutBody;
use kubenova_core::rollout::{Progress, Rollout, RolloutId, verbs};
use kubenova_runtime::random;
use kubenova_store::rollouts::{self, NewTarget};

/// Roll a rollout back, by a new rollout: on every cluster that it changed, what it changed is again what it was before.
///
/// Other fields of the component, and clusters that a person has changed otherwise since, stay as they are. A rollout that has not ended
/// ends with this; one that runs must be paused or cancelled first. The new one has a single wave and no canary.
#[utoipa::path(post, path = "/api/v1/rollouts/{rollout}/rollback", tag = "rollouts", operation_id = "rollbackRollout",
    params(("rollout" = String, Path, description = "Id of the one to take back"), ChangeParams),
    responses((status = 202, description = "Stored; the new rollout begins within seconds", body = RolloutBody)))]
pub async fn rollback(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    ctx.write(&state, params.dry_run, async |tx| {
        let (former, planned) = hold(tx.connection(), &named).await?;
        let id = RolloutId(random::uuid_v7());
        let (progress, ended) = verbs::rolled_back(&former, &targets(&planned), id, ctx.now);
        let undone = verbs::roll_back(&former, &rollouts::changed(planned))?;
        let ended_at = former.ended_at.or(Some(ctx.now));
        rollouts::save_targets(tx.connection(), former.id, &ended).await?;
        rollouts::save(tx.connection(), &Rollout { progress, ended_at, ..former.clone() }, ctx.now, false, ctx.now)
            .await?;
        let rollout = Rollout {
            id,
            component: former.component,
            change: None,
            rollback_of: Some(former.id),
            policy: verbs::policy_of_rollback(&former.policy),
            waves: 1,
            progress: Progress::begun(),
            created_at: ctx.now,
            created_by: ctx.caller.subject.clone(),
            ended_at: None,
        };
        let target = |one: verbs::Undone| NewTarget { cluster_id: one.cluster_id, wave: 0, change: one.change };
        let new: Vec<NewTarget> = undone.into_iter().map(target).collect();
        begin(tx, &ctx, &rollout, &new, "roll-back").await
    })
    .await
}

#[cfg(test)]
mod tests {
    use crate::routes::rollouts::testing::World;
    use kubenova_core::refusal::Reason;
    use serde_json::json;

    /// As the Manager leaves a rollout whose canary failed.
    const STOPPED: &str = r#"
        update rollouts set state = 'stopped', reason = 'CanaryFailed';
        update rollout_clusters set state = 'failed', ended_at = now(), revision = 2, begun_at = now(),
               before = '{"enabled": true, "version": "0.14.0", "adopt": false, "replicas": 1}'
         where wave = 0"#;

    #[tokio::test]
    async fn a_rollback_is_a_new_rollout_on_the_clusters_that_were_changed() {
        let world = World::new().await;
        let path = world.rollout().await;
        world.verb(&path, "rollback").await.refused(Reason::RolloutStateUnfit);
        world.verb(&path, "pause").await.is(200);
        let refused = world.verb(&path, "rollback").await.refused(Reason::RolloutStateUnfit);
        assert!(refused["detail"].as_str().unwrap().contains("changed no cluster"), "{refused}");
        world.api.database.execute(STOPPED).await;
        let back = world.verb(&path, "rollback").await.is(202);
        assert_eq!(format!("/api/v1/rollouts/{}", back.body["rollbackOf"].as_str().unwrap()), path);
        assert_eq!((back.body["clusters"].as_array().unwrap().len(), &back.body["waves"]), (1, &json!(1)));
        assert_eq!(
            (&back.body["clusters"][0]["clusterName"], &back.body["state"]),
            (&json!("east"), &json!("running"))
        );
        assert!(back.body.get("change").is_none(), "it differs from cluster to cluster");
        let former = world.api.get(&path).send(&world.ops).await.ok(200);
        assert_eq!((&former["state"], &former["reason"]), (&json!("cancelled"), &json!("RolledBack")));
        assert_eq!((&former["counts"]["failed"], &former["counts"]["skipped"]), (&json!(1), &json!(2)));
    }
}
