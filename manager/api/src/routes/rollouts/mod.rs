//! Rollouts: begin, list, read, pause, resume, cancel, roll back. What they do stands in `manager/core/src/rollout`; who carries them
//! out is `manager/src/rollouts.rs`.

pub mod cancel;
pub mod create;
pub mod get;
pub mod list;
pub mod pause;
pub mod resume;
pub mod rollback;

use crate::{error::ApiError, request_context::RequestContext, response::MutationResponse, views};
use kubenova_api_types::rollouts::{
    OfflinePolicy as OfflineBody, Rollout as RolloutBody, RolloutCluster, RolloutClusterState, RolloutCounts,
    RolloutState as StateBody,
};
use kubenova_core::{
    refusal::{Reason, Refusal},
    rollout::{
        OfflinePolicy, Progress, Rollout, RolloutId, RolloutState,
        target::{Target, TargetState},
    },
};
use kubenova_store::{
    connection::Connection,
    rollouts::{self, Planned},
    write_tx::WriteTx,
};

fn found(rollout: Option<Rollout>, named: &str) -> Result<Rollout, Refusal> {
    rollout.ok_or_else(|| Refusal::new(Reason::RolloutNotFound, format!("there is no rollout {named:?}")))
}

/// The rollout with its clusters, held: no step is taken meanwhile.
async fn hold(connection: &mut Connection, named: &str) -> Result<(Rollout, Vec<Planned>), ApiError> {
    let rollout = match RolloutId::parse(named) {
        Some(id) => rollouts::lock(connection, id).await?,
        None => None,
    };
    let rollout = found(rollout, named)?;
    let planned = rollouts::targets(connection, rollout.id).await?;
    Ok((rollout, planned))
}

fn targets(planned: &[Planned]) -> Vec<Target> {
    planned.iter().map(|one| one.target.clone()).collect()
}

/// Stores what a request made of a rollout that is held, and answers with it. A Manager looks at it at once.
async fn changed(
    tx: &mut WriteTx,
    ctx: &RequestContext,
    rollout: Rollout,
    progress: Progress,
    changed: &[Target],
    verb: &str,
) -> Result<MutationResponse, ApiError> {
    let ended_at = rollout.ended_at.or_else(|| progress.state.has_ended().then_some(ctx.now));
    let rollout = Rollout { progress, ended_at, ..rollout };
    rollouts::save(tx.connection(), &rollout, ctx.now, false, ctx.now).await?;
    rollouts::save_targets(tx.connection(), rollout.id, changed).await?;
    tx.audit(ctx.action, verb, &format!("rollout/{}", rollout.id), None).await?;
    let planned = rollouts::targets(tx.connection(), rollout.id).await?;
    Ok(MutationResponse::done(&with_clusters(&rollout, &planned)))
}

/// A rollout with its clusters.
fn with_clusters(rollout: &Rollout, planned: &[Planned]) -> RolloutBody {
    let mut counts = RolloutCounts::default();
    for one in planned {
        add(&mut counts, one.target.state, 1);
    }
    RolloutBody {
        clusters: planned.iter().map(|one| cluster(&one.target)).collect(),
        ..without_clusters(rollout, counts)
    }
}

fn add(counts: &mut RolloutCounts, state: TargetState, many: u32) {
    match state {
        TargetState::Pending => counts.pending += many,
        TargetState::Updating => counts.updating += many,
        TargetState::Succeeded => counts.succeeded += many,
        TargetState::Failed => counts.failed += many,
        TargetState::Skipped => counts.skipped += many,
    }
}

fn without_clusters(rollout: &Rollout, counts: RolloutCounts) -> RolloutBody {
    let Rollout { policy, progress, .. } = rollout;
    let seconds = |duration: jiff::SignedDuration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    RolloutBody {
        id: rollout.id.to_string(),
        component: rollout.component.as_str().to_owned(),
        change: rollout.change.as_ref().map(views::component_change),
        rollback_of: rollout.rollback_of.map(|of| of.to_string()),
        state: state(progress.state),
        reason: progress.reason.clone(),
        message: progress.message.clone(),
        wave: progress.wave + 1,
        waves: rollout.waves,
        canary: policy.canary,
        max_unavailable: policy.max_unavailable,
        max_failures: policy.max_failures,
        pause_seconds: seconds(policy.pause),
        wait_for_resume: policy.wait_for_resume,
        progress_deadline_seconds: seconds(policy.progress_deadline),
        offline: match policy.offline {
            OfflinePolicy::Wait => OfflineBody::Wait,
            OfflinePolicy::Skip => OfflineBody::Skip,
        },
        counts,
        clusters: Vec::new(),
        created_at: rollout.created_at,
        created_by: rollout.created_by.clone(),
        ended_at: rollout.ended_at,
    }
}

const fn state(state: RolloutState) -> StateBody {
    match state {
        RolloutState::Running => StateBody::Running,
        RolloutState::Paused => StateBody::Paused,
        RolloutState::Stopped => StateBody::Stopped,
        RolloutState::Cancelling => StateBody::Cancelling,
        RolloutState::Cancelled => StateBody::Cancelled,
        RolloutState::Completed => StateBody::Completed,
    }
}

fn cluster(target: &Target) -> RolloutCluster {
    RolloutCluster {
        cluster_id: target.cluster_id.to_string(),
        cluster_name: target.cluster_name.clone(),
        wave: target.wave + 1,
        state: match target.state {
            TargetState::Pending => RolloutClusterState::Pending,
            TargetState::Updating => RolloutClusterState::Updating,
            TargetState::Succeeded => RolloutClusterState::Succeeded,
            TargetState::Failed => RolloutClusterState::Failed,
            TargetState::Skipped => RolloutClusterState::Skipped,
        },
        reason: target.reason.clone(),
        message: target.message.clone(),
        revision: target.revision.map(|revision| revision.to_string()),
        begun_at: target.begun_at,
        ended_at: target.ended_at,
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use crate::testing::{TestAnswer, TestApi, Token};
    use kubenova_core::access::Role;
    use serde_json::{Value, json};

    /// Three clusters, of which two have the label `tier: gold`.
    pub(crate) struct World {
        pub(crate) api: TestApi,
        pub(crate) ops: Token,
    }

    impl World {
        pub(crate) async fn new() -> Self {
            let api = TestApi::start().await;
            let ops = api.caller(Role::Ops, None).await;
            for (name, tier) in [("west", "gold"), ("east", "iron"), ("north", "gold")] {
                let body = json!({ "name": name, "labels": { "tier": tier } });
                api.post("/api/v1/clusters").json(&body).send(&ops).await.ok(201);
            }
            Self { api, ops }
        }

        pub(crate) async fn post(&self, path: &str, body: &Value) -> TestAnswer {
            self.api.post(path).json(body).send(&self.ops).await
        }

        /// A rollout of Capsule to all three, a canary first.
        pub(crate) async fn rollout(&self) -> String {
            let answer = self.post("/api/v1/rollouts", &body()).await.is(202);
            format!("/api/v1/rollouts/{}", answer.body["id"].as_str().unwrap())
        }

        pub(crate) async fn verb(&self, rollout: &str, verb: &str) -> TestAnswer {
            self.api.post(&format!("{rollout}/{verb}")).send(&self.ops).await
        }
    }

    pub(crate) fn body() -> Value {
        json!({
            "component": "capsule", "change": { "version": "0.15.0" }, "clusters": { "names": ["east", "west", "north"] },
            "canary": { "count": 1 },
        })
    }
}
