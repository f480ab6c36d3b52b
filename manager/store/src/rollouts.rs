//! Rollouts and their clusters. The next step is decided in core; whoever takes it holds the row of the rollout until it is committed, so
//! that of several Managers one takes each step.

use crate::{
    error::{RowRef, StoreError, failed, one_row},
    wire,
};
use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    cluster::{ClusterId, Component, ComponentChange, ComponentName},
    page::Page,
    rollout::{
        OfflinePolicy, Policy, Progress, Rollout, RolloutId, RolloutState,
        target::{Target, TargetState},
        verbs::Changed,
    },
};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

struct Row {
    id: Uuid,
    component: String,
    change: Option<Value>,
    rollback_of: Option<Uuid>,
    canary: bool,
    max_unavailable: i32,
    max_failures: i32,
    pause_seconds: i64,
    wait_for_resume: bool,
    progress_deadline_seconds: i64,
    offline: String,
    waves: i32,
    state: String,
    reason: String,
    message: String,
    wave: i32,
    wave_done_at: Option<jiff_sqlx::Timestamp>,
    accepted_failures: Option<i32>,
    created_at: jiff_sqlx::Timestamp,
    created_by: String,
    ended_at: Option<jiff_sqlx::Timestamp>,
}

impl TryFrom<Row> for Rollout {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let at = RowRef { table: "rollouts", id: &row.id };
        let number = |column, number: i32| u32::try_from(number).map_err(|error| at.invalid(column, error));
        Ok(Self {
            id: RolloutId(row.id),
            component: at.parse("component", &row.component, ComponentName::parse)?,
            change: row.change.as_ref().map(wire::change_from_json),
            rollback_of: row.rollback_of.map(RolloutId),
            policy: Policy {
                canary: row.canary,
                max_unavailable: number("max_unavailable", row.max_unavailable)?,
                max_failures: number("max_failures", row.max_failures)?,
                pause: SignedDuration::from_secs(row.pause_seconds),
                wait_for_resume: row.wait_for_resume,
                progress_deadline: SignedDuration::from_secs(row.progress_deadline_seconds),
                offline: at.parse("offline", &row.offline, OfflinePolicy::parse)?,
            },
            waves: number("waves", row.waves)?,
            progress: Progress {
                state: at.parse("state", &row.state, RolloutState::parse)?,
                reason: row.reason,
                message: row.message,
                wave: number("wave", row.wave)?,
                wave_done_at: row.wave_done_at.map(jiff_sqlx::Timestamp::to_jiff),
                accepted_failures: row
                    .accepted_failures
                    .map(|failures| number("accepted_failures", failures))
                    .transpose()?,
            },
            created_at: row.created_at.to_jiff(),
            created_by: row.created_by,
            ended_at: row.ended_at.map(jiff_sqlx::Timestamp::to_jiff),
        })
    }
}

/// A cluster of a rollout that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTarget {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Its wave, from 0.
    pub wave: u32,
    /// What is changed there.
    pub change: ComponentChange,
}

/// A cluster of a rollout with what is changed there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The cluster.
    pub target: Target,
    /// What is changed there.
    pub change: ComponentChange,
    /// What was wanted there before; none until it was changed.
    pub before: Option<Component>,
}

