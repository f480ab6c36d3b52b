//! Usage windows as clusters sealed them, each once.
//!
//! Before it: `manager/src/ingest/usage.rs`. After it: `ledger.rs` in the same transaction; a window that does not fit goes
//! to `usage_conflicts.rs`.

use crate::error::{StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::cluster::ClusterId;
use kubenova_schema::{mutant, window::Window};
use sqlx::PgConnection;

/// A window as it was reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWindow {
    /// The cluster.
    pub cluster: ClusterId,
    /// The window.
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
    /// When it was sealed, by the Operator's clock.
    pub sealed_at: String,
}

/// How a window relates to those in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is new and was added.
    New,
    /// It is in the database, with the same bytes.
    Replay,
    /// It is in the database with other bytes, or overlaps another one.
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

/// Adds a window unless it is in the database. The caller adds the ledger's rows in the same transaction when it is new.
/// A window that shares time with another of its cluster is a conflict: that time would be billed twice.
pub async fn insert(connection: &mut PgConnection, new: &NewWindow, now: Timestamp) -> Result<Arrival, StoreError> {
    // Without the lock two Managers could each add one of two windows that overlap.
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('usage_windows/' || $1, 0))", new.cluster.as_str())
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("lock a cluster's windows"))?;
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
    .map_err(failed("find overlapping windows"))?;
    if overlaps && !mutant::is_on("windows.overlap") {
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
    .map_err(failed("add a usage window"))?;
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
    let is_same = known == new.manifest_sha256 || mutant::is_on("windows.other-bytes");
    Ok(if is_same { Arrival::Replay } else { Arrival::Conflict })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, at, window};

    #[tokio::test]
    async fn the_same_bytes_again_are_a_replay_and_other_bytes_a_conflict() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for (cluster, start, sha, arrival) in [
            (0, 0, 'a', Arrival::New),
            (0, 0, 'a', Arrival::Replay),
            (0, 0, 'b', Arrival::Conflict),
            (0, 3600, 'b', Arrival::New),
            (1, 0, 'b', Arrival::New),
        ] {
            let window = window(&clusters[cluster], start, sha);
            assert_eq!(insert(&mut connection, &window, at(0)).await.unwrap(), arrival, "{cluster} {start} {sha}");
        }
    }

    #[tokio::test]
    async fn windows_that_share_time_conflict() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        insert(&mut connection, &window(&cluster, 3600, 'a'), at(0)).await.unwrap();
        for (start, seconds, arrival) in [
            (0, 7200, Arrival::Conflict),
            (3600, 1800, Arrival::Conflict),
            (5400, 600, Arrival::Conflict),
            (0, 3600, Arrival::New),
            (7200, 60, Arrival::New),
        ] {
            let mut other = window(&cluster, start, 'c');
            other.window.seconds = seconds;
            assert_eq!(insert(&mut connection, &other, at(0)).await.unwrap(), arrival, "{start} for {seconds}");
        }
    }

    #[tokio::test]
    async fn of_two_overlapping_windows_at_once_one_is_added() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut first = fixture.begin().await;
        insert(&mut first, &window(&cluster, 0, 'a'), at(0)).await.unwrap();
        let second = tokio::spawn({
            let mut tx = fixture.begin().await;
            let mut other = window(&cluster, 0, 'b');
            other.window.seconds = 7200;
            async move { insert(&mut tx, &other, at(0)).await.unwrap() }
        });
        first.commit().await.unwrap();
        assert_eq!(second.await.unwrap(), Arrival::Conflict);
    }
}
