//! Old commands are deleted, except those that are needed whatever their age: a row that did not end; of each object on each
//! cluster the newest row and the newest that the cluster stored, because both sides are compared by them; a delete that an
//! application waits for. Of an operation nothing stays.
//!
//! A hello may name a revision whose row is gone, from a cluster that was restored to its own past: the highest deleted one of
//! each cluster stays known (`sessions::revision_matches`).
//!
//! A pass walks all old rows in the order of their ids, which is that of their age, so that a batch costs the same whatever
//! stays.

use crate::error::{StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

/// How far a pass has come; the default is its begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pass {
    last: Uuid,
}

/// Looks at the next `limit` commands that were queued before this time and deletes those that are not needed. None when
/// the pass is complete.
pub async fn delete_old(
    connection: &mut PgConnection,
    before: Timestamp,
    pass: Pass,
    limit: i64,
) -> Result<Option<Pass>, StoreError> {
    let looked_at = sqlx::query!(
        r#"with aged as materialized (
             select id from commands where id > $2 and id < $4 and queued_at < $1 order by id limit $3
         ), deleted as (
             delete from commands k using aged
             where k.id = aged.id and k.finished_at < $1
               and (k.object_key like 'operation/%'
                    or exists (select from commands n where n.cluster_id = k.cluster_id and n.object_key = k.object_key
                                                        and n.revision > k.revision)
                       and (k.acknowledged_at is null
                            or exists (select from commands n where n.cluster_id = k.cluster_id and n.object_key = k.object_key
                                                                and n.revision > k.revision and n.acknowledged_at is not null)))
               and not exists (select from application_clusters a where a.delete_command = k.id)
             returning k.cluster_id, k.revision
         ), noted as (
             insert into pruned_commands (cluster_id, revision)
             select cluster_id, max(revision) from deleted group by cluster_id order by cluster_id
             on conflict (cluster_id) do update set revision = greatest(pruned_commands.revision, excluded.revision)
         )
         select count(*) as "count!", (select id from aged order by id desc limit 1) as last from aged"#,
        before.to_sqlx(),
        pass.last,
        limit,
        first_id_at(before),
    )
    .fetch_one(connection)
    .await
    .map_err(failed("delete old commands"))?;
    Ok(looked_at.last.filter(|_| looked_at.count >= limit).map(|last| Pass { last }))
}