/// Adds a rollout, due at once. A cluster on which another one changes the same component is a [refusal](StoreError::refusal).
pub async fn insert(connection: &mut PgConnection, rollout: &Rollout, targets: &[NewTarget]) -> Result<(), StoreError> {
    let Rollout { policy, progress, .. } = rollout;
    sqlx::query!(
        "insert into rollouts (id, component, change, rollback_of, canary, max_unavailable, max_failures, pause_seconds, wait_for_resume,
                               progress_deadline_seconds, offline, waves, state, reason, message, wave, next_step_at, created_at,
                               created_by)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $17, $18)",
        rollout.id.0,
        rollout.component.as_str(),
        rollout.change.as_ref().map(wire::change_to_json),
        rollout.rollback_of.map(|of| of.0),
        policy.canary,
        signed(policy.max_unavailable),
        signed(policy.max_failures),
        policy.pause.as_secs(),
        policy.wait_for_resume,
        policy.progress_deadline.as_secs(),
        policy.offline.as_str(),
        signed(rollout.waves),
        progress.state.as_str(),
        progress.reason,
        progress.message,
        signed(progress.wave),
        rollout.created_at.to_sqlx(),
        rollout.created_by,
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("add a rollout"))?;
    let clusters: Vec<String> = targets.iter().map(|target| target.cluster_id.to_string()).collect();
    let waves: Vec<i32> = targets.iter().map(|target| signed(target.wave)).collect();
    let changes: Vec<Value> = targets.iter().map(|target| wire::change_to_json(&target.change)).collect();
    sqlx::query!(
        "insert into rollout_clusters (rollout_id, cluster_id, position, wave, component, change)
         select $1, new.cluster_id, new.position, new.wave, $2, new.change
         from unnest($3::text[], $4::integer[], $5::jsonb[]) with ordinality as new (cluster_id, wave, change, position)
         order by new.cluster_id",
        rollout.id.0,
        rollout.component.as_str(),
        &clusters,
        &waves,
        &changes,
    )
    .execute(connection)
    .await
    .map_err(failed("add the clusters of a rollout"))?;
    Ok(())
}

/// Numbers of a rollout are far below the limit.
fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The rollout with this id.
pub async fn find(connection: &mut PgConnection, id: RolloutId) -> Result<Option<Rollout>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, component, change, rollback_of, canary, max_unavailable, max_failures, pause_seconds, wait_for_resume,
                progress_deadline_seconds, offline, waves, state, reason, message, wave, wave_done_at, accepted_failures, created_at,
                created_by, ended_at
         from rollouts where id = $1",
        id.0,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find a rollout"))?;
    row.map(Rollout::try_from).transpose()
}

/// The rollout with this id, locked until the transaction ends: no step is taken meanwhile.
pub async fn lock(connection: &mut PgConnection, id: RolloutId) -> Result<Option<Rollout>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, component, change, rollback_of, canary, max_unavailable, max_failures, pause_seconds, wait_for_resume,
                progress_deadline_seconds, offline, waves, state, reason, message, wave, wave_done_at, accepted_failures, created_at,
                created_by, ended_at
         from rollouts where id = $1 for update",
        id.0,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("lock a rollout"))?;
    row.map(Rollout::try_from).transpose()
}

/// The rollout that waits longest for its next step, locked until the transaction ends; those that others hold are passed over.
pub async fn claim(connection: &mut PgConnection, now: Timestamp) -> Result<Option<Rollout>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, component, change, rollback_of, canary, max_unavailable, max_failures, pause_seconds, wait_for_resume,
                progress_deadline_seconds, offline, waves, state, reason, message, wave, wave_done_at, accepted_failures, created_at,
                created_by, ended_at
         from rollouts where next_step_at <= $1 order by next_step_at limit 1 for update skip locked",
        now.to_sqlx(),
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("claim a rollout"))?;
    row.map(Rollout::try_from).transpose()
}

/// One page of rollouts, newest first, and one row more when there is a next page.
pub async fn list(connection: &mut PgConnection, page: &Page) -> Result<Vec<Rollout>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "select id, component, change, rollback_of, canary, max_unavailable, max_failures, pause_seconds, wait_for_resume,
                progress_deadline_seconds, offline, waves, state, reason, message, wave, wave_done_at, accepted_failures, created_at,
                created_by, ended_at
         from rollouts where $1::uuid is null or id < $1 order by id desc limit $2",
        page.after.as_deref().and_then(RolloutId::parse).map(|id| id.0),
        page.rows(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list rollouts"))?;
    rows.into_iter().map(Rollout::try_from).collect()
}

struct TargetRow {
    rollout_id: Uuid,
    cluster_id: String,
    cluster_name: String,
    wave: i32,
    change: Value,
    before: Option<Value>,
    state: String,
    reason: String,
    message: String,
    revision: Option<i64>,
    begun_at: Option<jiff_sqlx::Timestamp>,
    ended_at: Option<jiff_sqlx::Timestamp>,
    unhealthy_since: Option<jiff_sqlx::Timestamp>,
}

