//! The ledger: what each tenant used on each cluster in each window. Rows are added, never edited.
//!
//! Quantities are whole numbers of up to 39 digits; they travel as text between Postgres' `numeric` and `i128`.

use crate::{
    error::{RowRef, StoreError, failed},
    windows::{seconds, start},
};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{cluster::ClusterId, page::Page, tenant::TenantId};
use kubenova_schema::{meters::Meter, window::Window};
use sqlx::PgConnection;
use uuid::Uuid;

/// One integer per meter, in the order of [`Meter::ALL`].
pub type Quantities = [i128; Meter::ALL.len()];

/// A new row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRow {
    /// The tenant.
    pub tenant: TenantId,
    /// The tenant's name as the cluster had it.
    pub tenant_name: String,
    /// What it used.
    pub quantities: Quantities,
    /// Hex SHA-256 of the record.
    pub payload_sha256: String,
}

/// What the rows of one window have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowRows<'a> {
    /// The cluster.
    pub cluster: &'a ClusterId,
    /// The window.
    pub window: Window,
    /// 0, or more for corrections.
    pub revision: i32,
    /// `gap`, `skew`.
    pub quality: &'a [String],
    /// Milliseconds in which every watch was current.
    pub coverage_ms: i64,
    /// What was not observed, as JSON.
    pub gaps: &'a serde_json::Value,
    /// Incarnation that sealed it.
    pub incarnation: &'a str,
    /// Now.
    pub received_at: Timestamp,
}

/// Rows as the columns of one statement.
pub(crate) struct Columns {
    pub(crate) tenants: Vec<Uuid>,
    pub(crate) names: Vec<String>,
    pub(crate) hashes: Vec<String>,
    pub(crate) cpu: Vec<String>,
    pub(crate) memory: Vec<String>,
    pub(crate) pods: Vec<String>,
    pub(crate) namespaces: Vec<String>,
    pub(crate) applications: Vec<String>,
}

impl Columns {
    pub(crate) fn of(rows: &[NewRow]) -> Self {
        let column = |meter: Meter| -> Vec<String> {
            rows.iter().map(|row| row.quantities[meter as usize].to_string()).collect()
        };
        let [cpu, memory, pods, namespaces, applications] = Meter::ALL.map(column);
        Self {
            tenants: rows.iter().map(|row| row.tenant.0).collect(),
            names: rows.iter().map(|row| row.tenant_name.clone()).collect(),
            hashes: rows.iter().map(|row| row.payload_sha256.clone()).collect(),
            cpu,
            memory,
            pods,
            namespaces,
            applications,
        }
    }
}

/// Adds the rows of a window in one statement. Fails when one of them exists: rows are never edited.
pub async fn insert(connection: &mut PgConnection, of: &WindowRows<'_>, rows: &[NewRow]) -> Result<(), StoreError> {
    let rows = Columns::of(rows);
    sqlx::query!(
        "insert into ledger (cluster_id, tenant_id, tenant_name, window_start, seconds, revision, cpu_request_millicore_ms,
                             memory_request_byte_ms, pod_count_ms, namespace_count_ms, application_count_ms, payload_sha256, quality,
                             coverage_ms, gaps, incarnation, received_at)
         select $1, r.tenant_id, r.tenant_name, $2, $3, $4, r.cpu::numeric, r.memory::numeric, r.pods::numeric, r.namespaces::numeric,
                r.applications::numeric, r.payload_sha256, $5, $6, $7, $8, $9
         from unnest($10::uuid[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[])
              as r (tenant_id, tenant_name, payload_sha256, cpu, memory, pods, namespaces, applications)",
        of.cluster.as_str(),
        start(of.window).to_sqlx(),
        seconds(of.window),
        of.revision,
        of.quality,
        of.coverage_ms,
        of.gaps,
        of.incarnation,
        of.received_at.to_sqlx(),
        &rows.tenants,
        &rows.names,
        &rows.hashes,
        &rows.cpu,
        &rows.memory,
        &rows.pods,
        &rows.namespaces,
        &rows.applications,
    )
    .execute(connection)
    .await
    .map_err(failed("add rows to the ledger"))?;
    Ok(())
}

/// Which rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this tenant's.
    pub tenant: Option<TenantId>,
    /// Only this cluster's.
    pub cluster: Option<ClusterId>,
    /// Windows that begin at or after it.
    pub from: Option<Timestamp>,
    /// Windows that begin before it.
    pub to: Option<Timestamp>,
}

