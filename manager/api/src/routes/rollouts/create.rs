//! `POST /rollouts`.

use super::with_clusters;
use crate::{
    body::JsonBody,
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::MutationResponse,
    routes::components,
    state::AppState,
};
use axum::{extract::State, response::Response};
use kubenova_api_types::rollouts::{
    Amount as AmountBody, OfflinePolicy as OfflineBody, Rollout as RolloutBody, RolloutCreate,
};
use kubenova_core::{
    cluster::{Cluster, ClusterId, ComponentChange, ComponentName},
    pointer::Pointer,
    refusal::{Reason, Refusal},
    rollout::{
        OfflinePolicy, Policy, Progress, Rollout, RolloutId,
        plan::{self, Amount, Selection},
    },
};
use kubenova_runtime::random;
use kubenova_store::{
    clusters,
    rollouts::{self, NewTarget},
    write_tx::WriteTx,
};

/// Clusters that are changed at once when the request does not say.
const MAX_UNAVAILABLE_DEFAULT: u32 = 10;

/// Begin a rollout: one change of a component for many clusters, in waves.
///
/// Clusters are chosen now; those that are created later have no part in it. The first wave begins within seconds: the answer names
/// no commands, they are written as the turn of each cluster comes. The rollout stops when more clusters fail than it may have, and when
/// one of its canary does.
#[utoipa::path(post, path = "/api/v1/rollouts", tag = "rollouts", operation_id = "createRollout", params(ChangeParams),
    request_body = RolloutCreate,
    responses((status = 202, description = "Stored; it begins within seconds", body = RolloutBody)))]
pub async fn create(
    State(state): State<AppState>,
    ctx: RequestContext,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<RolloutCreate>,
) -> Result<Response, ApiError> {
    let request = read(body)?;
    ctx.write(&state, params.dry_run, async |tx| {
        let all = clusters::all(tx.connection()).await?;
        let chosen = request.selection.choose(&all)?;
        check(&request, &chosen, &all)?;
        let waves = plan::waves(chosen.len(), request.canary, request.batch);
        let rollout = Rollout {
            id: RolloutId(random::uuid_v7()),
            component: request.component,
            change: Some(request.change.clone()),
            rollback_of: None,
            policy: request.policy.clone(),
            waves: waves.last().map_or(1, |last| last + 1),
            progress: Progress::begun(),
            created_at: ctx.now,
            created_by: ctx.caller.subject.clone(),
            ended_at: None,
        };
        let target = |((cluster_id, _), wave): (&(ClusterId, String), &u32)| NewTarget {
            cluster_id: cluster_id.clone(),
            wave: *wave,
            change: request.change.clone(),
        };
        let targets: Vec<NewTarget> = chosen.iter().zip(&waves).map(target).collect();
        begin(tx, &ctx, &rollout, &targets, "create-rollout").await
    })
    .await
}

/// Stores a new rollout, unless another one changes the same component on one of its clusters.
pub(super) async fn begin(
    tx: &mut WriteTx,
    ctx: &RequestContext,
    rollout: &Rollout,
    targets: &[NewTarget],
    verb: &str,
) -> Result<MutationResponse, ApiError> {
    let ids: Vec<ClusterId> = targets.iter().map(|target| target.cluster_id.clone()).collect();
    if let Some((other, cluster)) = rollouts::overlapping(tx.connection(), rollout.component, &ids).await?.first() {
        let component = rollout.component.as_str();
        let detail = format!("rollout {other} changes {component} on cluster \"{cluster}\" and has not ended there");
        return Err(Refusal::at(Reason::RolloutOverlaps, "/clusters", detail).into());
    }
    rollouts::insert(tx.connection(), rollout, targets).await?;
    tx.audit(ctx.action, verb, &format!("rollout/{}", rollout.id), None).await?;
    let planned = rollouts::targets(tx.connection(), rollout.id).await?;
    Ok(MutationResponse::accepted(&with_clusters(rollout, &planned))
        .location(format!("/api/v1/rollouts/{}", rollout.id)))
}

