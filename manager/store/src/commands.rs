//! Commands as people see them. Sending them is `cluster_queue.rs`, hearing of them `outcomes.rs`.

use crate::error::{StoreError, failed, inconsistent};
use jiff_sqlx::Timestamp;
use kubenova_core::{
    cluster::ClusterId,
    command::{Command, CommandFilter, CommandId, CommandState, Hop},
    page::Page,
    tenant::TenantId,
};
use sqlx::PgConnection;
use uuid::Uuid;

struct Row {
    id: Uuid,
    cluster_id: String,
    cluster_name: String,
    revision: i64,
    kind: String,
    object_key: String,
    tenant_id: Option<Uuid>,
    application_name: Option<String>,
    generation: i64,
    state: String,
    reason: String,
    message: String,
    waiting_for: String,
    created_by: String,
    not_after: Option<Timestamp>,
    queued_at: Timestamp,
    sent_at: Option<Timestamp>,
    acknowledged_at: Option<Timestamp>,
    running_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    hops: serde_json::Value,
    send_count: i32,
    next_send_at: Option<Timestamp>,
    heard_at: Option<Timestamp>,
    refused_reason: Option<String>,
}

impl TryFrom<Row> for Command {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let wrong = |column| inconsistent("commands", column, &row.id);
        Ok(Self {
            id: CommandId(row.id),
            cluster_id: ClusterId::parse(&row.cluster_id).ok_or_else(|| wrong("cluster_id"))?,
            state: CommandState::parse(&row.state).ok_or_else(|| wrong("state"))?,
            hops: hops(&row.hops),
            cluster_name: row.cluster_name,
            revision: row.revision,
            kind: row.kind,
            object_key: row.object_key,
            tenant_id: row.tenant_id.map(TenantId),
            application_name: row.application_name,
            generation: row.generation,
            reason: row.reason,
            message: row.message,
            waiting_for: row.waiting_for,
            created_by: row.created_by,
            not_after: row.not_after.map(Timestamp::to_jiff),
            queued_at: row.queued_at.to_jiff(),
            sent_at: row.sent_at.map(Timestamp::to_jiff),
            acknowledged_at: row.acknowledged_at.map(Timestamp::to_jiff),
            running_at: row.running_at.map(Timestamp::to_jiff),
            finished_at: row.finished_at.map(Timestamp::to_jiff),
            send_count: row.send_count,
            next_send_at: row.next_send_at.map(Timestamp::to_jiff),
            cluster_heard_at: row.heard_at.map(Timestamp::to_jiff),
            cluster_refused: row.refused_reason.unwrap_or_default(),
        })
    }
}

fn hops(value: &serde_json::Value) -> Vec<Hop> {
    let text = |hop: &serde_json::Value, name: &str| hop[name].as_str().unwrap_or_default().to_owned();
    value.as_array().into_iter().flatten().map(|hop| Hop { name: text(hop, "name"), at: text(hop, "at") }).collect()
}

/// The command with this id.
///
/// # Errors
/// When Postgres does not answer.
pub async fn find(connection: &mut PgConnection, id: CommandId) -> Result<Option<Command>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        r#"select k.id, k.cluster_id, c.name as cluster_name, k.revision, k.kind, k.object_key, k.tenant_id, k.application_name,
                k.generation, k.state, k.reason, k.message, k.waiting_for, k.created_by, k.not_after, k.queued_at, k.sent_at,
                k.acknowledged_at, k.running_at, k.finished_at, k.hops, k.send_count, k.next_send_at,
                s.heard_at as "heard_at?", s.refused_reason as "refused_reason?"
         from commands k join clusters c on c.id = k.cluster_id left join sessions s on s.cluster_id = k.cluster_id where k.id = $1"#,
        id.0,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find a command"))?;
    row.map(Command::try_from).transpose()
}

/// One page of commands, newest first, and one row more when the list goes on.
///
/// # Errors
/// When Postgres does not answer.
pub async fn list(
    connection: &mut PgConnection,
    filter: &CommandFilter,
    page: &Page,
) -> Result<Vec<Command>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"select k.id, k.cluster_id, c.name as cluster_name, k.revision, k.kind, k.object_key, k.tenant_id, k.application_name,
                k.generation, k.state, k.reason, k.message, k.waiting_for, k.created_by, k.not_after, k.queued_at, k.sent_at,
                k.acknowledged_at, k.running_at, k.finished_at, k.hops, k.send_count, k.next_send_at,
                s.heard_at as "heard_at?", s.refused_reason as "refused_reason?"
         from commands k join clusters c on c.id = k.cluster_id left join sessions s on s.cluster_id = k.cluster_id
         where ($1::text is null or k.cluster_id = $1) and ($2::uuid is null or k.tenant_id = $2)
           and ($3::text is null or k.application_name = $3) and ($4::text is null or k.state = $4)
           and ($5::uuid is null or k.id < $5)
         order by k.id desc limit $6"#,
        filter.cluster.as_ref().map(ClusterId::as_str),
        filter.tenant.map(|tenant| tenant.0),
        filter.application.as_deref(),
        filter.state.map(CommandState::as_str),
        page.after.as_deref().and_then(CommandId::parse).map(|id| id.0),
        page.rows(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list commands"))?;
    rows.into_iter().map(Command::try_from).collect()
}

/// The newest command about each of these objects on each of these clusters.
///
/// # Errors
/// When Postgres does not answer.
pub async fn newest(
    connection: &mut PgConnection,
    clusters: &[ClusterId],
    keys: &[String],
) -> Result<Vec<Command>, StoreError> {
    let clusters: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"select distinct on (k.cluster_id, k.object_key)
                k.id, k.cluster_id, c.name as cluster_name, k.revision, k.kind, k.object_key, k.tenant_id, k.application_name,
                k.generation, k.state, k.reason, k.message, k.waiting_for, k.created_by, k.not_after, k.queued_at, k.sent_at,
                k.acknowledged_at, k.running_at, k.finished_at, k.hops, k.send_count, k.next_send_at,
                s.heard_at as "heard_at?", s.refused_reason as "refused_reason?"
         from commands k join clusters c on c.id = k.cluster_id left join sessions s on s.cluster_id = k.cluster_id
         where k.cluster_id = any($1) and k.object_key = any($2)
         order by k.cluster_id, k.object_key, k.revision desc"#,
        &clusters,
        keys,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find the newest commands"))?;
    rows.into_iter().map(Command::try_from).collect()
}