/// A row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub cluster_name: String,
    /// The tenant.
    pub tenant: TenantId,
    /// Its name as the cluster had it.
    pub tenant_name: String,
    /// The window.
    pub window: Window,
    /// 0, or more for corrections.
    pub revision: i32,
    /// How much.
    pub quantities: Quantities,
    /// `gap`, `skew`.
    pub quality: Vec<String>,
    /// Milliseconds in which every watch was current.
    pub coverage_ms: i64,
    /// What was not observed, as JSON.
    pub gaps: serde_json::Value,
    /// When it came.
    pub received_at: Timestamp,
}

impl Row {
    /// The row's key in text: id of its billing event, and key of pages.
    #[must_use]
    pub fn key(&self) -> String {
        event_id(&self.cluster, self.tenant, self.window, self.revision)
    }
}

/// `<cluster>/<tenant>/<window>/<revision>`, the same for ever.
#[must_use]
pub fn event_id(cluster: &ClusterId, tenant: TenantId, window: Window, revision: i32) -> String {
    format!("{cluster}/{}/{window}/{revision}", tenant.0)
}

/// Whether a page's key is one of ours.
#[must_use]
pub fn is_key(text: &str) -> bool {
    read_key(text).is_some()
}

/// Reads a row's key.
fn read_key(text: &str) -> Option<(String, Uuid, Window, i32)> {
    let mut parts = text.split('/');
    let key = (
        ClusterId::parse(parts.next()?)?.to_string(),
        parts.next()?.parse().ok()?,
        Window::parse(parts.next()?)?,
        parts.next()?.parse().ok()?,
    );
    parts.next().is_none().then_some(key)
}