/// A request whose values are good.
struct Request {
    component: ComponentName,
    change: ComponentChange,
    selection: Selection,
    canary: Option<Amount>,
    batch: Option<Amount>,
    policy: Policy,
}

fn read(body: RolloutCreate) -> Result<Request, Refusal> {
    let refuse = |field: &str, why: String| Err(Refusal::at(Reason::FieldInvalid, field, why));
    let Some(component) = ComponentName::parse(&body.component) else {
        return refuse(
            "/component",
            format!("there is no component {:?}; use capsule, capsule-proxy or kubevela", body.component),
        );
    };
    let change = components::to_change(&body.change);
    if change.is_empty() {
        return refuse("/change", "nothing is changed; name at least one field, such as version".to_owned());
    }
    let amount = |amount: Option<AmountBody>, field: &str| {
        amount.map(|amount| Amount::read(amount.count, amount.percent, field)).transpose()
    };
    let max_unavailable = body.max_unavailable.unwrap_or(MAX_UNAVAILABLE_DEFAULT);
    let most = u32::try_from(plan::CLUSTERS_MAX).unwrap_or(u32::MAX);
    if !(1..=most).contains(&max_unavailable) {
        return refuse("/maxUnavailable", format!("maxUnavailable is {max_unavailable}, possible is 1 to {most}"));
    }
    let max_failures = body.max_failures.unwrap_or(0);
    if max_failures > most {
        return refuse("/maxFailures", format!("maxFailures is {max_failures}, the most is {most}"));
    }
    let canary = amount(body.canary, "/canary")?;
    Ok(Request {
        component,
        change,
        selection: Selection { names: body.clusters.names, labels: body.clusters.labels },
        canary,
        batch: amount(body.batch, "/batch")?,
        policy: Policy {
            canary: canary.is_some(),
            max_unavailable,
            max_failures,
            pause: plan::pause(body.pause_seconds)?,
            wait_for_resume: body.wait_for_resume,
            progress_deadline: plan::progress_deadline(body.progress_deadline_seconds)?,
            offline: match body.offline {
                Some(OfflineBody::Skip) => OfflinePolicy::Skip,
                Some(OfflineBody::Wait) | None => OfflinePolicy::Wait,
            },
        },
    })
}

