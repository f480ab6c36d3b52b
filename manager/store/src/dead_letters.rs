//! Dead letters: messages of clusters that can never be handled, with the reason.
//!
//! Guarantees: a message that is delivered again is one row; a cluster that sends nothing else fills no disk.

use crate::error::{StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;

/// Rows of one cluster; beyond them the oldest are deleted. Enough to see a pattern, at most 100 MiB of payloads.
pub const ROWS_PER_CLUSTER_MAX: i64 = 100;

/// A message that can never be handled.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetter<'a> {
    /// The cluster that the subject names; empty when it names none.
    pub cluster: &'a str,
    /// SHA-256 of the payload in hex.
    pub payload_sha256: &'a str,
    /// The subject it was published on.
    pub subject: &'a str,
    /// Why it cannot be handled.
    pub reason: &'a str,
    /// The exact bytes.
    pub payload: &'a [u8],
}

/// Adds a message, or counts it once more, and deletes the oldest beyond [`ROWS_PER_CLUSTER_MAX`].
pub async fn insert(
    connection: &mut PgConnection,
    dead_letter: &DeadLetter<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into dead_letters (cluster_id, payload_sha256, subject, reason, payload, first_seen_at, last_seen_at)
         values ($1, $2, $3, $4, $5, $6, $6)
         on conflict (cluster_id, payload_sha256)
         do update set times = dead_letters.times + 1, last_seen_at = excluded.last_seen_at",
        dead_letter.cluster,
        dead_letter.payload_sha256,
        dead_letter.subject,
        dead_letter.reason,
        dead_letter.payload,
        now.to_sqlx(),
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("add a dead letter"))?;
    sqlx::query!(
        "delete from dead_letters where (cluster_id, payload_sha256) in
         (select cluster_id, payload_sha256 from dead_letters where cluster_id = $1 order by last_seen_at desc offset $2)",
        dead_letter.cluster,
        ROWS_PER_CLUSTER_MAX,
    )
    .execute(connection)
    .await
    .map_err(failed("delete the oldest dead letters"))?;
    Ok(())
}

/// Deletes messages that came last before this time, at most `limit`; returns how many.
pub async fn delete_old(connection: &mut PgConnection, before: Timestamp, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "delete from dead_letters where (cluster_id, payload_sha256) in
            (select cluster_id, payload_sha256 from dead_letters where last_seen_at < $1 order by last_seen_at limit $2)",
        before.to_sqlx(),
        limit,
    )
    .execute(connection)
    .await
    .map_err(failed("delete old dead letters"))?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, at};

    #[tokio::test]
    async fn a_repeated_message_is_one_row_and_the_oldest_beyond_the_bound_are_deleted() {
        let fixture = Fixture::new().await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let hashes: Vec<String> = (0..ROWS_PER_CLUSTER_MAX + 3).map(|number| format!("{number:064}")).collect();
        for (hash, second) in hashes.iter().zip(0..) {
            for cluster in ["a", "b"] {
                let letter = DeadLetter { cluster, payload_sha256: hash, subject: "s", reason: "r", payload: b"p" };
                insert(&mut connection, &letter, at(second)).await.unwrap();
                insert(&mut connection, &letter, at(second)).await.unwrap();
            }
        }
        let rows: Vec<(String, i64)> =
            sqlx::query_as("select payload_sha256, times from dead_letters where cluster_id = 'a' order by 1")
                .fetch_all(&mut *connection)
                .await
                .unwrap();
        let expected: Vec<(String, i64)> = hashes[3..].iter().map(|hash| (hash.clone(), 2)).collect();
        assert_eq!(rows, expected);
    }
}
