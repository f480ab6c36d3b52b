//! What a cluster is told about the windows that are in the ledger.

use crate::error::{StoreError, failed};
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
    /// Higher than in every list before.
    pub counter: u64,
    /// The windows received last, with the hex SHA-256 of their manifests.
    pub windows: Vec<(Window, String)>,
}

/// Makes the next list of a cluster.
///
/// # Errors
/// When Postgres does not answer, or the cluster does not exist.
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
        .filter_map(|row| {
            let seconds = u32::try_from(row.seconds).ok()?;
            Some((Window { start: row.window_start.to_jiff().as_second(), seconds }, row.manifest_sha256))
        })
        .collect();
    Ok(Receipts {
        cluster_uid: cluster_uid.unwrap_or_default(),
        counter: u64::try_from(counter).unwrap_or_default(),
        windows,
    })
}