impl TryFrom<TargetRow> for Planned {
    type Error = StoreError;

    fn try_from(row: TargetRow) -> Result<Self, StoreError> {
        let at = RowRef { table: "rollout_clusters", id: &row.rollout_id };
        Ok(Self {
            change: wire::change_from_json(&row.change),
            before: row.before.as_ref().map(wire::component_from_json),
            target: Target {
                cluster_id: at.cluster_id("cluster_id", &row.cluster_id)?,
                wave: u32::try_from(row.wave).map_err(|error| at.invalid("wave", error))?,
                state: at.parse("state", &row.state, TargetState::parse)?,
                cluster_name: row.cluster_name,
                reason: row.reason,
                message: row.message,
                revision: row.revision,
                begun_at: row.begun_at.map(jiff_sqlx::Timestamp::to_jiff),
                ended_at: row.ended_at.map(jiff_sqlx::Timestamp::to_jiff),
                unhealthy_since: row.unhealthy_since.map(jiff_sqlx::Timestamp::to_jiff),
            },
        })
    }
}

/// The clusters of a rollout, in the order in which their turn comes.
pub async fn targets(connection: &mut PgConnection, id: RolloutId) -> Result<Vec<Planned>, StoreError> {
    let rows = sqlx::query_as!(
        TargetRow,
        "select t.rollout_id, t.cluster_id, c.name as cluster_name, t.wave, t.change, t.before, t.state, t.reason, t.message, t.revision,
                t.begun_at, t.ended_at, t.unhealthy_since
         from rollout_clusters t join clusters c on c.id = t.cluster_id
         where t.rollout_id = $1 order by t.position",
        id.0,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find the clusters of a rollout"))?;
    rows.into_iter().map(Planned::try_from).collect()
}

/// How many clusters of each of these rollouts are in each state.
pub async fn counts(
    connection: &mut PgConnection,
    rollouts: &[RolloutId],
) -> Result<Vec<(RolloutId, TargetState, u32)>, StoreError> {
    let ids: Vec<Uuid> = rollouts.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"select rollout_id, state, count(*) as "count!" from rollout_clusters where rollout_id = any($1)
           group by rollout_id, state order by rollout_id, state"#,
        &ids,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("count the clusters of rollouts"))?;
    rows.into_iter()
        .map(|row| {
            let at = RowRef { table: "rollout_clusters", id: &row.rollout_id };
            let count = u32::try_from(row.count).map_err(|error| at.invalid("state", error))?;
            Ok((RolloutId(row.rollout_id), at.parse("state", &row.state, TargetState::parse)?, count))
        })
        .collect()
}

/// The clusters that a rollout changed.
#[must_use]
pub fn changed(planned: Vec<Planned>) -> Vec<Changed> {
    let one = |Planned { target, change, before }| Some(Changed { target, before: before?, change });
    planned.into_iter().filter_map(one).collect()
}

