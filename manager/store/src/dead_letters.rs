//! Messages that can never be handled, kept where people see them.
//!
//! Guarantees: a message that comes again is one row; a cluster that floods us with nonsense fills no disk.

use crate::error::{StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;

/// Rows kept of one cluster; the oldest go first.
pub const KEPT: i64 = 100;

/// A message that nobody can handle.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetter<'a> {
    /// Who sent it, as the subject says; empty when it names nobody.
    pub cluster: &'a str,
    /// SHA-256 of the payload in hex.
    pub payload_sha256: &'a str,
    /// Where it came.
    pub subject: &'a str,
    /// Why it cannot be handled.
    pub reason: &'a str,
    /// The exact bytes.
    pub payload: &'a [u8],
}

/// Keeps a message, or counts it once more, and drops what is beyond [`KEPT`].
///
/// # Errors
/// When Postgres does not answer.
pub async fn keep(
    connection: &mut PgConnection,
    dead_letters: DeadLetter<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into dead_letters (cluster_id, payload_sha256, subject, reason, payload, first_seen_at, last_seen_at)
         values ($1, $2, $3, $4, $5, $6, $6)
         on conflict (cluster_id, payload_sha256)
         do update set times = dead_letters.times + 1, last_seen_at = excluded.last_seen_at",
        dead_letters.cluster,
        dead_letters.payload_sha256,
        dead_letters.subject,
        dead_letters.reason,
        dead_letters.payload,
        now.to_sqlx(),
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("keep a message that cannot be handled"))?;
    sqlx::query!(
        "delete from dead_letters where (cluster_id, payload_sha256) in
         (select cluster_id, payload_sha256 from dead_letters where cluster_id = $1 order by last_seen_at desc offset $2)",
        dead_letters.cluster,
        KEPT,
    )
    .execute(connection)
    .await
    .map_err(failed("drop the oldest messages that cannot be handled"))?;
    Ok(())
}
