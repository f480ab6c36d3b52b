//! Windows that do not fit: other bytes for a window in the ledger, or a window that overlaps one. Never counted; a person
//! has to look at them.

use crate::{
    error::{StoreError, failed},
    windows::{NewWindow, seconds, start},
};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;

/// Rows of one cluster; beyond them the oldest are deleted. A cluster has a handful at most unless it is hostile.
pub const ROWS_PER_CLUSTER_MAX: i64 = 100;

/// Adds a conflicting window. False when the same bytes were added before.
pub async fn insert(
    connection: &mut PgConnection,
    new: &NewWindow,
    records: &[u8],
    now: Timestamp,
) -> Result<bool, StoreError> {
    let inserted = sqlx::query!(
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
    .map_err(failed("add a usage conflict"))?;
    sqlx::query!(
        "delete from usage_conflicts where cluster_id = $1 and manifest_sha256 in
         (select manifest_sha256 from usage_conflicts where cluster_id = $1 order by first_seen_at desc offset $2)",
        new.cluster.as_str(),
        ROWS_PER_CLUSTER_MAX,
    )
    .execute(connection)
    .await
    .map_err(failed("delete the oldest usage conflicts"))?;
    Ok(inserted.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, at, window};

    #[tokio::test]
    async fn a_conflict_is_added_once_and_the_oldest_beyond_the_bound_are_deleted() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        for number in 0..ROWS_PER_CLUSTER_MAX + 2 {
            let mut conflict = window(&cluster, 0, 'a');
            conflict.manifest_sha256 = format!("{number:064}");
            assert!(insert(&mut connection, &conflict, b"r", at(number)).await.unwrap());
            assert!(!insert(&mut connection, &conflict, b"r", at(number)).await.unwrap(), "the same bytes again");
        }
        let rows: (i64, String) = sqlx::query_as("select count(*), min(manifest_sha256) from usage_conflicts")
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!(rows, (ROWS_PER_CLUSTER_MAX, format!("{:064}", 2)));
    }
}