/// One page of rows, oldest window first, and one row more when it goes on.
pub async fn list(connection: &mut PgConnection, filter: &Filter, page: &Page) -> Result<Vec<Row>, StoreError> {
    let after = page.after.as_deref().and_then(read_key);
    let (after_cluster, after_tenant, after_window, after_revision) = match after {
        Some((cluster, tenant, window, revision)) => (Some(cluster), Some(tenant), Some(window), Some(revision)),
        None => (None, None, None, None),
    };
    let rows = sqlx::query!(
        r#"select l.cluster_id, c.name as cluster_name, l.tenant_id, l.tenant_name, l.window_start, l.seconds, l.revision,
                  l.cpu_request_millicore_ms::text as "cpu!", l.memory_request_byte_ms::text as "memory!",
                  l.pod_count_ms::text as "pods!", l.namespace_count_ms::text as "namespaces!",
                  l.application_count_ms::text as "applications!", l.quality, l.coverage_ms, l.gaps, l.received_at
           from ledger l join clusters c on c.id = l.cluster_id
           where ($1::uuid is null or l.tenant_id = $1) and ($2::text is null or l.cluster_id = $2)
             and ($3::timestamptz is null or l.window_start >= $3) and ($4::timestamptz is null or l.window_start < $4)
             and ($5::timestamptz is null
                  or (l.window_start, l.cluster_id, l.tenant_id, l.seconds, l.revision) > ($5, $6::text, $7::uuid, $8::int, $9::int))
           order by l.window_start, l.cluster_id, l.tenant_id, l.seconds, l.revision limit $10"#,
        filter.tenant.map(|tenant| tenant.0),
        filter.cluster.as_ref().map(ClusterId::as_str),
        filter.from.map(|at| at.to_sqlx()) as _,
        filter.to.map(|at| at.to_sqlx()) as _,
        after_window.map(|window| start(window).to_sqlx()) as _,
        after_cluster,
        after_tenant,
        after_window.map(seconds),
        after_revision,
        page.rows(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list usage"))?;
    rows.into_iter()
        .map(|row| {
            let id = format!("{}/{}/{}/{}", row.cluster_id, row.tenant_id, row.window_start.to_jiff(), row.revision);
            let at = RowRef { table: "ledger", id: &id };
            Ok(Row {
                quantities: quantities(at, [&row.cpu, &row.memory, &row.pods, &row.namespaces, &row.applications])?,
                cluster: at.cluster_id("cluster_id", &row.cluster_id)?,
                window: Window {
                    start: row.window_start.to_jiff().as_second(),
                    seconds: u32::try_from(row.seconds).map_err(|error| at.invalid("seconds", error))?,
                },
                cluster_name: row.cluster_name,
                tenant: TenantId(row.tenant_id),
                tenant_name: row.tenant_name,
                revision: row.revision,
                quality: row.quality,
                coverage_ms: row.coverage_ms,
                gaps: row.gaps,
                received_at: row.received_at.to_jiff(),
            })
        })
        .collect()
}

/// Sums over everything a filter selects, all pages together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums {
    /// How many rows.
    pub rows: i64,
    /// By meter, in the order of [`Meter::ALL`].
    pub quantities: Quantities,
    /// Rows of which a part was not observed.
    pub rows_with_gaps: i64,
}

/// Adds up what a filter selects.
pub async fn sums(connection: &mut PgConnection, filter: &Filter) -> Result<Sums, StoreError> {
    let row = sqlx::query!(
        r#"select count(*) as "rows!", count(*) filter (where 'gap' = any(quality)) as "rows_with_gaps!",
                  coalesce(sum(cpu_request_millicore_ms), 0)::text as "cpu!", coalesce(sum(memory_request_byte_ms), 0)::text as "memory!",
                  coalesce(sum(pod_count_ms), 0)::text as "pods!", coalesce(sum(namespace_count_ms), 0)::text as "namespaces!",
                  coalesce(sum(application_count_ms), 0)::text as "applications!"
           from ledger
           where ($1::uuid is null or tenant_id = $1) and ($2::text is null or cluster_id = $2)
             and ($3::timestamptz is null or window_start >= $3) and ($4::timestamptz is null or window_start < $4)"#,
        filter.tenant.map(|tenant| tenant.0),
        filter.cluster.as_ref().map(ClusterId::as_str),
        filter.from.map(|at| at.to_sqlx()) as _,
        filter.to.map(|at| at.to_sqlx()) as _,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("add up usage"))?;
    let at = RowRef { table: "ledger", id: &"of the sums" };
    let quantities = quantities(at, [&row.cpu, &row.memory, &row.pods, &row.namespaces, &row.applications])?;
    Ok(Sums { rows: row.rows, quantities, rows_with_gaps: row.rows_with_gaps })
}

/// Until when usage is complete: the end of the newest window of the slowest cluster concerned. None without windows.
pub async fn complete_until(connection: &mut PgConnection, filter: &Filter) -> Result<Option<Timestamp>, StoreError> {
    let until = sqlx::query_scalar!(
        r#"select min(until) as until from (
               select max(w.window_start + make_interval(secs => w.seconds)) as until
               from usage_windows w
               where ($1::text is null or w.cluster_id = $1)
                 and ($2::uuid is null or exists (select from ledger l where l.cluster_id = w.cluster_id and l.tenant_id = $2))
               group by w.cluster_id) as by_cluster"#,
        filter.cluster.as_ref().map(ClusterId::as_str),
        filter.tenant.map(|tenant| tenant.0),
    )
    .fetch_one(connection)
    .await
    .map_err(failed("find until when usage is complete"))?;
    Ok(until.map(jiff_sqlx::Timestamp::to_jiff))
}

