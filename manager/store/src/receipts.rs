//! Receipts: the list of windows in the ledger that a cluster gets, so that it stops sending them.

use crate::error::{RowRef, StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::cluster::ClusterId;
use kubenova_schema::window::Window;
use sqlx::PgConnection;

/// Windows in one list. A cluster that comes back after 35 days of hours has 840; in KN_CMD a list of these takes 90 kB.
const WINDOWS_MAX: i64 = 1_000;

/// The content of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipts {
    /// UID of the kube-system namespace; empty when the cluster is not enrolled.
    pub cluster_uid: String,
    /// Higher than in every earlier list.
    pub counter: u64,
    /// The windows received last, with the hex SHA-256 of their manifests.
    pub windows: Vec<(Window, String)>,
}

/// The next list of a cluster.
/// Fails when the cluster does not exist.
pub async fn next(connection: &mut PgConnection, cluster: &ClusterId, now: Timestamp) -> Result<Receipts, StoreError> {
    let counter = sqlx::query_scalar!(
        "insert into receipts (cluster_id, counter, issued_at) values ($1, 1, $2)
         on conflict (cluster_id) do update set counter = receipts.counter + 1, issued_at = excluded.issued_at
         returning counter",
        cluster.as_str(),
        now.to_sqlx(),
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed("count a receipt list"))?;
    let cluster_uid = sqlx::query_scalar!("select kubernetes_uid from clusters where id = $1", cluster.as_str())
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("find a cluster's UID"))?;
    let rows = sqlx::query!(
        "select window_start, seconds, manifest_sha256 from usage_windows
         where cluster_id = $1 and revision = 0 order by received_at desc, window_start desc limit $2",
        cluster.as_str(),
        WINDOWS_MAX,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list received windows"))?;
    let windows = rows
        .into_iter()
        .map(|row| {
            let seconds = u32::try_from(row.seconds)
                .map_err(|error| RowRef { table: "usage_windows", id: cluster }.invalid("seconds", error))?;
            Ok((Window { start: row.window_start.to_jiff().as_second(), seconds }, row.manifest_sha256))
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(Receipts {
        cluster_uid: cluster_uid.unwrap_or_default(),
        counter: u64::try_from(counter)
            .map_err(|error| RowRef { table: "receipts", id: cluster }.invalid("counter", error))?,
        windows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{Fixture, at, window},
        windows,
    };

    #[tokio::test]
    async fn the_counter_rises_and_the_list_holds_the_cluster_s_own_windows_newest_first() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for (cluster, start, received) in [(0, 0, 1), (0, 3600, 2), (1, 7200, 3)] {
            windows::insert(&mut connection, &window(&clusters[cluster], start, 'a'), at(received)).await.unwrap();
        }
        let first = next(&mut connection, &clusters[0], at(4)).await.unwrap();
        let starts: Vec<i64> = first.windows.iter().map(|(window, _)| window.start).collect();
        assert_eq!((first.counter, first.cluster_uid.as_str(), starts), (1, "", vec![3600, 0]));
        assert_eq!(first.windows[0].1, "a".repeat(64));
        assert_eq!(next(&mut connection, &clusters[0], at(5)).await.unwrap().counter, 2);
        assert_eq!(next(&mut connection, &clusters[1], at(5)).await.unwrap().counter, 1);
    }
}
