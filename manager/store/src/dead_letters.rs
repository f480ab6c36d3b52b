//! Dead letters: messages of clusters that can never be handled, with the reason.
//!
//! Guarantees: a message that is delivered again is one row; a cluster that sends nothing else fills no disk.

use crate::error::{RowRef, StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::{Timestamp as SqlTimestamp, ToSqlx as _};
use kubenova_core::{
    dead_letter::{DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetterKind},
    page::Page,
};
use sqlx::PgConnection;
use uuid::Uuid;

/// Rows of one cluster; beyond them the oldest are deleted. Enough to see a pattern, at most 7 MB of a cluster.
pub const ROWS_PER_CLUSTER_MAX: i64 = 100;
/// Bytes of a message that are kept: enough to see what it is. The largest one on the broker has a megabyte.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// Characters of a reason that are kept: it may quote what the message says.
const REASON_MAX: i32 = 2000;

/// A message that can never be handled.
#[derive(Debug, Clone, Copy)]
pub struct NewDeadLetter<'a> {
    /// Its id, if it was not seen before.
    pub id: Uuid,
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
    dead_letter: &NewDeadLetter<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let payload = dead_letter.payload;
    sqlx::query!(
        "insert into dead_letters (id, cluster_id, kind, payload_sha256, subject, reason, payload, payload_bytes, first_seen_at,
                                   last_seen_at)
         values ($1, $2, $3, $4, $5, left($6, $7), $8, $9, $10, $10)
         on conflict (cluster_id, payload_sha256)
         do update set times = dead_letters.times + 1, last_seen_at = excluded.last_seen_at",
        dead_letter.id,
        dead_letter.cluster,
        DeadLetterKind::of_subject(dead_letter.subject).as_str(),
        dead_letter.payload_sha256,
        dead_letter.subject,
        dead_letter.reason,
        REASON_MAX,
        &payload[..payload.len().min(PAYLOAD_BYTES_MAX)],
        i64::try_from(payload.len()).unwrap_or(i64::MAX),
        now.to_sqlx(),
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("add a dead letter"))?;
    sqlx::query!(
        "with deleted as (
             delete from dead_letters where id in
                 (select id from dead_letters where cluster_id = $1 order by last_seen_at desc, id desc offset $2)
             returning id
         )
         insert into dead_letters_dropped (cluster_id, dropped) select $1, count(*) from deleted having count(*) > 0
         on conflict (cluster_id) do update set dropped = dead_letters_dropped.dropped + excluded.dropped",
        dead_letter.cluster,
        ROWS_PER_CLUSTER_MAX,
    )
    .execute(connection)
    .await
    .map_err(failed("delete the oldest dead letters"))?;
    Ok(())
}

struct Row {
    id: Uuid,
    cluster_id: String,
    kind: String,
    subject: String,
    reason: String,
    payload_bytes: i64,
    payload_sha256: String,
    times: i64,
    first_seen_at: SqlTimestamp,
    last_seen_at: SqlTimestamp,
    dropped: i64,
}

impl TryFrom<Row> for DeadLetter {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let kind = RowRef { table: "dead_letters", id: &row.id }.parse("kind", &row.kind, DeadLetterKind::parse)?;
        Ok(Self {
            id: DeadLetterId(row.id),
            cluster: row.cluster_id,
            kind,
            subject: row.subject,
            reason: row.reason,
            payload_bytes: row.payload_bytes,
            payload_sha256: row.payload_sha256,
            times: row.times,
            first_seen_at: row.first_seen_at.to_jiff(),
            last_seen_at: row.last_seen_at.to_jiff(),
            cluster_dropped: row.dropped,
        })
    }
}

/// One page of dead letters, those first that were seen last for the first time, and one row more when there is a next page.
pub async fn list(
    connection: &mut PgConnection,
    filter: &DeadLetterFilter,
    page: &Page,
) -> Result<Vec<DeadLetter>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"select l.id, l.cluster_id, l.kind, l.subject, l.reason, l.payload_bytes, l.payload_sha256, l.times, l.first_seen_at,
                  l.last_seen_at, coalesce(d.dropped, 0) as "dropped!"
           from dead_letters l left join dead_letters_dropped d on d.cluster_id = l.cluster_id
           where ($1::text is null or l.cluster_id = $1) and ($2::text is null or l.kind = $2) and ($3::uuid is null or l.id < $3)
           order by l.id desc limit $4"#,
        filter.cluster,
        filter.kind.map(DeadLetterKind::as_str),
        page.after.as_deref().and_then(DeadLetterId::parse).map(|id| id.0),
        page.rows(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list dead letters"))?;
    rows.into_iter().map(DeadLetter::try_from).collect()
}

