//! What clusters say about commands. Keyed by command id; the first terminal state wins; repeats change nothing.
//!
//! Before it: `manager/src/ingest/outcomes.rs`. After it: REST shows the row with its hops.

use crate::{
    applications,
    error::{StoreError, failed, inconsistent},
};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    cluster::ClusterId,
    command::{CommandId, CommandState, Hop, Mover},
};
use sqlx::PgConnection;

/// An outcome, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// Who says it: from the subject, which the broker's permissions vouch for.
    pub cluster_id: ClusterId,
    /// About which command.
    pub command_id: CommandId,
    /// How far it got; none for a deferral.
    pub state: Option<CommandState>,
    /// One CamelCase word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Stations in the cluster.
    pub hops: Vec<Hop>,
    /// With a deferral: when to send again.
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

/// Records an outcome; call inside a transaction.
///
/// # Errors
/// When Postgres does not answer.
pub async fn record(
    connection: &mut PgConnection,
    reported: &Reported,
    now: Timestamp,
) -> Result<Recorded, StoreError> {
    let row = sqlx::query!(
        "select state, reason, message, object_key, revision from commands where id = $1 and cluster_id = $2 for update",
        reported.command_id.0,
        reported.cluster_id.as_str(),
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("find the command of an outcome"))?;
    let Some(row) = row else { return Ok(Recorded::Unknown) };
    let present =
        CommandState::parse(&row.state).ok_or_else(|| inconsistent("commands", "state", &reported.command_id))?;
    let Some(next) = reported.state else { return defer(connection, reported).await };
    // What it waits for while it runs is news as well.
    let other_words =
        next == CommandState::Running && (&row.reason, &row.message) != (&reported.reason, &reported.message);
    if !(present.may_become(next, Mover::Operator) || present == next && other_words) {
        return Ok(Recorded::Repeated);
    }
    let hops: Vec<_> = reported.hops.iter().map(|hop| serde_json::json!({ "name": hop.name, "at": hop.at })).collect();
    sqlx::query!(
        "update commands set state = $2, reason = $3, message = $4, waiting_for = '', hops = $5, next_send_at = null,
                acknowledged_at = coalesce(acknowledged_at, case when $6 then $8::timestamptz end),
                running_at = coalesce(running_at, case when $2 = 'running' then $8::timestamptz end),
                finished_at = case when $7 then $8::timestamptz end
         where id = $1",
        reported.command_id.0,
        next.as_str(),
        reported.reason,
        reported.message,
        serde_json::Value::Array(hops),
        !matches!(next, CommandState::Refused | CommandState::Superseded),
        next.is_terminal(),
        now.to_sqlx(),
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("record an outcome"))?;
    if !matches!(next, CommandState::Refused | CommandState::Superseded) {
        supersede_lower(connection, &reported.cluster_id, &row.object_key, row.revision, now).await?;
    }
    if next == CommandState::Succeeded {
        applications::delete_succeeded(connection, reported.command_id).await?;
    }
    Ok(Recorded::Moved)
}

/// The cluster's fence stands at `revision` for this object: lower sent rows can no longer happen.
async fn supersede_lower(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    object_key: &str,
    revision: i64,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update commands set state = 'superseded', reason = 'NewerChange', waiting_for = '', next_send_at = null,
                message = 'the cluster holds a newer change of this object', finished_at = $4
         where cluster_id = $1 and object_key = $2 and revision < $3 and state in ('sent', 'acknowledged', 'running')",
        cluster.as_str(),
        object_key,
        revision,
        now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("supersede lower commands"))?;
    Ok(())
}

async fn defer(connection: &mut PgConnection, reported: &Reported) -> Result<Recorded, StoreError> {
    let rows = sqlx::query!(
        "update commands set reason = $2, message = $3, waiting_for = $2, next_send_at = $4 where id = $1 and state = 'sent'",
        reported.command_id.0,
        reported.reason,
        reported.message,
        reported.send_again_at.map(|at| at.to_sqlx()) as _,
    )
    .execute(connection)
    .await
    .map_err(failed("record a deferral"))?;
    Ok(if rows.rows_affected() == 1 { Recorded::Moved } else { Recorded::Repeated })
}
