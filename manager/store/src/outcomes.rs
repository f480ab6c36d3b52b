//! Outcomes that clusters report about commands. Keyed by command id; the first terminal state wins; repeats change
//! nothing.
//!
//! Before it: `cluster_reports.rs`. After it: REST shows the row with its hops.

use crate::{
    application_removal,
    error::{RowRef, StoreError, failed, one_row},
    outbox::{self, Issuer},
};
use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    cluster::ClusterId,
    command::{CommandId, CommandState, Hop, Mover, OPERATION_KEY_PREFIX},
    superseded,
};
use kubenova_schema::mutant;
use sqlx::PgConnection;
use uuid::Uuid;

/// An outcome, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// The reporting cluster: from the subject, which the broker's permissions guarantee.
    pub cluster_id: ClusterId,
    /// The command it is about.
    pub command_id: CommandId,
    /// Epoch of the command that the cluster answered.
    pub epoch: i64,
    /// The state it reached; none for a deferral.
    pub state: Option<CommandState>,
    /// One CamelCase word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Steps in the cluster with their times.
    pub hops: Vec<Hop>,
    /// When to send the command again unless it ends before; a deferral says when, none is at once.
    pub send_again_at: Option<Timestamp>,
}

/// What an outcome changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The row moved.
    Moved,
    /// Nothing new.
    Repeated,
    /// No such command of this cluster.
    Unknown,
}

impl Recorded {
    /// Its name in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Repeated => "repeated",
            Self::Unknown => "unknown",
        }
    }
}

/// Most characters of a reason, and of an object, in the audit log, which keeps them for years: reasons are one word, objects a UUID
/// and a number.
const AUDITED_REASON_MAX: i32 = 100;

/// Records an outcome. Must run in a transaction, which keeps the row locked between reading and writing it. `new_id` makes the id
/// of a command that is written again.
pub async fn record(
    connection: &mut PgConnection,
    reported: &Reported,
    now: Timestamp,
    new_id: fn() -> Uuid,
) -> Result<Recorded, StoreError> {
    let row = sqlx::query!(
        "select k.state, k.reason, k.message, k.object_key, k.revision, c.epoch
         from commands k join clusters c on c.id = k.cluster_id where k.id = $1 and k.cluster_id = $2 for update of k",
        reported.command_id.0,
        reported.cluster_id.as_str(),
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("find the command of an outcome"))?;
    let Some(row) = row else { return Ok(Recorded::Unknown) };
    let present =
        RowRef { table: "commands", id: &reported.command_id }.parse("state", &row.state, CommandState::parse)?;
    let Some(next) = reported.state else { return defer(connection, reported, now).await };
    // It was sent before the cluster enrolled again: what it carries is still wanted, under the present epoch.
    let is_earlier = reported.epoch < row.epoch && !mutant::is_on("outcomes.earlier-epoch");
    if next == CommandState::Superseded && is_earlier {
        return send_under_present_epoch(connection, reported.command_id, now).await;
    }
    // While it runs, a changed reason is worth recording as well.
    let new_reason =
        next == CommandState::Running && (&row.reason, &row.message) != (&reported.reason, &reported.message);
    if !(present.may_become(next, Mover::Operator) || present == next && new_reason) {
        return Ok(Recorded::Repeated);
    }
    let hops: Vec<_> = reported
        .hops
        .iter()
        .map(|hop| serde_json::json!({ "name": hop.name, "at": hop.at, "object": hop.object }))
        .collect();
    let moved = sqlx::query_scalar!(
        r#"with moved as (
             update commands set state = $2, reason = $3, message = $4, waiting_for = '', hops = $5,
                    next_send_at = case when not $7 then $9::timestamptz end,
                    acknowledged_at = coalesce(acknowledged_at, case when $6 then $8::timestamptz end),
                    running_at = coalesce(running_at, case when $2 = 'running' then $8::timestamptz end),
                    finished_at = case when $7 then $8::timestamptz end
             where id = $1 returning *
         ), ended as (
             insert into audit_pending (at, subject, role, action, target, tenant_id, command_id, cluster_id, revision, detail)
             select finished_at, cluster_id, 'cluster', 'command/' || state, object_key, tenant_id, id, cluster_id, revision,
                    left(reason, $10) || coalesce((select ', object ' || left(hop ->> 'object', $10)
                                                    from jsonb_array_elements(hops) hop where hop ->> 'object' <> '' limit 1), '')
             from moved where finished_at is not null
         )
         select count(*) as "count!" from moved"#,
        reported.command_id.0,
        next.as_str(),
        reported.reason,
        reported.message,
        serde_json::Value::Array(hops),
        next.proves_storage(),
        next.is_terminal(),
        now.to_sqlx(),
        reported.send_again_at.map(|at| at.to_sqlx()) as _,
        AUDITED_REASON_MAX,
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed("record an outcome"))?;
    one_row(moved.unsigned_abs(), "commands", &reported.command_id)?;
    // An operation is not wanted for good.
    let is_operation = row.object_key.starts_with(OPERATION_KEY_PREFIX);
    let may_be_wanted = next == CommandState::Superseded && !is_operation;
    if may_be_wanted
        && !mutant::is_on("outcomes.newest-superseded")
        && !is_replaced(&mut *connection, reported.command_id).await?
    {
        enqueue_again(&mut *connection, reported, now, new_id).await?;
    }
    if next.proves_storage() && !mutant::is_on("outcomes.lower-stay") {
        supersede_lower(connection, &reported.cluster_id, &row.object_key, row.revision, now).await?;
    }
    if next == CommandState::Succeeded {
        application_removal::delete_succeeded(connection, reported.command_id).await?;
    }
    Ok(Recorded::Moved)
}

