//! The sending side of the outbox: which commands are due, and where each was stored.
//!
//! Several Managers may claim at once: a row is claimed by one of them, and the Operator's fence makes a second send and any
//! order harmless (`docs/adr/0009`). Before it: `outbox.rs` wrote the rows. After it: the relay signs and publishes outside
//! these transactions.

use crate::error::{RowRef, StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{cluster::ClusterId, command::CommandId};
use kubenova_schema::{mutant, trace::TraceParent};
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// A command to sign and send now. Its row is marked `sent` already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueCommand {
    /// Its id.
    pub id: CommandId,
    /// Its place in the order of the cluster's commands.
    pub revision: i64,
    /// The operation, as in the message.
    pub kind: String,
    /// The object it is about.
    pub object_key: String,
    /// Exact JSON.
    pub document: String,
    /// Deadline, when it has one.
    pub not_after: Option<Timestamp>,
    /// Times it was sent, this one included.
    pub send_count: i32,
    /// The trace of the request that caused it.
    pub traceparent: Option<TraceParent>,
    /// Of the delete of a tenant: the statement of a person who confirmed it, and its signature.
    pub confirmation: Option<(String, String)>,
}

/// The queue of a cluster: what the relay writes into every command, and the commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueState {
    /// Current epoch.
    pub epoch: i64,
    /// UID of the kube-system namespace.
    pub kubernetes_uid: String,
    /// Every command at or below this revision is in a terminal state.
    pub floor: i64,
    /// Commands to send now, lowest revision first.
    pub due: Vec<DueCommand>,
    /// The cluster has as many unacknowledged commands now as it may: more may be due.
    pub is_full: bool,
}

/// What decides which commands are due.
#[derive(Debug, Clone, Copy)]
pub struct ClaimOptions {
    /// Now.
    pub now: Timestamp,
    /// When a command that is sent now is due again unless the cluster acknowledges it.
    pub send_again_at: Timestamp,
    /// When a command that the cluster acknowledged is due again unless it ends: a cluster that has it already reports on
    /// it again.
    pub report_again_at: Timestamp,
    /// Most unacknowledged commands of a cluster.
    pub window: i64,
    /// A cluster without a heartbeat for this long is not in session.
    pub heartbeat_within: Duration,
}

/// Clusters that are trusted and in session and have due commands: their last heartbeat is not older than `heartbeat_within`, by
/// the clock of Postgres. A session counts only when the running server of Postgres has confirmed it
/// (`migrations/0022_sessions.sql`).
///
/// Begins with the sessions and looks for one due command of each, so that whatever waits for clusters out of session costs nothing.
/// With 10,000 clusters in session, none of which has any, that is 11 ms.
pub async fn clusters_with_due(
    connection: &mut PgConnection,
    now: Timestamp,
    heartbeat_within: Duration,
) -> Result<Vec<ClusterId>, StoreError> {
    let rows = sqlx::query_scalar!(
        "select s.cluster_id as \"cluster_id!\" from confirmed_sessions s
         cross join lateral (
             select from commands k
             where k.cluster_id = s.cluster_id and k.state in ('queued', 'sent', 'acknowledged', 'running')
               and (k.next_send_at <= $1 or k.state in ('queued', 'sent') and k.next_send_at is null)
             limit 1
         ) due
         join clusters c on c.id = s.cluster_id and c.state = 'enrolled'
         where s.last_heartbeat_at >= statement_timestamp() - make_interval(secs => $2)
         order by s.cluster_id",
        now.to_sqlx(),
        heartbeat_within.as_secs_f64(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find clusters with due commands"))?;
    rows.iter().map(|id| RowRef { table: "sessions", id }.cluster_id("cluster_id", id)).collect()
}

/// The revision at or below which every command of the cluster is in a terminal state.
pub async fn floor(connection: &mut PgConnection, cluster: &ClusterId) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"select coalesce((select min(k.revision) - 1 from commands k where k.cluster_id = c.id
                              and k.state in ('queued', 'sent', 'acknowledged', 'running')), c.revision_counter) as "floor!"
           from clusters c where c.id = $1"#,
        cluster.as_str(),
    )
    .fetch_one(connection)
    .await
    .map_err(failed("read the floor of a cluster's commands"))
}

