//! Usage of tenants that are not known on the cluster it comes from: kept, and counted once they are.
//!
//! Before it: `manager/src/ingest/usage.rs` splits a window. After it: `manager/src/ingest/usage/claim.rs` moves rows into the
//! ledger, each once: it leaves here in the transaction that writes it there.

use crate::{
    error::{RowRef, StoreError, failed},
    ledger::{self, Columns, NewRow, WindowRows},
    recovery::adoption::RECOVERY_AUTHOR,
    windows::{seconds, start},
};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{cluster::ClusterId, tenant::TenantId};
use kubenova_schema::window::Window;
use sqlx::PgConnection;

/// Rows that are kept of one cluster: ten tenants for six weeks of hours.
pub const ROWS_MAX: i64 = 10_000;

/// Keeps rows of a window. Returns how many there was room for.
pub async fn insert(connection: &mut PgConnection, of: &WindowRows<'_>, rows: &[NewRow]) -> Result<u64, StoreError> {
    let rows = Columns::of(rows);
    let done = sqlx::query!(
        "insert into unclaimed_usage (cluster_id, tenant_id, tenant_name, window_start, seconds, revision, cpu_request_millicore_ms,
                                      memory_request_byte_ms, pod_count_ms, namespace_count_ms, application_count_ms,
                                      payload_sha256, quality, received_at, tenant_was_known)
         select $1, r.tenant_id, r.tenant_name, $2, $3, $4, r.cpu::numeric, r.memory::numeric, r.pods::numeric,
                r.namespaces::numeric, r.applications::numeric, r.payload_sha256, $5, $6,
                exists (select from tenants t where t.id = r.tenant_id)
         from unnest($7::uuid[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[])
              as r (tenant_id, tenant_name, payload_sha256, cpu, memory, pods, namespaces, applications)
         limit greatest($15 - (select count(*) from unclaimed_usage where cluster_id = $1), 0)",
        of.cluster.as_str(),
        start(of.window).to_sqlx(),
        seconds(of.window),
        of.revision,
        of.quality,
        of.received_at.to_sqlx(),
        &rows.tenants,
        &rows.names,
        &rows.hashes,
        &rows.cpu,
        &rows.memory,
        &rows.pods,
        &rows.namespaces,
        &rows.applications,
        ROWS_MAX,
    )
    .execute(connection)
    .await
    .map_err(failed("keep usage of unknown tenants"))?;
    Ok(done.rows_affected())
}

/// A row that may be counted now, with what its window says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The cluster.
    pub cluster: ClusterId,
    /// The window.
    pub window: Window,
    /// 0, or more for corrections.
    pub revision: i32,
    /// `gap`, `skew`.
    pub quality: Vec<String>,
    /// Milliseconds in which every watch was current.
    pub coverage_ms: i64,
    /// What was not observed, as JSON.
    pub gaps: serde_json::Value,
    /// Incarnation that sealed it.
    pub incarnation: String,
    /// What the tenant used.
    pub row: NewRow,
}

/// Takes rows out whose tenants are on their clusters now, or were: at most so many. The caller writes them into the ledger in the
/// same transaction. A cluster cannot bill a tenant of others in advance: of one that was known here when the usage came, it is
/// counted only after a recovery has shown that the Manager once sent the tenant there.
pub async fn claim(connection: &mut PgConnection, limit: i64) -> Result<Vec<Claimed>, StoreError> {
    let rows = sqlx::query!(
        r#"with known as (
             select u.cluster_id, u.tenant_id,
                    exists (select from commands k where k.cluster_id = u.cluster_id and k.tenant_id = u.tenant_id
                               and k.created_by = $2) as is_recovered
             from (select distinct cluster_id, tenant_id from unclaimed_usage) u
             where exists (select from placements p where p.cluster_id = u.cluster_id and p.tenant_id = u.tenant_id)
                or exists (select from commands k where k.cluster_id = u.cluster_id and k.tenant_id = u.tenant_id)
         ), due as (
             select u.ctid as place from unclaimed_usage u join known using (cluster_id, tenant_id)
             where known.is_recovered or not u.tenant_was_known
             order by u.cluster_id, u.window_start, u.tenant_id limit $1 for update of u skip locked
         )
         delete from unclaimed_usage u using due, usage_windows w
          where u.ctid = due.place and w.cluster_id = u.cluster_id and w.window_start = u.window_start
            and w.seconds = u.seconds and w.revision = u.revision
         returning u.cluster_id, u.tenant_id, u.tenant_name, u.window_start, u.seconds, u.revision,
                   u.cpu_request_millicore_ms::text as "cpu!", u.memory_request_byte_ms::text as "memory!",
                   u.pod_count_ms::text as "pods!", u.namespace_count_ms::text as "namespaces!",
                   u.application_count_ms::text as "applications!", u.payload_sha256, u.quality,
                   w.coverage_ms, w.gaps, w.incarnation"#,
        limit,
        RECOVERY_AUTHOR,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("claim usage of tenants that are known now"))?;
    rows.into_iter()
        .map(|row| {
            let id = format!("{}/{}/{}", row.cluster_id, row.tenant_id, row.window_start.to_jiff());
            let at = RowRef { table: "unclaimed_usage", id: &id };
            let texts = [&row.cpu, &row.memory, &row.pods, &row.namespaces, &row.applications];
            Ok(Claimed {
                cluster: at.cluster_id("cluster_id", &row.cluster_id)?,
                window: Window {
                    start: row.window_start.to_jiff().as_second(),
                    seconds: u32::try_from(row.seconds).map_err(|error| at.invalid("seconds", error))?,
                },
                revision: row.revision,
                quality: row.quality,
                coverage_ms: row.coverage_ms,
                gaps: row.gaps,
                incarnation: row.incarnation,
                row: NewRow {
                    tenant: TenantId(row.tenant_id),
                    tenant_name: row.tenant_name,
                    quantities: ledger::quantities(at, texts)?,
                    payload_sha256: row.payload_sha256,
                },
            })
        })
        .collect()
}

