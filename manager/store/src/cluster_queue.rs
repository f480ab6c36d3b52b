//! The sending side of the outbox: whose lane a cluster is, which rows are due, what was sent where.
//!
//! Before it: `outbox.rs` wrote the rows. After it: the relay signs and publishes outside these transactions. The
//! Operator's fence makes a second send harmless, so a lane that changes hands needs no more than its deadline.

use crate::error::{StoreError, failed, inconsistent};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{cluster::ClusterId, command::CommandId};
use sqlx::PgConnection;

/// A row that is to be signed and sent now. It is marked `sent` already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueCommand {
    /// Its id.
    pub id: CommandId,
    /// Its place in the cluster's order.
    pub revision: i64,
    /// What it asks.
    pub kind: String,
    /// What it is about.
    pub object_key: String,
    /// Exact JSON.
    pub document: String,
    /// Deadline, when it has one.
    pub not_after: Option<Timestamp>,
    /// Times it was sent, this one included.
    pub send_count: i32,
}

/// What the relay stamps on every command of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueState {
    /// Current epoch.
    pub epoch: i64,
    /// UID of the kube-system namespace.
    pub kubernetes_uid: String,
    /// Every row at or below it is terminal.
    pub floor: i64,
    /// Rows to send now, lowest revision first.
    pub due: Vec<DueCommand>,
}

/// Times that decide what is due.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    /// Now.
    pub now: Timestamp,
    /// A cluster heard before this is not in session.
    pub heard_since: Timestamp,
    /// When a row that is sent now is due again if nobody answers.
    pub send_again_at: Timestamp,
    /// Most rows a cluster may hold unacknowledged.
    pub window: i64,
}

/// Clusters in session that have something due.
///
/// # Errors
/// When Postgres does not answer.
pub async fn clusters_with_due(connection: &mut PgConnection, due: &Due) -> Result<Vec<ClusterId>, StoreError> {
    let rows = sqlx::query_scalar!(
        "select distinct k.cluster_id from commands k
         join sessions s on s.cluster_id = k.cluster_id and s.heard_at >= $2 and s.refused_reason = ''
         where k.state in ('queued', 'sent') and (k.next_send_at is null or k.next_send_at <= $1)
         order by k.cluster_id",
        due.now.to_sqlx(),
        due.heard_since.to_sqlx(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find clusters with due commands"))?;
    rows.iter().map(|id| ClusterId::parse(id).ok_or_else(|| inconsistent("commands", "cluster_id", id))).collect()
}

/// Takes or keeps a cluster's lane. False when another Manager holds it.
///
/// # Errors
/// When Postgres does not answer.
pub async fn lease(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    owner: &str,
    now: Timestamp,
    until: Timestamp,
) -> Result<bool, StoreError> {
    let taken = sqlx::query!(
        "insert into cluster_queues (cluster_id, owner, until) values ($1, $2, $4)
         on conflict (cluster_id) do update set owner = excluded.owner, until = excluded.until
         where cluster_queues.owner = excluded.owner or cluster_queues.until < $3",
        cluster.as_str(),
        owner,
        now.to_sqlx(),
        until.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("lease a lane"))?;
    Ok(taken.rows_affected() == 1)
}

/// Marks what is due as sent and returns it; call inside a transaction and commit before publishing. None for a cluster
/// that was never enrolled.
///
/// # Errors
/// When Postgres does not answer.
pub async fn claim(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    due: &Due,
) -> Result<Option<QueueState>, StoreError> {
    let head = sqlx::query!(
        r#"select c.epoch, c.kubernetes_uid,
                  coalesce((select min(k.revision) - 1 from commands k where k.cluster_id = c.id
                              and k.state in ('queued', 'sent', 'acknowledged', 'running')), c.revision_counter) as "floor!"
           from clusters c where c.id = $1"#,
        cluster.as_str(),
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("read a lane's head"))?;
    let Some(head) = head else { return Ok(None) };
    let Some(kubernetes_uid) = head.kubernetes_uid else { return Ok(None) };
    let rows = sqlx::query!(
        "with room as (
             select greatest($4 - count(*), 0) as rows from commands
             where cluster_id = $1 and state = 'sent' and next_send_at > $2 and waiting_for = ''
         ), due as (
             select id from commands
             where cluster_id = $1 and state in ('queued', 'sent') and (next_send_at is null or next_send_at <= $2)
             order by revision limit (select rows from room) for update skip locked
         )
         update commands k
            set state = 'sent', sent_at = coalesce(k.sent_at, $2), send_count = k.send_count + 1, next_send_at = $3,
                waiting_for = ''
           from due where k.id = due.id
         returning k.id, k.revision, k.kind, k.object_key, k.document, k.not_after, k.send_count",
        cluster.as_str(),
        due.now.to_sqlx(),
        due.send_again_at.to_sqlx(),
        due.window,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("claim due commands"))?;
    let mut claimed: Vec<DueCommand> = rows
        .into_iter()
        .map(|row| DueCommand {
            id: CommandId(row.id),
            revision: row.revision,
            kind: row.kind,
            object_key: row.object_key,
            document: row.document,
            not_after: row.not_after.map(jiff_sqlx::Timestamp::to_jiff),
            send_count: row.send_count,
        })
        .collect();
    claimed.sort_by_key(|command| command.revision);
    Ok(Some(QueueState { epoch: head.epoch, kubernetes_uid, floor: head.floor, due: claimed }))
}

/// Where the broker stored a command.
///
/// # Errors
/// When Postgres does not answer.
pub async fn published(
    connection: &mut PgConnection,
    command: CommandId,
    stream: &str,
    sequence: u64,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update commands set stream = $2, stream_seq = $3 where id = $1",
        command.0,
        stream,
        i64::try_from(sequence).unwrap_or(i64::MAX),
    )
    .execute(connection)
    .await
    .map_err(failed("note where a command was stored"))?;
    Ok(())
}

/// Ends a command that can never be published, so that it does not hold up those behind it.
///
/// # Errors
/// When Postgres does not answer.
pub async fn unsendable(
    connection: &mut PgConnection,
    command: CommandId,
    message: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update commands set state = 'failed', reason = 'TooLarge', message = $2, waiting_for = '', finished_at = $3
         where id = $1 and state = 'sent'",
        command.0,
        message,
        now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("end a command that cannot be sent"))?;
    Ok(())
}

/// A command that could not be published is due at once again.
///
/// # Errors
/// When Postgres does not answer.
pub async fn not_published(
    connection: &mut PgConnection,
    command: CommandId,
    again_at: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update commands set next_send_at = $2 where id = $1 and state = 'sent'",
        command.0,
        again_at.to_sqlx()
    )
    .execute(connection)
    .await
    .map_err(failed("put a command back"))?;
    Ok(())
}

/// Everything sent and still open is due now: a session begins with an empty wire.
///
/// # Errors
/// When Postgres does not answer.
pub async fn send_open_again(connection: &mut PgConnection, cluster: &ClusterId) -> Result<u64, StoreError> {
    let rows = sqlx::query!(
        "update commands set next_send_at = null where cluster_id = $1 and state = 'sent'",
        cluster.as_str()
    )
    .execute(connection)
    .await
    .map_err(failed("make open commands due"))?;
    Ok(rows.rows_affected())
}