/// Marks due commands as sent and returns them; one that the cluster acknowledged keeps its state. Must be committed before they
/// are published: it is one statement, which outside a transaction is. None for a cluster that is not, or no longer, trusted, or
/// not in session.
pub async fn claim(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    due: &ClaimOptions,
) -> Result<Option<QueueState>, StoreError> {
    let rows = sqlx::query!(
        r#"with head as materialized (
             select c.epoch, c.kubernetes_uid,
                    -- As `floor`.
                    coalesce((select min(k.revision) - 1 from commands k where k.cluster_id = c.id
                                and k.state in ('queued', 'sent', 'acknowledged', 'running')), c.revision_counter) as floor
             from clusters c join confirmed_sessions s on s.cluster_id = c.id
             where c.id = $1 and c.state = 'enrolled' and c.kubernetes_uid is not null
               and s.last_heartbeat_at >= statement_timestamp() - make_interval(secs => $6)
         ), room as materialized (
             select greatest($4 - count(*), 0) as rows from commands
             where exists (select from head)
               and cluster_id = $1 and state = 'sent' and next_send_at > $2 and waiting_for = ''
         ), due as (
             select id from commands c
             where exists (select from head)
               and cluster_id = $1 and (state in ('queued', 'sent') and (next_send_at is null or next_send_at <= $2)
                                        or state in ('acknowledged', 'running') and next_send_at <= $2)
               -- An operation expires here before it is sent, and in its cluster afterwards.
               and (state <> 'queued' or not_after is null or not_after >= $2)
               and (kind <> 'delete-tenant' or state <> 'queued' or tenant_delete_may_pass($1, revision, tenant_id, $2))
               -- Its cancellation goes first: it may still come before the operation begins.
               and (object_key not like 'operation/%'
                    or not exists (select from commands later where later.cluster_id = c.cluster_id
                                      and later.object_key = c.object_key and later.revision > c.revision
                                      and later.state in ('queued', 'sent', 'acknowledged', 'running')))
             order by revision limit (select rows from room) for update skip locked
         ), claimed as (
             update commands k
                set state = case when k.state = 'queued' then 'sent' else k.state end,
                    sent_at = coalesce(k.sent_at, $2), send_count = k.send_count + 1, waiting_for = '',
                    next_send_at = case when k.state in ('queued', 'sent') then $3::timestamptz else $5::timestamptz end
               from due where k.id = due.id
             returning k.id, k.revision, k.kind, k.object_key, k.document, k.not_after, k.send_count, k.traceparent,
                       case when k.kind = 'delete-tenant' then
                           (select array[d.statement, d.signature] from deletion_confirmations d
                            where d.cluster_id = $1 and d.not_after >= $2 and k.tenant_id = any (d.tenant_ids)
                            order by d.signature <> '' desc, d.created_at desc limit 1) end as confirmation
         )
         select head.epoch as "epoch!", head.kubernetes_uid as "kubernetes_uid!", head.floor as "floor!", room.rows as "room!",
                claimed.id as "id?", claimed.revision as "revision?", claimed.kind as "kind?", claimed.object_key as "object_key?",
                claimed.document as "document?", claimed.not_after as "not_after?", claimed.send_count as "send_count?",
                claimed.traceparent as "traceparent?", claimed.confirmation as "confirmation?"
         from head cross join room left join claimed on true
         order by claimed.revision"#,
        cluster.as_str(),
        due.now.to_sqlx(),
        due.send_again_at.to_sqlx(),
        if mutant::is_on("queue.no-window") { i64::MAX } else { due.window },
        due.report_again_at.to_sqlx(),
        if mutant::is_on("queue.out-of-session") { 1e9 } else { due.heartbeat_within.as_secs_f64() },
    )
    .fetch_all(connection)
    .await
    .map_err(failed("claim due commands"))?;
    let Some(first) = rows.first() else { return Ok(None) };
    let (epoch, kubernetes_uid, floor, room) = (first.epoch, first.kubernetes_uid.clone(), first.floor, first.room);
    // A single row without a command when none is due.
    let claimed = rows.into_iter().filter_map(|row| {
        Some(DueCommand {
            id: CommandId(row.id?),
            revision: row.revision?,
            kind: row.kind?,
            object_key: row.object_key?,
            document: row.document?,
            not_after: row.not_after.map(jiff_sqlx::Timestamp::to_jiff),
            send_count: row.send_count?,
            traceparent: row.traceparent.as_deref().and_then(TraceParent::parse),
            confirmation: row
                .confirmation
                .and_then(|mut texts| Some((texts.pop()?, texts.pop()?)))
                .map(|(signature, statement)| (statement, signature)),
        })
    });
    let due: Vec<DueCommand> = claimed.collect();
    let is_full = i64::try_from(due.len()).unwrap_or(i64::MAX) >= room;
    Ok(Some(QueueState { epoch, kubernetes_uid, floor, due, is_full }))
}