/// The cluster's fence stands at `revision` for this object: lower sent rows can no longer happen. What takes the place of an operation
/// is its cancellation.
async fn supersede_lower(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    object_key: &str,
    revision: i64,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query!(
        // Locked from the highest revision down, as the relay does.
        "with lower as materialized (
             select id from commands
             where cluster_id = $1 and object_key = $2 and revision < $3 and finished_at is null and (state <> 'queued') is true
             order by revision desc for update
         ), ended as (
             update commands k set state = case when $5 then 'cancelled' else 'superseded' end,
                    reason = case when $5 then 'Requested' else 'NewerChange' end, waiting_for = '', next_send_at = null,
                    message = case when $5 then 'it was cancelled before it began'
                                   else 'the cluster holds a newer change of this object' end, finished_at = $4
             from lower where k.id = lower.id
             returning k.*
         )
         insert into audit_pending (at, subject, role, action, target, tenant_id, command_id, cluster_id, revision, detail)
         select finished_at, cluster_id, 'cluster', 'command/' || state, object_key, tenant_id, id, cluster_id, revision, reason
         from ended order by revision",
        cluster.as_str(),
        object_key,
        revision,
        now.to_sqlx(),
        object_key.starts_with(OPERATION_KEY_PREFIX),
    )
    .execute(connection)
    .await
    .map_err(failed("supersede lower commands"))?;
    Ok(())
}

/// Least pause before a command is sent under the present epoch.
const PRESENT_EPOCH_PAUSE: SignedDuration = SignedDuration::from_secs(5);

async fn send_under_present_epoch(
    connection: &mut PgConnection,
    command: CommandId,
    now: Timestamp,
) -> Result<Recorded, StoreError> {
    let at = now.checked_add(PRESENT_EPOCH_PAUSE).unwrap_or(now);
    let rows = sqlx::query!(
        "update commands set next_send_at = greatest($2, $3::timestamptz + make_interval(secs => least(send_count, $4)))
         where id = $1 and state = 'sent'",
        command.0,
        at.to_sqlx(),
        now.to_sqlx(),
        AGAIN_PAUSE_MAX_SECONDS,
    )
    .execute(connection)
    .await
    .map_err(failed("schedule a command under the present epoch"))?;
    Ok(if rows.rows_affected() == 1 { Recorded::Moved } else { Recorded::Repeated })
}

/// The newest command of an object was superseded, which contradicts this database: the verdict comes from commands that it has
/// lost in a restore, or from a floor that it has lost. What the command carries is still wanted, under a revision that the
/// cluster can store.
async fn enqueue_again(
    connection: &mut PgConnection,
    reported: &Reported,
    now: Timestamp,
    new_id: fn() -> Uuid,
) -> Result<(), StoreError> {
    outbox::lock_cluster(&mut *connection, &reported.cluster_id).await?;
    // A newer change may have been written since it was asked for without the lock.
    if is_replaced(&mut *connection, reported.command_id).await? && !mutant::is_on("outcomes.stale-again") {
        return Ok(());
    }
    let issuer = Issuer::without_request(AUTHOR, "manager", now, new_id);
    let pause = superseded::pause(times_superseded(&mut *connection, reported.command_id, now).await?);
    let send_at = now.checked_add(pause).unwrap_or(now);
    outbox::enqueue_again(connection, issuer, &reported.cluster_id, &[reported.command_id], Some(send_at)).await
}

