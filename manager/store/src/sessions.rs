//! Sessions: opened by a hello, kept alive by heartbeats. Whether a cluster is connected is derived from them.

use crate::error::{StoreError, failed, inconsistent};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::cluster::ClusterId;
use sqlx::PgConnection;
use uuid::Uuid;

/// What a cluster says of itself when it connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloRequest {
    /// Which cluster.
    pub cluster_id: ClusterId,
    /// From its credentials.
    pub incarnation: String,
    /// Names the running Operator process.
    pub boot_id: String,
    /// Rises with every start of an Operator there.
    pub lease_term: i64,
    /// Version of the Operator.
    pub operator_version: String,
    /// Version of its API server.
    pub kubernetes_version: String,
    /// Highest revision stored there.
    pub highest_revision: i64,
    /// Its clock minus ours.
    pub clock_offset_ms: i64,
}

/// What the Manager holds against a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterRecord {
    /// Current epoch.
    pub epoch: i64,
    /// UID of the kube-system namespace; none before enrollment.
    pub kubernetes_uid: Option<String>,
    /// `enrolled`, or why not.
    pub state: String,
}

/// What is known of a cluster, its row locked until the transaction ends: two hellos of one cluster wait for each other.
///
/// # Errors
/// When Postgres does not answer.
pub async fn known(connection: &mut PgConnection, cluster: &ClusterId) -> Result<Option<ClusterRecord>, StoreError> {
    let row =
        sqlx::query!("select epoch, kubernetes_uid, state from clusters where id = $1 for update", cluster.as_str())
            .fetch_optional(connection)
            .await
            .map_err(failed("find a cluster that says hello"))?;
    Ok(row.map(|row| ClusterRecord { epoch: row.epoch, kubernetes_uid: row.kubernetes_uid, state: row.state }))
}

/// True when this revision of the cluster carries this command id here too, or the cluster has stored nothing yet.
///
/// # Errors
/// When Postgres does not answer.
pub async fn agrees(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    revision: i64,
    command: Option<Uuid>,
) -> Result<bool, StoreError> {
    if revision == 0 {
        return Ok(true);
    }
    let id = sqlx::query_scalar!(
        "select id from commands where cluster_id = $1 and revision = $2",
        cluster.as_str(),
        revision
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("look up the revision a cluster names"))?;
    Ok(id.is_some() && id == command)
}

/// Opens the next session and returns its number.
///
/// # Errors
/// When Postgres does not answer.
pub async fn open(connection: &mut PgConnection, hello: &HelloRequest, now: Timestamp) -> Result<i64, StoreError> {
    write(connection, hello, "", now).await
}

/// Notes that a hello was refused, and why; the relay then sends nothing.
///
/// # Errors
/// When Postgres does not answer.
pub async fn refuse(
    connection: &mut PgConnection,
    hello: &HelloRequest,
    reason: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    write(connection, hello, reason, now).await.map(drop)
}

async fn write(
    connection: &mut PgConnection,
    hello: &HelloRequest,
    refused_reason: &str,
    now: Timestamp,
) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        "insert into sessions (cluster_id, session, incarnation, boot_id, lease_term, operator_version, kubernetes_version,
                               highest_revision, clock_offset_ms, opened_at, heard_at, refused_reason)
         values ($1, 1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $10)
         on conflict (cluster_id) do update
            set session = sessions.session + 1, incarnation = excluded.incarnation, boot_id = excluded.boot_id,
                lease_term = excluded.lease_term, operator_version = excluded.operator_version,
                kubernetes_version = excluded.kubernetes_version, highest_revision = excluded.highest_revision,
                clock_offset_ms = excluded.clock_offset_ms, opened_at = excluded.opened_at, heard_at = excluded.heard_at,
                refused_reason = excluded.refused_reason
         returning session",
        hello.cluster_id.as_str(),
        hello.incarnation,
        hello.boot_id,
        hello.lease_term,
        hello.operator_version,
        hello.kubernetes_version,
        hello.highest_revision,
        hello.clock_offset_ms,
        now.to_sqlx(),
        refused_reason,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("open a session"))
}

/// A heartbeat. False when it is not of the open session: that Operator must say hello first.
///
/// # Errors
/// When Postgres does not answer.
pub async fn heard(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    session: i64,
    nodes: i32,
    highest_revision: i64,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let rows = sqlx::query!(
        "update sessions set heard_at = $3, nodes = $4, highest_revision = $5
         where cluster_id = $1 and session = $2 and refused_reason = ''",
        cluster.as_str(),
        session,
        now.to_sqlx(),
        nodes,
        highest_revision,
    )
    .execute(connection)
    .await
    .map_err(failed("note a heartbeat"))?;
    Ok(rows.rows_affected() == 1)
}

/// A session as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Whose.
    pub cluster_id: ClusterId,
    /// Its number.
    pub session: i64,
    /// Version of the Operator.
    pub operator_version: String,
    /// Version of the API server.
    pub kubernetes_version: String,
    /// Nodes at the last heartbeat.
    pub nodes: i32,
    /// Its clock minus ours.
    pub clock_offset_ms: i64,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// The last heartbeat.
    pub heard_at: Timestamp,
    /// Why the last hello was refused; empty when it was not.
    pub refused_reason: String,
}

/// The sessions of these clusters; a cluster that never said hello has none.
///
/// # Errors
/// When Postgres does not answer.
pub async fn of_clusters(connection: &mut PgConnection, clusters: &[ClusterId]) -> Result<Vec<Session>, StoreError> {
    let ids: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    let rows = sqlx::query!(
        "select cluster_id, session, operator_version, kubernetes_version, nodes, clock_offset_ms, opened_at, heard_at,
                refused_reason
         from sessions where cluster_id = any($1) order by cluster_id",
        &ids,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find sessions"))?;
    rows.into_iter()
        .map(|row| {
            Ok(Session {
                cluster_id: ClusterId::parse(&row.cluster_id)
                    .ok_or_else(|| inconsistent("sessions", "cluster_id", &row.cluster_id))?,
                session: row.session,
                operator_version: row.operator_version,
                kubernetes_version: row.kubernetes_version,
                nodes: row.nodes,
                clock_offset_ms: row.clock_offset_ms,
                opened_at: row.opened_at.to_jiff(),
                heard_at: row.heard_at.to_jiff(),
                refused_reason: row.refused_reason,
            })
        })
        .collect()
}