/// Where the broker stored a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The command.
    pub command: CommandId,
    /// The stream.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
}

/// Records where the broker stored commands.
pub async fn record_published(connection: &mut PgConnection, published: &[Published]) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = published.iter().map(|one| one.command.0).collect();
    let streams: Vec<String> = published.iter().map(|one| one.stream.clone()).collect();
    let sequences: Vec<i64> = published.iter().map(|one| i64::try_from(one.sequence).unwrap_or(i64::MAX)).collect();
    sqlx::query!(
        // Locked from the highest revision down, as an outcome locks the commands of its object.
        "with locked as materialized (select id from commands where id = any($1) order by revision desc for update)
         update commands k set stream = p.stream, stream_seq = p.sequence
         from locked join unnest($1::uuid[], $2::text[], $3::bigint[]) as p (id, stream, sequence) on p.id = locked.id
         where k.id = p.id",
        &ids,
        &streams,
        &sequences,
    )
    .execute(connection)
    .await
    .map_err(failed("record where commands were stored"))?;
    Ok(())
}

/// Fails a command that can never be published, so that it does not block those behind it. One that an outcome has moved
/// on since it was claimed stays as it is.
pub async fn fail_unsendable(
    connection: &mut PgConnection,
    command: CommandId,
    message: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query!(
        "with ended as (
             update commands set state = 'failed', reason = 'TooLarge', message = $2, waiting_for = '', finished_at = $3
             where id = $1 and state = 'sent' returning *
         )
         insert into audit_pending (at, subject, role, action, target, tenant_id, command_id, cluster_id, revision, detail)
         select finished_at, 'manager', 'manager', 'command/failed', object_key, tenant_id, id, cluster_id, revision, reason
         from ended",
        command.0,
        message,
        now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("fail a command that cannot be sent"))?;
    Ok(())
}

/// Makes commands that could not be published due again at this time. One that has ended meanwhile stays as it is.
pub async fn retry_at(connection: &mut PgConnection, commands: &[CommandId], at: Timestamp) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = commands.iter().map(|command| command.0).collect();
    sqlx::query!(
        "with locked as materialized (select id from commands where id = any($1) order by revision desc for update)
         update commands k set next_send_at = $2 from locked
         where k.id = locked.id and k.state in ('sent', 'acknowledged', 'running')",
        &ids,
        at.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("schedule commands again"))?;
    Ok(())
}