/// Who writes what is sent again.
const AUTHOR: &str = "manager";

/// How often what was written again about the object, this command perhaps, was superseded lately.
async fn times_superseded(
    connection: &mut PgConnection,
    command: CommandId,
    now: Timestamp,
) -> Result<u32, StoreError> {
    let since = now.checked_sub(superseded::COUNTED_FOR).unwrap_or(Timestamp::MIN);
    let times = sqlx::query_scalar!(
        r#"select count(*) as "times!" from commands earlier join commands k on k.id = $1
           where earlier.cluster_id = k.cluster_id and earlier.object_key = k.object_key and earlier.created_by = $3
             and earlier.state = 'superseded' and earlier.sent_at is not null and earlier.finished_at > $2"#,
        command.0,
        since.to_sqlx(),
        AUTHOR,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("count how often a command was superseded"))?;
    Ok(u32::try_from(times).unwrap_or(u32::MAX))
}

/// Whether there is a newer command of the same object.
async fn is_replaced(connection: &mut PgConnection, command: CommandId) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"select exists (select from commands later where later.cluster_id = k.cluster_id
                             and later.object_key = k.object_key and later.revision > k.revision) as "replaced!"
           from commands k where k.id = $1"#,
        command.0,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("find a newer command of the object"))
}

/// However soon a cluster asks for a command again, it waits a second for each time that it was sent, up to this: a cluster that asks
/// for ever has the relay send it ever less often.
const AGAIN_PAUSE_MAX_SECONDS: i32 = 3_600;