pub(crate) fn quantities(at: RowRef<'_>, texts: [&String; Meter::ALL.len()]) -> Result<Quantities, StoreError> {
    let mut quantities = Quantities::default();
    for (quantity, text) in quantities.iter_mut().zip(texts) {
        *quantity = text.parse::<i128>().map_err(|error| at.invalid("quantities", format!("{text:?}: {error}")))?;
    }
    Ok(quantities)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, at};

    #[test]
    fn a_key_reads_back_and_never_changes() {
        let cluster = ClusterId::from_uuid(Uuid::from_u128(7));
        let text = event_id(&cluster, TenantId(Uuid::from_u128(1)), Window { start: 3600, seconds: 3600 }, 0);
        assert_eq!(text, format!("{cluster}/00000000-0000-0000-0000-000000000001/w3600-3600/0"));
        let (read, tenant, window, revision) = read_key(&text).unwrap();
        assert_eq!((read, tenant, window.start, revision), (cluster.to_string(), Uuid::from_u128(1), 3600, 0));
        assert_eq!(read_key("x"), None);
        assert_eq!(read_key(&format!("{text}/1")), None);
    }

    fn rows<'a>(
        cluster: &'a ClusterId,
        start: i64,
        quality: &'a [String],
        gaps: &'a serde_json::Value,
    ) -> WindowRows<'a> {
        WindowRows {
            cluster,
            window: Window { start, seconds: 3600 },
            revision: 0,
            quality,
            coverage_ms: 3_600_000,
            gaps,
            incarnation: "1",
            received_at: at(0),
        }
    }

    fn row(tenant: u128, amount: i128) -> NewRow {
        NewRow {
            tenant: TenantId(Uuid::from_u128(tenant)),
            tenant_name: format!("tenant-{tenant}"),
            quantities: [amount; Meter::ALL.len()],
            payload_sha256: "a".repeat(64),
        }
    }

    #[tokio::test]
    async fn rows_are_exact_and_never_edited() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        let gaps = serde_json::json!([]);
        let large = 10_i128.pow(38) + 7;
        insert(&mut connection, &rows(&cluster, 0, &[], &gaps), &[row(1, large)]).await.unwrap();
        let error = insert(&mut connection, &rows(&cluster, 0, &[], &gaps), &[row(1, 5)]).await.unwrap_err();
        assert!(error.is_unstorable(), "{error:?}");
        let found = list(&mut connection, &Filter::default(), &Page::new(None, None)).await.unwrap();
        assert_eq!(found.iter().map(|row| row.quantities).collect::<Vec<_>>(), [[large; Meter::ALL.len()]]);
        insert(&mut connection, &rows(&cluster, 3600, &[], &gaps), &[row(1, -1)]).await.unwrap_err();
    }

    #[tokio::test]
    async fn pages_and_sums_agree_under_every_filter() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let (gap, gaps) = (["gap".to_owned()], serde_json::json!([]));
        for cluster in &clusters {
            for start in [0, 3600, 7200] {
                let quality = if start == 0 { &gap[..] } else { &[] };
                insert(&mut connection, &rows(cluster, start, quality, &gaps), &[row(1, 10), row(2, 1)]).await.unwrap();
            }
        }
        let second = Timestamp::from_second;
        for (filter, count) in [
            (Filter::default(), 12),
            (Filter { tenant: Some(TenantId(Uuid::from_u128(2))), ..Filter::default() }, 6),
            (Filter { cluster: Some(clusters[1].clone()), ..Filter::default() }, 6),
            (Filter { from: second(3600).ok(), to: second(7200).ok(), ..Filter::default() }, 4),
        ] {
            let mut page = Page::new(None, Some(5));
            let mut seen = Vec::new();
            loop {
                let mut found = list(&mut connection, &filter, &page).await.unwrap();
                let more = page.cut(&mut found);
                page.after = found.last().map(Row::key);
                seen.extend(found);
                if !more {
                    break;
                }
            }
            let sums = sums(&mut connection, &filter).await.unwrap();
            let total: i128 = seen.iter().map(|row| row.quantities[0]).sum();
            let mut keys: Vec<String> = seen.iter().map(Row::key).collect();
            keys.sort();
            keys.dedup();
            assert_eq!((seen.len(), keys.len()), (count, count), "{filter:?}");
            assert_eq!((usize::try_from(sums.rows).unwrap(), sums.quantities[0]), (count, total), "{filter:?}");
            let with_gaps = seen.iter().filter(|row| row.quality == gap).count();
            assert_eq!(usize::try_from(sums.rows_with_gaps).unwrap(), with_gaps, "{filter:?}");
        }
    }

    #[tokio::test]
    async fn usage_is_complete_until_the_window_of_the_slowest_cluster() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        assert_eq!(complete_until(&mut connection, &Filter::default()).await.unwrap(), None);
        for (cluster, start) in [(0, 0), (0, 3600), (1, 0)] {
            let window = crate::fixture::window(&clusters[cluster], start, 'a');
            crate::windows::insert(&mut connection, &window, at(0)).await.unwrap();
        }
        let own = Filter { cluster: Some(clusters[0].clone()), ..Filter::default() };
        let until = |second| Timestamp::from_second(second).ok();
        assert_eq!(complete_until(&mut connection, &Filter::default()).await.unwrap(), until(3600));
        assert_eq!(complete_until(&mut connection, &own).await.unwrap(), until(7200));
    }
}