/// Makes due now what a cluster does not have when a session begins: everything that was sent, since its durable delivers nothing of
/// before, and what it acknowledged above the highest revision that it names, since it was restored from an earlier backup.
pub async fn resend_open(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    highest_revision: i64,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let rows = sqlx::query!(
        "with locked as materialized (
             select id from commands
             where cluster_id = $1 and (state = 'sent' or state in ('acknowledged', 'running') and revision > $2)
             order by revision desc for update
         )
         update commands k set next_send_at = case when k.state <> 'sent' then $3::timestamptz end
         from locked where k.id = locked.id",
        cluster.as_str(),
        if mutant::is_on("queue.lost-stay") { i64::MAX } else { highest_revision },
        now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("schedule open commands again"))?;
    Ok(rows.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster_trust, commands, enrollments,
        fixture::{EVER, Fixture, at, claim_options, new_id, reported, rows_read},
        outcomes::{self, Reported},
    };
    use kubenova_core::{change::Change, cluster::StateNote, command::CommandState};

    fn due(now: i64, window: i64) -> ClaimOptions {
        ClaimOptions {
            now: at(now),
            send_again_at: at(now + 30),
            report_again_at: at(now + 600),
            window,
            ..claim_options()
        }
    }

    /// A connected cluster with `count` commands about different applications.
    async fn queue(fixture: &Fixture, count: usize) -> ClusterId {
        let cluster = fixture.connected_cluster().await;
        let tenant = fixture.tenant().await;
        for number in 0..count {
            let application = fixture.application(&tenant, &format!("app-{number}"), &[]).await;
            let change = Change::Application { tenant: tenant.name.clone(), application };
            fixture.enqueue(std::slice::from_ref(&cluster), &change).await;
        }
        cluster
    }

    async fn claim_committed(fixture: &Fixture, cluster: &ClusterId, due: &ClaimOptions) -> QueueState {
        let mut tx = fixture.begin().await;
        let claimed = claim(&mut tx, cluster, due).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        claimed
    }

    fn revisions(queue: &QueueState) -> Vec<i64> {
        queue.due.iter().map(|command| command.revision).collect()
    }

    #[tokio::test]
    async fn only_clusters_in_session_have_due_commands() {
        let fixture = Fixture::new().await;
        let cluster = queue(&fixture, 1).await;
        let found = async |heartbeat_within: Duration| {
            let mut tx = fixture.begin().await;
            let clusters = clusters_with_due(&mut tx, at(45), heartbeat_within).await.unwrap();
            let claimed = claim(&mut tx, &cluster, &ClaimOptions { heartbeat_within, ..due(45, 10) }).await.unwrap();
            tx.roll_back().await;
            (clusters.len(), claimed.map(|queue| queue.due.len()))
        };
        assert_eq!(found(EVER).await, (1, Some(1)));
        fixture.execute("update sessions set last_heartbeat_at = now() - interval '46 seconds'").await;
        assert_eq!(found(Duration::from_secs(3600)).await, (1, Some(1)));
        assert_eq!(found(Duration::from_secs(45)).await, (0, None), "no heartbeat since 46 s");
        let mut connection = fixture.store.acquire().await.unwrap();
        let note = StateNote::new("Test", "");
        cluster_trust::quarantine(&mut connection, &cluster, &note, at(45)).await.unwrap();
        assert_eq!(found(EVER).await, (0, None), "quarantined");
        enrollments::enroll(&mut connection, &cluster, "uid-1", at(45)).await.unwrap();
        assert_eq!(found(EVER).await, (1, Some(1)), "enrolled again");
        // Another server of Postgres than the one that recorded the heartbeat: the database may have been restored.
        fixture.execute("update sessions set recorded_by = recorded_by - interval '1 hour'").await;
        assert_eq!(found(EVER).await, (0, None), "refused");
    }

    /// Five hundred clusters that are away, with a hundred commands each, cost the relay what one row costs.
    #[tokio::test]
    async fn what_waits_for_clusters_out_of_session_is_not_read() {
        let fixture = Fixture::new().await;
        let cluster = queue(&fixture, 1).await;
        fixture
            .execute(
                "insert into clusters (id, name, state, kubernetes_uid, revision_counter, created_at, updated_at, created_by)
                 select 'c' || lpad(n::text, 26, '0'), 'away-' || n, 'enrolled', 'uid-away-' || n, 100, now(), now(), 'ann'
                 from generate_series(1000, 1499) n;
                 insert into sessions (cluster_id, session, incarnation, boot_id, lease_term, opened_at, last_heartbeat_at, recorded_by)
                 select id, 1, '1', 'boot', 1, now(), now() - interval '1 hour', pg_postmaster_start_time()
                 from clusters where name like 'away-%';
                 insert into commands (id, cluster_id, revision, kind, object_key, document, generation, created_by, queued_at)
                 select gen_random_uuid(), c.id, n, 'apply-tenant', 'tenant/' || n, '{}', 1, 'ann', now()
                 from clusters c, generate_series(1, 100) n where c.name like 'away-%';
                 update sessions set last_heartbeat_at = now() where last_heartbeat_at < now() - interval '1 day';
                 analyze",
            )
            .await;
        let mut tx = fixture.begin().await;
        let within = Duration::from_secs(600);
        assert_eq!(clusters_with_due(&mut tx, at(1), within).await.unwrap(), [cluster]);
        let read = rows_read(&mut tx).await;
        assert!(read <= 10, "{read} rows were read for one due command");
        let away = ClusterId::parse(&format!("c{:026}", 1234)).unwrap();
        let options = ClaimOptions { heartbeat_within: within, ..due(1, 10) };
        assert_eq!(claim(&mut tx, &away, &options).await.unwrap(), None);
        assert_eq!(rows_read(&mut tx).await - read, 0, "a command for a cluster that is away reads none");
    }

    #[tokio::test]
    async fn a_claim_takes_as_many_as_the_window_allows_in_order_and_each_once() {
        let fixture = Fixture::new().await;
        let cluster = queue(&fixture, 5).await;
        let first = claim_committed(&fixture, &cluster, &due(1, 3)).await;
        assert_eq!((revisions(&first), first.floor, first.is_full), (vec![1, 2, 3], 0, true));
        let none = claim_committed(&fixture, &cluster, &due(2, 3)).await;
        assert_eq!((revisions(&none), none.is_full), (vec![], true), "the window is full");
        let rest = claim_committed(&fixture, &cluster, &due(2, 6)).await;
        assert_eq!((revisions(&rest), rest.is_full), (vec![4, 5], false));
        let again = claim_committed(&fixture, &cluster, &due(31, 5)).await;
        assert_eq!(revisions(&again), [1, 2, 3], "what was sent at 1 s and not acknowledged is due again");
        assert_eq!(again.due[0].send_count, 2);
    }

    #[tokio::test]
    async fn parallel_claims_never_take_the_same_command() {
        let fixture = Fixture::new().await;
        let cluster = queue(&fixture, 4).await;
        let (mut one, mut other) = (fixture.begin().await, fixture.begin().await);
        let first = claim(&mut one, &cluster, &due(1, 2)).await.unwrap().unwrap();
        let second = claim(&mut other, &cluster, &due(1, 4)).await.unwrap().unwrap();
        assert_eq!((revisions(&first), revisions(&second)), (vec![1, 2], vec![3, 4]));
    }

    #[tokio::test]
    async fn a_cluster_that_never_enrolled_has_no_queue() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        assert_eq!(claim(&mut connection, &cluster, &due(1, 1)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_floor_is_below_the_lowest_open_command() {
        let fixture = Fixture::new().await;
        let cluster = queue(&fixture, 3).await;
        let claimed = claim_committed(&fixture, &cluster, &due(1, 3)).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for (number, floor) in [(1, 0), (0, 2), (2, 3)] {
            let reported = reported(&cluster, claimed.due[number].id, CommandState::Succeeded);
            outcomes::record(&mut connection, &reported, at(2), new_id).await.unwrap();
            assert_eq!(claim(&mut connection, &cluster, &due(3, 3)).await.unwrap().unwrap().floor, floor);
        }
    }

    #[tokio::test]
    async fn what_could_not_be_published_is_due_again_and_what_never_can_has_failed() {
        let fixture = Fixture::new().await;
        let cluster = queue(&fixture, 2).await;
        let claimed = claim_committed(&fixture, &cluster, &due(1, 2)).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        retry_at(&mut connection, &[claimed.due[0].id], at(2)).await.unwrap();
        fail_unsendable(&mut connection, claimed.due[1].id, "too large", at(2)).await.unwrap();
        assert_eq!(revisions(&claim_committed(&fixture, &cluster, &due(2, 2)).await), [1]);
        let failed = commands::find(&mut connection, claimed.due[1].id).await.unwrap().unwrap();
        assert_eq!((failed.state, failed.message.as_str()), (CommandState::Failed, "too large"));
    }

    #[tokio::test]
    async fn a_new_session_makes_sent_commands_due() {
        let fixture = Fixture::new().await;
        let cluster = queue(&fixture, 2).await;
        let claimed = claim_committed(&fixture, &cluster, &due(1, 2)).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let stored = Published { command: claimed.due[0].id, stream: "stream".into(), sequence: 7 };
        record_published(&mut connection, &[stored]).await.unwrap();
        assert_eq!(resend_open(&mut connection, &cluster, 0, at(2)).await.unwrap(), 2);
        assert_eq!(revisions(&claim_committed(&fixture, &cluster, &due(2, 2)).await), [1, 2]);
    }

    #[tokio::test]
    async fn a_new_session_makes_due_what_the_cluster_acknowledged_and_no_longer_has() {
        let fixture = Fixture::new().await;
        let cluster = queue(&fixture, 3).await;
        let claimed = claim_committed(&fixture, &cluster, &due(1, 3)).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for (command, state) in claimed.due.iter().zip([CommandState::Acknowledged, CommandState::Running]) {
            let reported = Reported { send_again_at: Some(at(600)), ..reported(&cluster, command.id, state) };
            outcomes::record(&mut connection, &reported, at(1), new_id).await.unwrap();
        }
        // It has the first, the third was never acknowledged.
        assert_eq!(resend_open(&mut connection, &cluster, 1, at(2)).await.unwrap(), 2);
        assert_eq!(revisions(&claim_committed(&fixture, &cluster, &due(2, 3)).await), [2, 3]);
        let running = commands::find(&mut connection, claimed.due[1].id).await.unwrap().unwrap();
        assert_eq!(running.state, CommandState::Running, "only its cluster moves it");
        assert_eq!(revisions(&claim_committed(&fixture, &cluster, &due(3, 3)).await), [0_i64; 0], "once a session");
    }
}
