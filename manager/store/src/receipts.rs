//! Receipts: the lists of windows in the ledger that a cluster gets, so that it stops sending what is there and sends again what
//! is not.

use crate::error::{RowRef, StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::cluster::ClusterId;
use kubenova_schema::window::Window;
use sqlx::PgConnection;

/// Windows in one list: 90 kB in `KN_CMD`.
const WINDOWS_MAX: i64 = 1_000;

/// A window with the hex SHA-256 of its manifest.
pub type ReceivedWindow = (Window, String);

/// Records that a list is made now; returns the UID of the cluster's kube-system namespace; none when it is not, or no longer, trusted.
/// Fails when the cluster does not exist.
pub async fn issue(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    now: Timestamp,
) -> Result<Option<String>, StoreError> {
    sqlx::query!(
        "insert into receipts (cluster_id, issued_at) values ($1, $2)
         on conflict (cluster_id) do update set issued_at = excluded.issued_at",
        cluster.as_str(),
        now.to_sqlx(),
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("record a list of receipts"))?;
    sqlx::query_scalar!(
        "select case when state = 'enrolled' then kubernetes_uid end from clusters where id = $1",
        cluster.as_str(),
    )
    .fetch_one(connection)
    .await
    .map_err(failed("find a cluster's UID"))
}

/// The windows that came last.
pub async fn newest(connection: &mut PgConnection, cluster: &ClusterId) -> Result<Vec<ReceivedWindow>, StoreError> {
    let rows = sqlx::query!(
        "select window_start, seconds, manifest_sha256 from usage_windows
         where cluster_id = $1 and revision = 0 order by received_at desc, window_start desc limit $2",
        cluster.as_str(),
        WINDOWS_MAX,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list received windows"))?;
    rows.into_iter().map(|row| window(cluster, row.window_start.to_jiff(), row.seconds, row.manifest_sha256)).collect()
}

/// The windows of a cluster that start from here on, with the start of the first that is not among them, if there is one.
pub async fn from_start(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    start: Timestamp,
) -> Result<(Vec<ReceivedWindow>, Option<i64>), StoreError> {
    let rows = sqlx::query!(
        "select window_start, seconds, manifest_sha256 from usage_windows
         where cluster_id = $1 and window_start >= $2 and revision = 0 order by window_start, seconds limit $3",
        cluster.as_str(),
        start.to_sqlx(),
        WINDOWS_MAX + 1,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list received windows"))?;
    let mut windows: Vec<ReceivedWindow> = rows
        .into_iter()
        .map(|row| window(cluster, row.window_start.to_jiff(), row.seconds, row.manifest_sha256))
        .collect::<Result<_, StoreError>>()?;
    let more = i64::try_from(windows.len()).is_ok_and(|count| count > WINDOWS_MAX);
    let next = if more { windows.pop().map(|(window, _)| window.start) } else { None };
    Ok((windows, next))
}

fn window(cluster: &ClusterId, start: Timestamp, seconds: i32, sha256: String) -> Result<ReceivedWindow, StoreError> {
    let seconds = u32::try_from(seconds)
        .map_err(|error| RowRef { table: "usage_windows", id: cluster }.invalid("seconds", error))?;
    Ok((Window { start: start.as_second(), seconds }, sha256))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{Fixture, at, window},
        windows,
    };

    #[tokio::test]
    async fn a_list_holds_the_cluster_s_own_windows_newest_first() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for (cluster, start, received) in [(0, 0, 1), (0, 3600, 2), (1, 7200, 3)] {
            windows::insert(&mut connection, &window(&clusters[cluster], start, 'a'), at(received)).await.unwrap();
        }
        assert_eq!(issue(&mut connection, &clusters[0], at(4)).await.unwrap(), None);
        let newest = newest(&mut connection, &clusters[0]).await.unwrap();
        let starts: Vec<i64> = newest.iter().map(|(window, _)| window.start).collect();
        assert_eq!((starts, newest[0].1.as_str()), (vec![3600, 0], &*"a".repeat(64)));
    }

    #[tokio::test]
    async fn a_range_is_read_in_lists_that_leave_no_window_out() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        for hour in 0..=WINDOWS_MAX {
            windows::insert(&mut connection, &window(&cluster, hour * 3600, 'a'), at(hour)).await.unwrap();
        }
        let second = |second| Timestamp::from_second(second).unwrap();
        let (first, next) = from_start(&mut connection, &cluster, second(0)).await.unwrap();
        assert_eq!((i64::try_from(first.len()).unwrap(), next), (WINDOWS_MAX, Some(WINDOWS_MAX * 3600)));
        let (last, next) = from_start(&mut connection, &cluster, second(next.unwrap())).await.unwrap();
        assert_eq!((last.len(), next), (1, None));
    }
}