/// The dead letter with this id.
pub async fn find(connection: &mut PgConnection, id: DeadLetterId) -> Result<Option<DeadLetter>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        r#"select l.id, l.cluster_id, l.kind, l.subject, l.reason, l.payload_bytes, l.payload_sha256, l.times, l.first_seen_at,
                  l.last_seen_at, coalesce(d.dropped, 0) as "dropped!"
           from dead_letters l left join dead_letters_dropped d on d.cluster_id = l.cluster_id where l.id = $1"#,
        id.0,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find a dead letter"))?;
    row.map(DeadLetter::try_from).transpose()
}

/// The kept bytes of a message.
pub async fn payload(connection: &mut PgConnection, id: DeadLetterId) -> Result<Option<Vec<u8>>, StoreError> {
    sqlx::query_scalar!("select payload from dead_letters where id = $1", id.0)
        .fetch_optional(connection)
        .await
        .map_err(failed("read a dead letter"))
}

/// Deletes a message that an operator discards. False when there is none.
pub async fn delete(connection: &mut PgConnection, id: DeadLetterId) -> Result<bool, StoreError> {
    let done = sqlx::query!("delete from dead_letters where id = $1", id.0)
        .execute(connection)
        .await
        .map_err(failed("delete a dead letter"))?;
    Ok(done.rows_affected() == 1)
}

/// Deletes messages that came last before this time, at most `limit`; returns how many.
pub async fn delete_old(connection: &mut PgConnection, before: Timestamp, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "delete from dead_letters where id in
            (select id from dead_letters where last_seen_at < $1 order by last_seen_at limit $2)",
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
    use crate::fixture::{Fixture, at, new_id};

    fn letter<'a>(cluster: &'a str, payload_sha256: &'a str) -> NewDeadLetter<'a> {
        NewDeadLetter { id: new_id(), cluster, payload_sha256, subject: "s", reason: "r", payload: b"p" }
    }

    async fn all(connection: &mut PgConnection, cluster: &str) -> Vec<DeadLetter> {
        let filter = DeadLetterFilter { cluster: Some(cluster.to_owned()), kind: None };
        list(connection, &filter, &Page::new(None, Some(500))).await.unwrap()
    }

    #[tokio::test]
    async fn a_repeated_message_is_one_row_and_the_oldest_beyond_the_bound_are_deleted_and_counted() {
        let fixture = Fixture::new().await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let hashes: Vec<String> = (0..ROWS_PER_CLUSTER_MAX + 3).map(|number| format!("{number:064}")).collect();
        for (hash, second) in hashes.iter().zip(0..) {
            for cluster in ["a", "b"] {
                insert(&mut connection, &letter(cluster, hash), at(second)).await.unwrap();
                insert(&mut connection, &letter(cluster, hash), at(second)).await.unwrap();
            }
        }
        let kept = all(&mut connection, "a").await;
        let seen: Vec<(&str, i64)> = kept.iter().rev().map(|one| (one.payload_sha256.as_str(), one.times)).collect();
        let expected: Vec<(&str, i64)> = hashes[3..].iter().map(|hash| (hash.as_str(), 2)).collect();
        assert_eq!(seen, expected);
        assert!(kept.iter().all(|one| one.cluster_dropped == 3));
    }

    #[tokio::test]
    async fn a_large_message_is_kept_in_part_with_its_size() {
        let fixture = Fixture::new().await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let (bytes, reason) = (vec![7; PAYLOAD_BYTES_MAX + 5], "ü".repeat(9000));
        let large = NewDeadLetter { payload: &bytes, reason: &reason, ..letter("a", "0") };
        insert(&mut connection, &large, at(0)).await.unwrap();
        let found = find(&mut connection, DeadLetterId(large.id)).await.unwrap().unwrap();
        assert_eq!((found.payload_bytes, found.reason.chars().count()), (65_541, 2000));
        let kept = payload(&mut connection, DeadLetterId(large.id)).await.unwrap().unwrap();
        assert_eq!(kept.len(), PAYLOAD_BYTES_MAX);
    }

    #[tokio::test]
    async fn old_ones_are_deleted_and_those_that_come_again_stay() {
        let fixture = Fixture::new().await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for (hash, second) in [("0", 0), ("1", 1), ("0", 5)] {
            insert(&mut connection, &letter("a", hash), at(second)).await.unwrap();
        }
        assert_eq!(delete_old(&mut connection, at(3), 10).await.unwrap(), 1);
        assert_eq!(all(&mut connection, "a").await[0].payload_sha256, "0");
        assert_eq!(delete_old(&mut connection, at(9), 0).await.unwrap(), 0, "at most the limit");
    }
}