/// What waits of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unclaimed {
    /// Rows.
    pub records: i64,
    /// Tenants.
    pub tenants: i64,
    /// Begin of the oldest window.
    pub oldest: Timestamp,
}

/// What waits of a cluster; none when nothing does.
pub async fn of_cluster(connection: &mut PgConnection, cluster: &ClusterId) -> Result<Option<Unclaimed>, StoreError> {
    let row = sqlx::query!(
        r#"select count(*) as "records!", count(distinct tenant_id) as "tenants!", min(window_start) as oldest
           from unclaimed_usage where cluster_id = $1"#,
        cluster.as_str(),
    )
    .fetch_one(connection)
    .await
    .map_err(failed("count unclaimed usage"))?;
    let oldest = row.oldest.map(jiff_sqlx::Timestamp::to_jiff);
    Ok(oldest.map(|oldest| Unclaimed { records: row.records, tenants: row.tenants, oldest }))
}

/// Deletes rows that came before this time, at most `limit`; returns how many.
pub async fn delete_old(connection: &mut PgConnection, before: Timestamp, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "delete from unclaimed_usage where ctid = any(array(select ctid from unclaimed_usage where received_at < $1 limit $2))",
        before.to_sqlx(),
        limit,
    )
    .execute(connection)
    .await
    .map_err(failed("delete old unclaimed usage"))?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{Fixture, at, tenant, window},
        placements, tenants, windows,
    };

    fn row(number: u128) -> NewRow {
        NewRow {
            tenant: tenant(number).id,
            tenant_name: format!("tenant-{number}"),
            quantities: [i128::from(u64::MAX) * 1000, 2, 3, 4, 5],
            payload_sha256: "a".repeat(64),
        }
    }

    async fn keep(fixture: &Fixture, cluster: &ClusterId, start: i64, rows: &[NewRow]) -> u64 {
        let mut connection = fixture.store.acquire().await.unwrap();
        let new = window(cluster, start, 'a');
        windows::insert(&mut connection, &new, at(0)).await.unwrap();
        let of = WindowRows {
            cluster,
            window: new.window,
            revision: 0,
            quality: &["gap".to_owned()],
            coverage_ms: 1,
            gaps: &new.gaps,
            incarnation: "1",
            received_at: at(0),
        };
        insert(&mut connection, &of, rows).await.unwrap()
    }

    #[tokio::test]
    async fn usage_is_claimed_once_the_tenant_is_known_on_that_cluster_and_only_once() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        keep(&fixture, &clusters[0], 0, &[row(1), row(2)]).await;
        keep(&fixture, &clusters[0], 3600, &[row(1)]).await;
        keep(&fixture, &clusters[1], 0, &[row(1)]).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        tenants::insert(&mut connection, &tenant(1)).await.unwrap();
        assert_eq!(claim(&mut connection, 10).await.unwrap(), [], "no tenant of these clusters");
        placements::insert(&mut connection, tenant(1).id, &clusters[..1], "ann", at(0)).await.unwrap();
        let waiting = of_cluster(&mut connection, &clusters[0]).await.unwrap().unwrap();
        assert_eq!((waiting.records, waiting.tenants, waiting.oldest.as_second()), (3, 2, 0));
        let first = claim(&mut connection, 1).await.unwrap().remove(0);
        assert_eq!((&first.row, first.window.start, first.quality.len()), (&row(1), 0, 1));
        let second = claim(&mut connection, 10).await.unwrap();
        assert_eq!((second.len(), second[0].window.start, second[0].coverage_ms), (1, 3600, 3_600_000));
        assert_eq!(claim(&mut connection, 10).await.unwrap(), []);
        assert_eq!(of_cluster(&mut connection, &clusters[0]).await.unwrap().unwrap().records, 1, "tenant 2 is unknown");
        keep(&fixture, &clusters[1], 3600, &[row(1)]).await;
        placements::insert(&mut connection, tenant(1).id, &clusters[1..], "ann", at(0)).await.unwrap();
        let early = claim(&mut connection, 10).await.unwrap();
        assert_eq!(
            (early.len(), early[0].window.start),
            (1, 0),
            "at 3600 the tenant was known, and not on that cluster"
        );
        assert_eq!(delete_old(&mut connection, at(1), 10).await.unwrap(), 2);
        assert_eq!(of_cluster(&mut connection, &clusters[1]).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_one_cluster_can_make_the_manager_keep_is_bounded() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let many: Vec<NewRow> = (1..=ROWS_MAX.unsigned_abs() + 5).map(|number| row(number.into())).collect();
        assert_eq!(keep(&fixture, &clusters[0], 0, &many).await, ROWS_MAX.unsigned_abs());
        assert_eq!(keep(&fixture, &clusters[0], 3600, &many[..1]).await, 0);
        assert_eq!(keep(&fixture, &clusters[1], 0, &many[..1]).await, 1, "another cluster has room of its own");
    }
}