/// Rollouts that have not ended with this component on some of these clusters, each with the name of one of them.
pub async fn overlapping(
    connection: &mut PgConnection,
    component: ComponentName,
    clusters: &[ClusterId],
) -> Result<Vec<(RolloutId, String)>, StoreError> {
    let ids: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    let rows = sqlx::query!(
        r#"select t.rollout_id, min(c.name) as "name!"
           from rollout_clusters t join clusters c on c.id = t.cluster_id
           where t.component = $1 and t.cluster_id = any($2) and t.ended_at is null
           group by t.rollout_id order by t.rollout_id"#,
        component.as_str(),
        &ids,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find rollouts on the same clusters"))?;
    Ok(rows.into_iter().map(|row| (RolloutId(row.rollout_id), row.name)).collect())
}

/// Stores how far a rollout is and when a Manager looks at it again. Must run in a transaction that holds it. A state that the Manager
/// came to by itself is written into the audit log with the same statement; of one that a request asked for, the request's record tells.
pub async fn save(
    connection: &mut PgConnection,
    rollout: &Rollout,
    next_step_at: Timestamp,
    by_itself: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Progress { state, reason, message, wave, wave_done_at, accepted_failures } = &rollout.progress;
    let next_step_at = Some(next_step_at).filter(|_| rollout.ended_at.is_none());
    let done = sqlx::query!(
        "with audited as (
             insert into audit_pending (at, subject, role, action, target, request_id, detail)
             select $10, 'manager', 'manager', 'rollout/' || $2, 'rollout/' || id, '', $3
             from rollouts where id = $1 and state <> $2 and $11
         )
         update rollouts set state = $2, reason = $3, message = $4, wave = $5, wave_done_at = $6, accepted_failures = $7, ended_at = $8,
                next_step_at = $9
         where id = $1",
        rollout.id.0,
        state.as_str(),
        reason,
        message,
        signed(*wave),
        wave_done_at.map(|at| at.to_sqlx()) as _,
        accepted_failures.map(signed),
        rollout.ended_at.map(|at| at.to_sqlx()) as _,
        next_step_at.map(|at| at.to_sqlx()) as _,
        now.to_sqlx(),
        by_itself,
    )
    .execute(connection)
    .await
    .map_err(failed("save a rollout"))?;
    one_row(done.rows_affected(), "rollouts", &rollout.id)
}

/// Stores how far clusters of a rollout are. Must run in a transaction that holds the rollout.
pub async fn save_targets(connection: &mut PgConnection, id: RolloutId, targets: &[Target]) -> Result<(), StoreError> {
    if targets.is_empty() {
        return Ok(());
    }
    let texts = |read: fn(&Target) -> String| targets.iter().map(read).collect::<Vec<String>>();
    let times = |read: fn(&Target) -> Option<Timestamp>| -> Vec<Option<jiff_sqlx::Timestamp>> {
        targets.iter().map(|target| read(target).map(|at| at.to_sqlx())).collect()
    };
    let revisions: Vec<Option<i64>> = targets.iter().map(|target| target.revision).collect();
    sqlx::query!(
        "update rollout_clusters t
            set state = new.state, reason = new.reason, message = new.message, revision = new.revision, begun_at = new.begun_at,
                ended_at = new.ended_at, unhealthy_since = new.unhealthy_since
         from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[], $8::timestamptz[], $9::timestamptz[])
              as new (cluster_id, state, reason, message, revision, begun_at, ended_at, unhealthy_since)
         where t.rollout_id = $1 and t.cluster_id = new.cluster_id",
        id.0,
        &texts(|target| target.cluster_id.to_string()),
        &texts(|target| target.state.as_str().to_owned()),
        &texts(|target| target.reason.clone()),
        &texts(|target| target.message.clone()),
        &revisions as _,
        times(|target| target.begun_at) as _,
        times(|target| target.ended_at) as _,
        times(|target| target.unhealthy_since) as _,
    )
    .execute(connection)
    .await
    .map_err(failed("save the clusters of a rollout"))?;
    Ok(())
}

/// Stores what was wanted of the component on a cluster before the rollout changed it.
pub async fn save_before(
    connection: &mut PgConnection,
    id: RolloutId,
    cluster: &ClusterId,
    before: &Component,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "update rollout_clusters set before = $3 where rollout_id = $1 and cluster_id = $2",
        id.0,
        cluster.as_str(),
        wire::component_to_json(before),
    )
    .execute(connection)
    .await
    .map_err(failed("save what a rollout replaces"))?;
    one_row(done.rows_affected(), "rollout_clusters", &id)
}

/// Puts the next look at a rollout off.
pub async fn postpone(connection: &mut PgConnection, id: RolloutId, until: Timestamp) -> Result<(), StoreError> {
    sqlx::query!(
        "update rollouts set next_step_at = $2 where id = $1 and next_step_at is not null",
        id.0,
        until.to_sqlx(),
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("put a rollout off"))
}