async fn defer(connection: &mut PgConnection, reported: &Reported, now: Timestamp) -> Result<Recorded, StoreError> {
    let rows = sqlx::query!(
        "update commands set reason = $2, message = $3, waiting_for = $2,
                next_send_at = greatest($4, $5::timestamptz + make_interval(secs => least(send_count, $6)))
         where id = $1 and state = 'sent'",
        reported.command_id.0,
        reported.reason,
        reported.message,
        reported.send_again_at.map(|at| at.to_sqlx()) as _,
        now.to_sqlx(),
        AGAIN_PAUSE_MAX_SECONDS,
    )
    .execute(connection)
    .await
    .map_err(failed("record a deferral"))?;
    Ok(if rows.rows_affected() == 1 { Recorded::Moved } else { Recorded::Repeated })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        application_removal, applications,
        cluster_queue::{self, ClaimOptions},
        commands,
        connection::Connection,
        enrollments,
        fixture::{Fixture, at, claim_options, new_id},
    };
    use kubenova_core::{change::Change, command::Command};

    async fn record(
        connection: &mut PgConnection,
        reported: &Reported,
        now: Timestamp,
    ) -> Result<Recorded, StoreError> {
        super::record(connection, reported, now, new_id).await
    }

    /// A cluster with two sent commands about the same tenant.
    async fn sent(fixture: &Fixture) -> (ClusterId, Vec<CommandId>) {
        let cluster = fixture.connected_cluster().await;
        let tenant = fixture.tenant().await;
        let mut ids = Vec::new();
        let mut connection = fixture.store.acquire().await.unwrap();
        for _ in 0..2 {
            let command =
                fixture.enqueue(std::slice::from_ref(&cluster), &Change::Tenant(tenant.clone())).await.remove(0);
            ids.push(command.command_id);
            let due = ClaimOptions { send_again_at: at(31), ..claim_options() };
            cluster_queue::claim(&mut connection, &cluster, &due).await.unwrap();
        }
        (cluster, ids)
    }

    fn outcome(cluster: &ClusterId, command: CommandId, state: Option<CommandState>, reason: &str) -> Reported {
        Reported {
            cluster_id: cluster.clone(),
            command_id: command,
            epoch: 1,
            state,
            reason: reason.to_owned(),
            message: String::new(),
            hops: vec![Hop { name: "stored".into(), at: "2026-03-01T00:00:02Z".into(), object: String::new() }],
            send_again_at: state.is_none().then(|| at(60)),
        }
    }

    async fn command(connection: &mut Connection, id: CommandId) -> Command {
        commands::find(connection, id).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn the_first_terminal_state_wins_and_repeats_change_nothing() {
        let fixture = Fixture::new().await;
        let (cluster, ids) = sent(&fixture).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for (state, recorded) in [
            (CommandState::Acknowledged, Recorded::Moved),
            (CommandState::Acknowledged, Recorded::Repeated),
            (CommandState::Succeeded, Recorded::Moved),
            (CommandState::Failed, Recorded::Repeated),
            (CommandState::Running, Recorded::Repeated),
        ] {
            let reported = outcome(&cluster, ids[1], Some(state), "");
            assert_eq!(record(&mut connection, &reported, at(3)).await.unwrap(), recorded, "{state:?}");
        }
        let command = command(&mut connection, ids[1]).await;
        assert_eq!((command.state, command.finished_at), (CommandState::Succeeded, Some(at(3))));
        assert_eq!((command.hops.len(), command.hops[0].name.as_str()), (1, "stored"));
    }

    #[tokio::test]
    async fn a_stored_command_supersedes_the_lower_ones_of_its_object() {
        let fixture = Fixture::new().await;
        let (cluster, ids) = sent(&fixture).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let refused = outcome(&cluster, ids[1], Some(CommandState::Refused), "Fenced");
        record(&mut connection, &refused, at(3)).await.unwrap();
        assert_eq!(
            command(&mut connection, ids[0]).await.state,
            CommandState::Sent,
            "a refused command stores nothing"
        );
        let fixture = Fixture::new().await;
        let (cluster, ids) = sent(&fixture).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let acknowledged = outcome(&cluster, ids[1], Some(CommandState::Acknowledged), "");
        record(&mut connection, &acknowledged, at(3)).await.unwrap();
        assert_eq!(command(&mut connection, ids[0]).await.state, CommandState::Superseded);
    }

    #[tokio::test]
    async fn a_verdict_about_an_earlier_epoch_has_the_command_sent_again_and_ends_nothing() {
        let fixture = Fixture::new().await;
        let (cluster, ids) = sent(&fixture).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        // The cluster enrolls again: its epoch rises.
        enrollments::enroll(&mut connection, &cluster, "uid-1", at(2)).await.unwrap();
        let stale = outcome(&cluster, ids[0], Some(CommandState::Superseded), "StaleEpoch");
        assert_eq!(record(&mut connection, &stale, at(3)).await.unwrap(), Recorded::Moved);
        let waiting = command(&mut connection, ids[0]).await;
        assert_eq!((waiting.state, waiting.next_send_at), (CommandState::Sent, Some(at(3) + PRESENT_EPOCH_PAUSE)));
        let present = Reported { epoch: 2, ..stale };
        assert_eq!(record(&mut connection, &present, at(4)).await.unwrap(), Recorded::Moved);
        assert_eq!(command(&mut connection, ids[0]).await.state, CommandState::Superseded);
    }

    #[tokio::test]
    async fn what_the_newest_command_of_an_object_carries_is_sent_again_when_it_was_superseded() {
        let fixture = Fixture::new().await;
        let (cluster, ids) = sent(&fixture).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let open = async |connection: &mut Connection| {
            let sql = "select id, revision, document, next_send_at from commands where state = 'queued'";
            let rows = sqlx::query_as::<_, (Uuid, i64, String, jiff_sqlx::Timestamp)>(sql);
            rows.fetch_all(&mut *connection).await.unwrap()
        };
        // Of a history that was lost when this database was restored.
        let superseded = |id| outcome(&cluster, id, Some(CommandState::Superseded), "LowerRevision");
        assert_eq!(record(&mut connection, &superseded(ids[0]), at(3)).await.unwrap(), Recorded::Moved);
        assert_eq!(open(&mut connection).await, [], "a newer one has taken its place");
        assert_eq!(record(&mut connection, &superseded(ids[1]), at(3)).await.unwrap(), Recorded::Moved);
        let newest = command(&mut connection, ids[1]).await;
        assert_eq!((newest.state, newest.revision), (CommandState::Superseded, 2), "a hello may name it");
        let again = open(&mut connection).await;
        let [(id, revision, document, send_at)] = again.as_slice() else { panic!("{again:?}") };
        assert_eq!((*revision, send_at.to_jiff()), (3, at(3) + superseded::PAUSE_MIN));
        let before = sqlx::query_scalar::<_, String>("select document from commands where id = $1").bind(ids[1].0);
        assert_eq!(*document, before.fetch_one(&mut *connection).await.unwrap());
        assert_eq!(record(&mut connection, &superseded(ids[1]), at(4)).await.unwrap(), Recorded::Repeated);
        assert_eq!(record(&mut connection, &superseded(CommandId(*id)), at(4)).await.unwrap(), Recorded::Repeated);
        assert_eq!(open(&mut connection).await.len(), 1);
    }

    #[tokio::test]
    async fn a_cluster_that_supersedes_for_ever_is_sent_the_same_less_and_less_often() {
        let fixture = Fixture::new().await;
        let (cluster, ids) = sent(&fixture).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let (mut id, mut now, mut pauses) = (ids[1], at(3), Vec::new());
        for _ in 0..8 {
            record(&mut connection, &outcome(&cluster, id, Some(CommandState::Superseded), "LowerRevision"), now)
                .await
                .unwrap();
            let next = "update commands set state = 'sent', sent_at = queued_at where state = 'queued' returning id, next_send_at";
            let next = sqlx::query_as::<_, (Uuid, jiff_sqlx::Timestamp)>(next).fetch_one(&mut *connection).await;
            let (next, send_at) = next.unwrap();
            pauses.push(send_at.to_jiff().duration_since(now).as_mins());
            (id, now) = (CommandId(next), send_at.to_jiff());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[tokio::test]
    async fn a_superseded_command_stays_below_a_change_that_is_written_meanwhile() {
        let fixture = Fixture::new().await;
        let (cluster, ids) = sent(&fixture).await;
        let (mut writer, mut ingest) = (fixture.begin().await, fixture.begin().await);
        let changed = Change::Tenant(crate::fixture::tenant(1));
        let clusters = std::slice::from_ref(&cluster);
        let written =
            outbox::enqueue_commands(&mut writer, crate::fixture::issuer(), clusters, &changed).await.unwrap();
        let blocked = fixture.blocked(&mut ingest).await;
        let commit = async {
            blocked.await;
            writer.commit().await.unwrap();
        };
        let superseded = outcome(&cluster, ids[1], Some(CommandState::Superseded), "LowerRevision");
        let (recorded, ()) = tokio::join!(record(&mut ingest, &superseded, at(3)), commit);
        assert_eq!(recorded.unwrap(), Recorded::Moved);
        ingest.commit().await.unwrap();
        let mut connection = fixture.store.acquire().await.unwrap();
        let open = sqlx::query_scalar::<_, Uuid>("select id from commands where state = 'queued'");
        assert_eq!(open.fetch_all(&mut *connection).await.unwrap(), [written[0].command_id.0]);
    }

    #[tokio::test]
    async fn an_application_that_waits_for_a_delete_waits_for_the_one_that_is_sent_again() {
        let fixture = Fixture::new().await;
        let (cluster, tenant) = (fixture.connected_cluster().await, fixture.tenant().await);
        let clusters = std::slice::from_ref(&cluster);
        let application = fixture.application(&tenant, "shop", clusters).await;
        let change = Change::ApplicationDeleted { tenant: tenant.name, application: application.clone() };
        let deletes = fixture.enqueue(clusters, &change).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        application_removal::await_removal(&mut connection, application.id, &deletes).await.unwrap();
        fixture.execute("update commands set state = 'sent'").await;
        let superseded = outcome(&cluster, deletes[0].command_id, Some(CommandState::Superseded), "BelowFloor");
        record(&mut connection, &superseded, at(3)).await.unwrap();
        let awaited = applications::targets(&mut connection, &[application.id]).await.unwrap()[0].delete_command;
        let again = sqlx::query_scalar::<_, Uuid>("select id from commands where state = 'queued'");
        assert_eq!(awaited, Some(CommandId(again.fetch_one(&mut *connection).await.unwrap())));
    }

    #[tokio::test]
    async fn an_acknowledged_command_is_due_again_when_its_report_is_late_and_keeps_its_state() {
        let fixture = Fixture::new().await;
        let (cluster, ids) = sent(&fixture).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let running =
            Reported { send_again_at: Some(at(600)), ..outcome(&cluster, ids[1], Some(CommandState::Running), "") };
        record(&mut connection, &running, at(3)).await.unwrap();
        let claim = async |connection: &mut Connection, now| {
            let due = ClaimOptions {
                now: at(now),
                send_again_at: at(now + 30),
                report_again_at: at(now + 600),
                ..claim_options()
            };
            let queue = cluster_queue::claim(connection, &cluster, &due).await.unwrap().unwrap();
            queue.due.into_iter().map(|command| command.id).collect::<Vec<_>>()
        };
        assert_eq!(claim(&mut connection, 599).await, []);
        assert_eq!(claim(&mut connection, 600).await, [ids[1]]);
        let again = command(&mut connection, ids[1]).await;
        assert_eq!((again.state, again.next_send_at), (CommandState::Running, Some(at(1200))));
        let succeeded = outcome(&cluster, ids[1], Some(CommandState::Succeeded), "");
        record(&mut connection, &succeeded, at(601)).await.unwrap();
        assert_eq!(command(&mut connection, ids[1]).await.next_send_at, None);
    }

    #[tokio::test]
    async fn a_deferral_says_when_to_send_again_and_applies_to_sent_commands_only() {
        let fixture = Fixture::new().await;
        let (cluster, ids) = sent(&fixture).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let deferred = outcome(&cluster, ids[1], None, "DeletesPerHour");
        assert_eq!(record(&mut connection, &deferred, at(3)).await.unwrap(), Recorded::Moved);
        let waiting = command(&mut connection, ids[1]).await;
        assert_eq!((waiting.state, waiting.waiting_for.as_str()), (CommandState::Sent, "DeletesPerHour"));
        let running = outcome(&cluster, ids[1], Some(CommandState::Running), "");
        record(&mut connection, &running, at(4)).await.unwrap();
        assert_eq!(record(&mut connection, &deferred, at(5)).await.unwrap(), Recorded::Repeated);
    }

    #[tokio::test]
    async fn a_cluster_that_asks_for_a_command_for_ever_is_sent_it_ever_less_often() {
        let fixture = Fixture::new().await;
        let (cluster, ids) = sent(&fixture).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let deferred = Reported { send_again_at: Some(at(4)), ..outcome(&cluster, ids[1], None, "Busy") };
        let earlier = Reported { epoch: 0, ..outcome(&cluster, ids[1], Some(CommandState::Superseded), "StaleEpoch") };
        for (answer, least) in [(&deferred, 1), (&earlier, PRESENT_EPOCH_PAUSE.as_secs())] {
            for (sent, pause) in [(1, least), (90, 90), (100_000, i64::from(AGAIN_PAUSE_MAX_SECONDS))] {
                let sql = "update commands set send_count = $2 where id = $1";
                sqlx::query(sql).bind(ids[1].0).bind(sent).execute(&mut *connection).await.unwrap();
                assert_eq!(record(&mut connection, answer, at(3)).await.unwrap(), Recorded::Moved);
                let due =
                    sqlx::query_scalar::<_, jiff_sqlx::Timestamp>("select next_send_at from commands where id = $1");
                let due = due.bind(ids[1].0).fetch_one(&mut *connection).await.unwrap().to_jiff();
                assert_eq!(due.duration_since(at(3)).as_secs(), pause, "{answer:?} after {sent}");
            }
        }
    }

    #[tokio::test]
    async fn a_running_command_may_change_its_reason() {
        let fixture = Fixture::new().await;
        let (cluster, ids) = sent(&fixture).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for (reason, recorded) in [("A", Recorded::Moved), ("A", Recorded::Repeated), ("B", Recorded::Moved)] {
            let running = outcome(&cluster, ids[1], Some(CommandState::Running), reason);
            assert_eq!(record(&mut connection, &running, at(3)).await.unwrap(), recorded, "{reason}");
        }
    }

    #[tokio::test]
    async fn a_cluster_reports_about_its_own_commands_only() {
        let fixture = Fixture::new().await;
        let (_, ids) = sent(&fixture).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let other = crate::fixture::cluster(2).id;
        let forged = outcome(&other, ids[1], Some(CommandState::Succeeded), "");
        assert_eq!(record(&mut connection, &forged, at(3)).await.unwrap(), Recorded::Unknown);
        assert_eq!(command(&mut connection, ids[1]).await.state, CommandState::Sent);
    }
}