/// Checks what the change makes of the component on each cluster: a rule may depend on what is wanted there already.
fn check(request: &Request, chosen: &[(ClusterId, String)], all: &[Cluster]) -> Result<(), Refusal> {
    let is_chosen = |cluster: &&Cluster| chosen.iter().any(|(id, _)| *id == cluster.id);
    for cluster in all.iter().filter(is_chosen) {
        let wanted = request.change.applied_to(cluster.components.get(request.component));
        components::check(request.component, &wanted, &Pointer::default().field("change")).map_err(|refusal| {
            Refusal { detail: format!("{} (on cluster \"{}\")", refusal.detail, cluster.name), ..refusal }
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::routes::rollouts::testing::{World, body};
    use kubenova_core::{access::Role, cluster::ClusterState, refusal::Reason};
    use serde_json::{Value, json};

    const PATH: &str = "/api/v1/rollouts";

    #[tokio::test]
    async fn a_rollout_is_stored_with_its_waves_and_read_back() {
        let world = World::new().await;
        let answer = world.post(PATH, &body()).await.is(202);
        assert_eq!(
            (&answer.body["state"], &answer.body["waves"], &answer.body["wave"]),
            (&json!("running"), &json!(2), &json!(1))
        );
        let waves: Vec<(&Value, &Value)> =
            answer.body["clusters"].as_array().unwrap().iter().map(|one| (&one["clusterName"], &one["wave"])).collect();
        assert_eq!(waves, [(&json!("east"), &json!(1)), (&json!("west"), &json!(2)), (&json!("north"), &json!(2))]);
        assert_eq!(answer.body["change"], json!({ "version": "0.15.0" }));
        assert_eq!(answer.header("operation-location"), "", "commands are written by the rollout");
        let read = world.api.get(answer.header("location")).send(&world.ops).await.ok(200);
        assert_eq!(read, answer.body);
    }

    #[tokio::test]
    async fn clusters_are_chosen_by_labels_too_and_a_dry_run_shows_them() {
        let world = World::new().await;
        let request = json!({
            "component": "kubevela", "change": { "images": {}, "hostNetwork": false, "paused": false },
            "clusters": { "labels": { "tier": "gold" } }, "batch": { "percent": 50 }, "offline": "skip",
        });
        let dry = world.post(&format!("{PATH}?dryRun=true"), &request).await.is(200);
        assert_eq!(
            (&dry.body["counts"]["pending"], &dry.body["waves"], &dry.body["canary"]),
            (&json!(2), &json!(2), &json!(false))
        );
        assert_eq!(dry.body["change"], json!({ "images": {}, "hostNetwork": false, "paused": false }));
        assert_eq!(world.api.get(PATH).send(&world.ops).await.ok(200)["items"], json!([]));
    }

    #[tokio::test]
    async fn two_rollouts_of_one_component_never_meet_on_a_cluster() {
        let world = World::new().await;
        world.post(PATH, &body()).await.is(202);
        let refused = world.post(PATH, &body()).await.refused(Reason::RolloutOverlaps);
        assert!(refused["detail"].as_str().unwrap().contains("capsule on cluster"), "{refused}");
        let mut other = body();
        other["component"] = json!("kubevela");
        world.post(PATH, &other).await.is(202);
    }

    #[tokio::test]
    async fn every_bad_value_is_refused_with_its_place() {
        let world = World::new().await;
        world.api.cluster_in_state("gone", ClusterState::Purged).await;
        let with = |field: &str, value: Value| {
            let mut body = body();
            body[field] = value;
            body
        };
        for (body, pointer) in [
            (with("component", json!("velaux")), "/component"),
            (with("change", json!({})), "/change"),
            (with("change", json!({ "version": "a b" })), "/change/version"),
            (with("change", json!({ "endpoint": {} , "replicas": 9 })), "/change/replicas"),
            (with("change", json!({ "images": { "digest": "x" } })), "/change/images/digest"),
            (with("clusters", json!({})), "/clusters"),
            (with("clusters", json!({ "labels": { "tier": "none" } })), "/clusters"),
            (with("canary", json!({})), "/canary"),
            (with("canary", json!({ "count": 1, "percent": 1 })), "/canary"),
            (with("batch", json!({ "percent": 101 })), "/batch/percent"),
            (with("maxUnavailable", json!(0)), "/maxUnavailable"),
            (with("maxFailures", json!(1001)), "/maxFailures"),
            (with("pauseSeconds", json!(604_801)), "/pauseSeconds"),
            (with("progressDeadlineSeconds", json!(29)), "/progressDeadlineSeconds"),
            (with("offline", json!("ignore")), "/offline"),
        ] {
            let refused = world.post(PATH, &body).await;
            assert_eq!(refused.refusal(), (422, "FIELD_INVALID", pointer), "{body}");
        }
        let missing = world.post(PATH, &with("clusters", json!({ "names": ["west", "none"] }))).await;
        assert_eq!(missing.refusal(), (404, "CLUSTER_NOT_FOUND", "/clusters/names/1"));
        let gone = world.post(PATH, &with("clusters", json!({ "names": ["gone"] }))).await;
        assert_eq!(gone.refusal(), (409, "CLUSTER_NOT_USABLE", "/clusters/names/0"));
        let reader = world.api.caller(Role::ReadOnly, None).await;
        world.api.post(PATH).json(&body()).send(&reader).await.refused(Reason::Forbidden);
    }
}