/// Deletes rollouts that ended before this time, at most `limit`; returns how many. The audit log keeps who began what.
pub async fn delete_old(connection: &mut PgConnection, before: Timestamp, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "delete from rollouts where id in (select id from rollouts where ended_at < $1 order by ended_at limit $2)",
        before.to_sqlx(),
        limit,
    )
    .execute(connection)
    .await
    .map_err(failed("delete old rollouts"))?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, at};
    use kubenova_core::refusal::Reason;
    use std::collections::BTreeMap;

    fn change() -> ComponentChange {
        let settings = BTreeMap::from([
            ("images".to_owned(), Some(r#"{"registry":"a"}"#.to_owned())),
            ("values".to_owned(), None),
        ]);
        ComponentChange { version: Some("0.15.0".to_owned()), settings, ..ComponentChange::default() }
    }

    fn rollout(number: u128) -> Rollout {
        Rollout {
            id: RolloutId(Uuid::from_u128(number)),
            component: ComponentName::Capsule,
            change: Some(change()),
            rollback_of: None,
            policy: Policy {
                canary: true,
                max_unavailable: 2,
                max_failures: 1,
                pause: SignedDuration::from_secs(60),
                wait_for_resume: true,
                progress_deadline: SignedDuration::from_secs(900),
                offline: OfflinePolicy::Skip,
            },
            waves: 2,
            progress: Progress::begun(),
            created_at: at(0),
            created_by: "ann".to_owned(),
            ended_at: None,
        }
    }

    fn on(clusters: &[ClusterId]) -> Vec<NewTarget> {
        let one = |(wave, id): (usize, &ClusterId)| NewTarget {
            cluster_id: id.clone(),
            wave: u32::try_from(wave).unwrap(),
            change: change(),
        };
        clusters.iter().enumerate().map(one).collect()
    }

    #[tokio::test]
    async fn a_rollout_and_its_clusters_read_back_in_their_order() {
        let fixture = Fixture::new().await;
        let mut clusters = fixture.clusters(2).await;
        clusters.reverse();
        let mut connection = fixture.store.acquire().await.unwrap();
        insert(&mut connection, &rollout(1), &on(&clusters)).await.unwrap();
        assert_eq!(find(&mut connection, rollout(1).id).await.unwrap(), Some(rollout(1)));
        assert_eq!(find(&mut connection, rollout(2).id).await.unwrap(), None);
        let planned = targets(&mut connection, rollout(1).id).await.unwrap();
        let names: Vec<_> = planned.iter().map(|one| one.target.cluster_name.as_str()).collect();
        assert_eq!(names, ["cluster-2", "cluster-1"]);
        assert!(planned.iter().all(|one| one.change == change() && one.before.is_none()));
        assert_eq!(changed(planned), []);
    }

    #[tokio::test]
    async fn what_is_saved_reads_back_and_the_manager_tells_the_audit_log() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        insert(&mut connection, &rollout(1), &on(&clusters)).await.unwrap();
        let mut planned = targets(&mut connection, rollout(1).id).await.unwrap();
        let begun = Target {
            state: TargetState::Updating,
            revision: Some(7),
            begun_at: Some(at(5)),
            unhealthy_since: Some(at(6)),
            ..planned[0].target.clone()
        };
        let ended = planned[1].target.clone().ended(TargetState::Skipped, "ClusterPurged", "gone", at(9));
        save_targets(&mut connection, rollout(1).id, &[begun.clone(), ended.clone()]).await.unwrap();
        let before = Component { version: "0.14.0".to_owned(), ..Component::default() };
        save_before(&mut connection, rollout(1).id, &clusters[0], &before).await.unwrap();
        planned = targets(&mut connection, rollout(1).id).await.unwrap();
        assert_eq!((&planned[0].target, &planned[1].target), (&begun, &ended));
        assert_eq!(planned[0].before.as_ref(), Some(&before));

        let stopped = Progress {
            accepted_failures: Some(2),
            wave: 1,
            wave_done_at: Some(at(8)),
            ..Progress::begun().into_state(RolloutState::Stopped, "CanaryFailed", "no")
        };
        let stopped = Rollout { progress: stopped, ..rollout(1) };
        for _ in 0..2 {
            save(&mut connection, &stopped, at(20), true, at(10)).await.unwrap();
        }
        assert_eq!(find(&mut connection, rollout(1).id).await.unwrap(), Some(stopped));
        let rows = fixture.database.rows().await;
        assert_eq!(
            rows.iter().filter(|row| row.contains("rollout/stopped")).count(),
            1,
            "once for a change of the state"
        );
        let counted = counts(&mut connection, &[rollout(1).id]).await.unwrap();
        let id = rollout(1).id;
        assert_eq!(counted, [(id, TargetState::Skipped, 1), (id, TargetState::Updating, 1)]);
    }

    #[tokio::test]
    async fn one_manager_claims_a_rollout_and_the_other_passes_it_over() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        insert(&mut connection, &rollout(1), &on(&clusters[..1])).await.unwrap();
        insert(&mut connection, &rollout(2), &on(&clusters[1..])).await.unwrap();
        let (mut one, mut other) = (fixture.begin().await, fixture.begin().await);
        let first = claim(&mut one, at(0)).await.unwrap().unwrap();
        let second = claim(&mut other, at(0)).await.unwrap().unwrap();
        assert_ne!(first.id, second.id);
        assert_eq!(claim(&mut connection, at(0)).await.unwrap(), None);
        save(&mut one, &first, at(5), true, at(0)).await.unwrap();
        one.commit().await.unwrap();
        assert_eq!(claim(&mut connection, at(4)).await.unwrap(), None, "not due yet");
        assert_eq!(claim(&mut connection, at(5)).await.unwrap().unwrap().id, first.id);
        let completed = first.progress.clone().into_state(RolloutState::Completed, "Completed", "");
        let completed = Rollout { progress: completed, ended_at: Some(at(6)), ..first };
        save(&mut connection, &completed, at(5), true, at(6)).await.unwrap();
        assert_eq!(claim(&mut connection, at(999)).await.unwrap(), None, "it has ended");
    }

    #[tokio::test]
    async fn two_rollouts_never_change_a_component_of_one_cluster_at_once() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        insert(&mut connection, &rollout(1), &on(&clusters[..1])).await.unwrap();
        let found = overlapping(&mut connection, ComponentName::Capsule, &clusters).await.unwrap();
        assert_eq!(found, [(rollout(1).id, "cluster-1".to_owned())]);
        assert_eq!(overlapping(&mut connection, ComponentName::KubeVela, &clusters).await.unwrap(), []);
        let refused = insert(&mut connection, &rollout(2), &on(&clusters)).await.unwrap_err().refusal().unwrap();
        assert_eq!(refused.reason, Reason::RolloutOverlaps);
        let ended = targets(&mut connection, rollout(1).id).await.unwrap().remove(0).target;
        let ended = ended.ended(TargetState::Failed, "No", "", at(1));
        save_targets(&mut connection, rollout(1).id, &[ended]).await.unwrap();
        insert(&mut connection, &rollout(3), &on(&clusters)).await.unwrap();
    }

    #[tokio::test]
    async fn old_rollouts_are_deleted_with_their_clusters_and_open_ones_stay() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(3).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        insert(&mut connection, &rollout(1), &on(&clusters[..1])).await.unwrap();
        let back = Rollout { rollback_of: Some(rollout(1).id), change: None, ..rollout(2) };
        insert(&mut connection, &back, &on(&clusters[1..])).await.unwrap();
        let completed = Progress::begun().into_state(RolloutState::Completed, "Completed", "");
        let completed = Rollout { progress: completed, ended_at: Some(at(6)), ..rollout(1) };
        save(&mut connection, &completed, at(6), false, at(6)).await.unwrap();
        assert_eq!(delete_old(&mut connection, at(6), 10).await.unwrap(), 0);
        assert_eq!(delete_old(&mut connection, at(7), 10).await.unwrap(), 1);
        let page = Page::new(None, None);
        assert_eq!(list(&mut connection, &page).await.unwrap(), [Rollout { rollback_of: None, ..back }]);
        assert!(targets(&mut connection, rollout(1).id).await.unwrap().is_empty());
    }
}