/// The lowest id that a command of this time can have: ids are UUIDv7, which begin with 48 bits of milliseconds.
fn first_id_at(time: Timestamp) -> Uuid {
    let milliseconds = u128::try_from(time.as_millisecond()).unwrap_or_default();
    Uuid::from_u128(milliseconds << 80)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster_queue::{self, ClaimOptions},
        fixture::{Fixture, at, claim_options, new_id, reported, rows_read},
        outbox, outcomes, sessions,
    };
    use kubenova_core::{change::Change, cluster::ClusterId, command::CommandState};

    /// Rows of one object, as (revision, state, acknowledged), all of one time.
    async fn rows(fixture: &Fixture, cluster: &ClusterId, object: &str, rows: &[(i64, &str, bool)]) {
        let mut connection = fixture.store.acquire().await.unwrap();
        for (revision, state, acknowledged) in rows {
            let finished = !["queued", "sent", "acknowledged", "running"].contains(state);
            sqlx::query(
                "insert into commands (id, cluster_id, revision, kind, object_key, document, generation, state, created_by, queued_at,
                                       acknowledged_at, finished_at)
                 values ($1, $2, $3, 'apply-tenant', $4, '{}', 1, $5, 'ann', $6, case when $7 then $6 end, case when $8 then $6 end)",
            )
            .bind(Uuid::from_u128(u128::from(revision.unsigned_abs())))
            .bind(cluster.as_str())
            .bind(revision)
            .bind(object)
            .bind(state)
            .bind(at(0).to_sqlx())
            .bind(acknowledged)
            .bind(finished)
            .execute(&mut *connection)
            .await
            .unwrap();
        }
    }

    /// Runs a pass in batches of two, and returns the revisions that are left.
    async fn pass(fixture: &Fixture, before: Timestamp) -> Vec<i64> {
        let mut connection = fixture.store.acquire().await.unwrap();
        let mut pass = Some(Pass::default());
        while let Some(next) = pass {
            pass = delete_old(&mut connection, before, next, 2).await.unwrap();
        }
        sqlx::query_scalar("select revision from commands order by revision").fetch_all(&mut *connection).await.unwrap()
    }

    #[tokio::test]
    async fn of_each_object_what_both_sides_are_compared_by_stays() {
        for (left, object) in [
            (vec![3], vec![(1, "succeeded", true), (2, "failed", true), (3, "succeeded", true)]),
            // The newest was never stored there: the one before it is what the cluster holds.
            (vec![2, 3], vec![(1, "succeeded", true), (2, "succeeded", true), (3, "cancelled", false)]),
            (vec![1, 3], vec![(1, "succeeded", true), (2, "refused", false), (3, "refused", false)]),
            // What did not end stays, however old it is.
            (vec![1, 3], vec![(1, "running", true), (2, "superseded", false), (3, "succeeded", true)]),
        ] {
            let fixture = Fixture::new().await;
            let cluster = fixture.clusters(1).await.remove(0);
            rows(&fixture, &cluster, "tenant/1", &object).await;
            assert_eq!(pass(&fixture, at(0)).await.len(), object.len(), "none is old");
            assert_eq!(pass(&fixture, at(1)).await, left, "{object:?}");
        }
    }

    #[tokio::test]
    async fn other_objects_and_clusters_do_not_count() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        rows(&fixture, &clusters[0], "tenant/1", &[(1, "succeeded", true), (2, "succeeded", true)]).await;
        rows(&fixture, &clusters[0], "tenant/2", &[(3, "succeeded", true)]).await;
        rows(&fixture, &clusters[1], "tenant/1", &[(4, "succeeded", true)]).await;
        assert_eq!(pass(&fixture, at(1)).await, [2, 3, 4]);
    }

    #[tokio::test]
    async fn a_cluster_that_names_a_deleted_revision_is_known_and_one_that_names_a_later_one_is_not() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let object: Vec<_> = (1..=4).map(|revision| (revision, "succeeded", true)).collect();
        rows(&fixture, &clusters[0], "tenant/1", &object).await;
        assert_eq!(pass(&fixture, at(1)).await, [4]);
        let mut connection = fixture.store.acquire().await.unwrap();
        let id = |revision| Some(Uuid::from_u128(revision));
        for (cluster, revision, command, known) in [
            (0, 3, id(3), true),
            (0, 1, id(1), true),
            (0, 4, id(4), true),
            // The row is there, and another command has the revision.
            (0, 4, id(3), false),
            (0, 5, id(5), false),
            (1, 3, id(3), false),
        ] {
            let found =
                sessions::revision_matches(&mut connection, &clusters[cluster], revision, command).await.unwrap();
            assert_eq!(found, known, "revision {revision} of cluster {cluster}");
        }
        drop(connection);
        // What is deleted later does not lower it.
        rows(&fixture, &clusters[0], "tenant/2", &[(10, "succeeded", true), (11, "succeeded", true)]).await;
        pass(&fixture, at(1)).await;
        rows(&fixture, &clusters[0], "tenant/3", &[(6, "succeeded", true), (7, "succeeded", true)]).await;
        assert_eq!(pass(&fixture, at(1)).await, [4, 7, 11]);
        let mut connection = fixture.store.acquire().await.unwrap();
        assert!(sessions::revision_matches(&mut connection, &clusters[0], 10, id(10)).await.unwrap());
    }

    #[tokio::test]
    async fn a_pass_does_not_read_what_is_newer() {
        let fixture = Fixture::new().await;
        fixture.clusters(1).await;
        fixture
            .execute(
                "insert into commands (id, cluster_id, revision, kind, object_key, document, generation, state, created_by, queued_at,
                                       acknowledged_at, finished_at)
                 select ('0fffffff-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, c.id, n, 'apply-tenant', 'tenant/1', '{}', 1,
                        'succeeded', 'ann', now(), now(), now()
                 from clusters c, generate_series(1, 1000) n;
                 analyze commands",
            )
            .await;
        let mut tx = fixture.begin().await;
        assert_eq!(delete_old(&mut tx, at(1), Pass::default(), 10).await.unwrap(), None);
        let read = rows_read(&mut tx).await;
        assert!(read <= 10, "{read} rows were read, of which the planner reads two");
    }

    #[tokio::test]
    async fn a_year_of_ended_commands_costs_the_sending_side_nothing() {
        let fixture = Fixture::new().await;
        let (cluster, tenant) = (fixture.connected_cluster().await, fixture.tenant().await);
        fixture
            .execute(
                "insert into commands (id, cluster_id, revision, kind, object_key, document, generation, state, created_by, queued_at,
                                       sent_at, acknowledged_at, finished_at)
                 select gen_random_uuid(), c.id, n, 'apply-tenant', 'tenant/' || n % 1000, '{}', 1,
                        case n % 3 when 0 then 'failed' else 'succeeded' end, 'ann', now(), now(), now(), now()
                 from clusters c, generate_series(1, 100000) n;
                 update clusters set revision_counter = 100000;
                 analyze commands",
            )
            .await;
        let due = ClaimOptions { window: 32, ..claim_options() };
        let command = fixture.enqueue(std::slice::from_ref(&cluster), &Change::Tenant(tenant)).await.remove(0);
        let mut tx = fixture.begin().await;
        assert_eq!(cluster_queue::clusters_with_due(&mut tx, due.now, due.heartbeat_within).await.unwrap().len(), 1);
        assert_eq!(cluster_queue::claim(&mut tx, &cluster, &due).await.unwrap().unwrap().due.len(), 1);
        assert_eq!(cluster_queue::floor(&mut tx, &cluster).await.unwrap(), 100_000);
        let reported = reported(&cluster, command.command_id, CommandState::Running);
        outcomes::record(&mut tx, &reported, at(2), new_id).await.unwrap();
        cluster_queue::resend_open(&mut tx, &cluster, 0, at(2)).await.unwrap();
        let read = rows_read(&mut tx).await;
        assert!(read <= 50, "{read} rows were read for one open command");
        let tenant = crate::fixture::tenant(1);
        outbox::enqueue_commands(&mut tx, crate::fixture::issuer(), &[cluster], &Change::Tenant(tenant)).await.unwrap();
        let read = rows_read(&mut tx).await - read;
        assert!(read <= 50, "{read} rows were read to write a command");
    }
}
