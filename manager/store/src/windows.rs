//! Usage windows as clusters sealed them; conflicts and messages that can never be counted; the nkeys that may seal.

use crate::error::{StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::cluster::ClusterId;
use kubenova_schema::window::Window;
use sqlx::PgConnection;

/// A window as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWindow {
    /// Whose.
    pub cluster: ClusterId,
    /// Which.
    pub window: Window,
    /// Always 0 from an Operator.
    pub revision: i32,
    /// Hex SHA-256 of the manifest.
    pub manifest_sha256: String,
    /// That of the window before.
    pub previous_manifest_sha256: String,
    /// The manifest's exact bytes.
    pub manifest: Vec<u8>,
    /// Its signature.
    pub manifest_signature: String,
    /// Number of records.
    pub record_count: i32,
    /// Milliseconds in which every watch was current.
    pub coverage_ms: i64,
    /// What was not observed, as JSON.
    pub gaps: serde_json::Value,
    /// Operator clock minus Manager clock.
    pub clock_offset_ms: i64,
    /// Incarnation that sealed it.
    pub incarnation: String,
    /// When, by the Operator's clock.
    pub sealed_at: String,
}

/// What a window turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The first time.
    New,
    /// The same bytes again.
    Replay,
    /// Other bytes for a window that is there, or one that overlaps it.
    Conflict,
}

/// First instant of a window.
#[must_use]
pub fn start(window: Window) -> Timestamp {
    Timestamp::from_second(window.start).unwrap_or(Timestamp::MAX)
}

/// Seconds of a window as the database has them.
#[must_use]
pub fn seconds(window: Window) -> i32 {
    i32::try_from(window.seconds).unwrap_or(i32::MAX)
}

/// Takes a window in, once. The caller adds the ledger's rows in the same transaction when it is new. A window that
/// shares time with another of its cluster is a conflict: that time would be billed twice.
///
/// # Errors
/// When Postgres does not answer.
pub async fn insert(connection: &mut PgConnection, new: &NewWindow, now: Timestamp) -> Result<Arrival, StoreError> {
    // Two Managers must not each take in one of two windows that overlap.
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('usage_windows/' || $1, 0))", new.cluster.as_str())
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("wait for a cluster's windows"))?;
    let overlaps = sqlx::query_scalar!(
        r#"select exists (
               select from usage_windows
               where cluster_id = $1 and (window_start, seconds) <> ($2, $3)
                 and window_start < $2::timestamptz + make_interval(secs => $3::int)
                 and window_start > $2::timestamptz - interval '1 day'
                 and window_start + make_interval(secs => seconds) > $2) as "overlaps!""#,
        new.cluster.as_str(),
        start(new.window).to_sqlx() as _,
        seconds(new.window),
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed("look for overlapping windows"))?;
    if overlaps {
        return Ok(Arrival::Conflict);
    }
    let inserted = sqlx::query!(
        "insert into usage_windows (cluster_id, window_start, seconds, revision, manifest_sha256, previous_manifest_sha256, manifest,
                                    manifest_signature, record_count, coverage_ms, gaps, clock_offset_ms, incarnation, sealed_at, received_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
         on conflict do nothing",
        new.cluster.as_str(),
        start(new.window).to_sqlx(),
        seconds(new.window),
        new.revision,
        new.manifest_sha256,
        new.previous_manifest_sha256,
        new.manifest,
        new.manifest_signature,
        new.record_count,
        new.coverage_ms,
        new.gaps,
        new.clock_offset_ms,
        new.incarnation,
        new.sealed_at,
        now.to_sqlx(),
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("take in a usage window"))?;
    if inserted.rows_affected() == 1 {
        return Ok(Arrival::New);
    }
    let known = sqlx::query_scalar!(
        "select manifest_sha256 from usage_windows where cluster_id = $1 and window_start = $2 and seconds = $3 and revision = $4",
        new.cluster.as_str(),
        start(new.window).to_sqlx(),
        seconds(new.window),
        new.revision,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("compare a usage window"))?;
    Ok(if known == new.manifest_sha256 { Arrival::Replay } else { Arrival::Conflict })
}

/// Conflicts kept of one cluster; the oldest go first.
const CONFLICTS_KEPT: i64 = 100;

/// Keeps other bytes for a window that is there, the newest hundred of a cluster. True when they were not kept before.
///
/// # Errors
/// When Postgres does not answer.
pub async fn keep_conflict(
    connection: &mut PgConnection,
    new: &NewWindow,
    records: &[u8],
    now: Timestamp,
) -> Result<bool, StoreError> {
    let kept = sqlx::query!(
        "insert into usage_conflicts (cluster_id, window_start, seconds, revision, manifest_sha256, manifest, manifest_signature, records, first_seen_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing",
        new.cluster.as_str(),
        start(new.window).to_sqlx(),
        seconds(new.window),
        new.revision,
        new.manifest_sha256,
        new.manifest,
        new.manifest_signature,
        records,
        now.to_sqlx(),
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("keep a usage conflict"))?;
    sqlx::query!(
        "delete from usage_conflicts where cluster_id = $1 and manifest_sha256 in
         (select manifest_sha256 from usage_conflicts where cluster_id = $1 order by first_seen_at desc offset $2)",
        new.cluster.as_str(),
        CONFLICTS_KEPT,
    )
    .execute(connection)
    .await
    .map_err(failed("drop the oldest usage conflicts"))?;
    Ok(kept.rows_affected() == 1)
}

/// Remembers a public nkey that was enrolled for a cluster. Call it in the transaction of each enrollment.
///
/// # Errors
/// When Postgres does not answer.
pub async fn remember_key(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    nkey_public: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into cluster_keys (cluster_id, nkey_public, created_at) values ($1, $2, $3) on conflict do nothing",
        cluster.as_str(),
        nkey_public,
        now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("remember a cluster's nkey"))?;
    Ok(())
}

/// True when this nkey is or was enrolled for this cluster.
///
/// # Errors
/// When Postgres does not answer.
pub async fn is_key_of(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    nkey_public: &str,
) -> Result<bool, StoreError> {
    let found = sqlx::query_scalar!(
        "select exists (select from cluster_keys where cluster_id = $1 and nkey_public = $2) as \"found!\"",
        cluster.as_str(),
        nkey_public,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("look up a cluster's nkey"))?;
    Ok(found)
}
