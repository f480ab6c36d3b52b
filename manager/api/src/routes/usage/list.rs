//! `GET /usage`.

use crate::{
    cursor::{self, PageLimit},
    error::ApiError,
    request_context::{Params, RequestContext},
    routes::{clusters::found, tenants},
    state::AppState,
};
use axum::{Json, extract::State};
use jiff::{SignedDuration, Timestamp};
use kubenova_api_types::usage::{UsageList, UsageQuantities, UsageRow};
use kubenova_core::{
    cluster::ClusterRef,
    refusal::{Reason, Refusal},
};
use kubenova_schema::meters::Meter;
use kubenova_store::{
    clusters,
    connection::Connection,
    ledger::{self, Filter, Quantities, Row},
    placements,
};

const LIST: &str = "usage";

/// Query of this list.
#[derive(Debug, Clone, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageParams {
    /// Usage of this tenant, by id or name.
    #[param(pattern = "^[a-z0-9-]+$", max_length = 50)]
    pub tenant: Option<String>,
    /// Usage on this cluster, by id or name.
    #[param(pattern = "^[a-z0-9-]+$", max_length = 50)]
    pub cluster: Option<String>,
    /// Windows that begin at or after this time, RFC 3339.
    #[param(format = DateTime)]
    pub from: Option<String>,
    /// Windows that begin before this time, RFC 3339; not earlier than `from`.
    #[param(format = DateTime)]
    pub to: Option<String>,
    /// `nextCursor` of the page before, with the same filter.
    #[param(pattern = "^[A-Za-z0-9_-]+$", max_length = 1024)]
    pub cursor: Option<String>,
    /// Rows in a page.
    #[param(value_type = u32, required = false, minimum = 1, maximum = 500, default = 50)]
    pub limit: Option<PageLimit>,
}

/// List usage by tenant, cluster and window, oldest first, with the sums over everything that the filter selects.
#[utoipa::path(get, path = "/api/v1/usage", tag = "usage", operation_id = "listUsage", params(UsageParams),
    responses((status = 200, description = "One page and the sums", body = UsageList)))]
pub async fn list(
    State(state): State<AppState>,
    ctx: RequestContext,
    Params(params): Params<UsageParams>,
) -> Result<Json<UsageList>, ApiError> {
    let mut connection = state.store.acquire().await?;
    let filter = filter(&mut connection, &ctx, &params).await?;
    let text = cursor::fingerprint([
        ("tenant", filter.tenant.map(|tenant| tenant.to_string())),
        ("cluster", filter.cluster.as_ref().map(ToString::to_string)),
        ("from", filter.from.map(|from| from.to_string())),
        ("to", filter.to.map(|to| to.to_string())),
    ]);
    let page = cursor::page(LIST, &text, params.cursor.as_deref(), params.limit, ledger::is_key)?;
    let mut rows = ledger::list(&mut connection, &filter, &page).await?;
    let more = page.cut(&mut rows);
    let next_cursor = rows.last().filter(|_| more).map(|row| cursor::after(LIST, &text, &row.key()));
    let sums = ledger::sums(&mut connection, &filter).await?;
    let as_of = ledger::complete_until(&mut connection, &filter).await?;
    Ok(Json(UsageList {
        items: rows.iter().map(row).collect(),
        next_cursor,
        totals: quantities(&sums.quantities),
        rows: sums.rows.to_string(),
        rows_with_gaps: sums.rows_with_gaps.to_string(),
        as_of,
    }))
}

async fn filter(connection: &mut Connection, ctx: &RequestContext, params: &UsageParams) -> Result<Filter, ApiError> {
    let mut filter = Filter {
        tenant: ctx.scope.tenant(),
        cluster: None,
        from: time("from", params.from.as_deref())?,
        to: time("to", params.to.as_deref())?,
    };
    if let (Some(from), Some(to)) = (filter.from, filter.to)
        && from > to
    {
        return Err(Refusal::new(Reason::QueryInvalid, format!("from is {from}, which is after to, {to}")).into());
    }
    if let Some(named) = &params.tenant {
        filter.tenant = Some(tenants::find(connection, ctx, named).await?.id);
    }
    if let Some(named) = params.cluster.as_deref().map(ClusterRef::parse) {
        let cluster = found(clusters::find(connection, &named).await?, &named)?;
        // To a caller that is limited to a tenant, only clusters exist on which that tenant is or was.
        if let Some(own) = ctx.scope.tenant() {
            let known = placements::ever_on(connection, &cluster.id, &[own]).await?;
            found((!known.is_empty()).then(|| cluster.clone()), &named)?;
        }
        filter.cluster = Some(cluster.id);
    }
    Ok(filter)
}

/// The first instant of the year 0000, the earliest that RFC 3339 can write, in Unix seconds.
const YEAR_ZERO: i64 = -62_167_219_200;

fn time(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Refusal> {
    text.map(|text| {
        // jiff also reads years before 0000, of which Postgres keeps none before 4713 BC.
        text.parse::<Timestamp>().ok().filter(|time| time.as_second() >= YEAR_ZERO).ok_or_else(|| {
            Refusal::new(
                Reason::QueryInvalid,
                format!("{name} is {text:?}, which is not an RFC 3339 time such as 2026-01-31T00:00:00Z"),
            )
        })
    })
    .transpose()
}

fn row(row: &Row) -> UsageRow {
    let window_start = Timestamp::from_second(row.window.start).unwrap_or(Timestamp::MAX);
    UsageRow {
        id: row.key(),
        tenant_id: row.tenant.to_string(),
        tenant_name: row.tenant_name.clone(),
        cluster_id: row.cluster.to_string(),
        cluster_name: row.cluster_name.clone(),
        window_start,
        window_end: window_start
            .saturating_add(SignedDuration::from_secs(row.window.seconds.into()))
            .unwrap_or(Timestamp::MAX),
        revision: u32::try_from(row.revision).unwrap_or_default(),
        quantities: quantities(&row.quantities),
        coverage_ms: row.coverage_ms.to_string(),
        quality: row.quality.clone(),
        gaps: row.gaps.clone(),
        received_at: row.received_at,
    }
}

fn quantities(values: &Quantities) -> UsageQuantities {
    let text = |meter: Meter| values[meter as usize].to_string();
    UsageQuantities {
        cpu_request_millicore_ms: text(Meter::CpuRequests),
        memory_request_byte_ms: text(Meter::MemoryRequests),
        pod_count_ms: text(Meter::Pods),
        namespace_count_ms: text(Meter::Namespaces),
        application_count_ms: text(Meter::Applications),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{TestApi, Token};
    use kubenova_core::{access::Role, cluster::ClusterId, refusal::Reason, tenant::TenantId};
    use kubenova_runtime::clock;
    use kubenova_schema::{meters::Meter, window::Window};
    use kubenova_store::{
        ledger::{self, NewRow, WindowRows},
        windows::{self, Arrival, NewWindow},
    };
    use serde_json::{Value, json};

    #[tokio::test]
    async fn without_windows_the_sums_are_zero_and_there_is_no_as_of() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        api.cluster(&admin, "dc1-a").await;
        let acme = api.tenant(&admin, "acme", &["dc1-a"]).await;
        let query = "?tenant=acme&cluster=dc1-a&from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z&limit=500";
        let billing = api.caller(Role::Billing, Some(acme)).await;
        for caller in [&admin, &billing] {
            let list = api.get(&format!("/api/v1/usage{query}")).send(caller).await.ok(200);
            assert_eq!((&list["items"], &list["rows"], &list["asOf"]), (&json!([]), &json!("0"), &Value::Null));
            assert_eq!(list["totals"]["podCountMs"], "0");
        }
    }

    /// An hour of a cluster with what its tenants used, as ingest adds it.
    async fn add(api: &TestApi, cluster: &ClusterId, hour: i64, quality: &[String], used: &[(TenantId, i128)]) {
        let window = Window { start: hour * 3600, seconds: 3600 };
        let gaps = json!([]);
        let sealed = NewWindow {
            cluster: cluster.clone(),
            window,
            revision: 0,
            manifest_sha256: hour.to_string().repeat(64),
            previous_manifest_sha256: String::new(),
            manifest: Vec::new(),
            manifest_signature: String::new(),
            record_count: i32::try_from(used.len()).unwrap(),
            coverage_ms: 3_600_000,
            gaps: gaps.clone(),
            clock_offset_ms: 0,
            incarnation: "1".to_owned(),
            sealed_at: String::new(),
        };
        let of = WindowRows {
            cluster,
            window,
            revision: 0,
            quality,
            coverage_ms: sealed.coverage_ms,
            gaps: &gaps,
            incarnation: "1",
            received_at: clock::now(),
        };
        let row = |(tenant, amount): &(TenantId, i128)| NewRow {
            tenant: *tenant,
            tenant_name: "then".to_owned(),
            quantities: [*amount; Meter::ALL.len()],
            payload_sha256: "0".repeat(64),
        };
        let rows: Vec<NewRow> = used.iter().map(row).collect();
        let add = api.state.store.transaction("test", async |tx| {
            assert_eq!(windows::insert(tx, &sealed, clock::now()).await?, Arrival::New);
            ledger::insert(tx, &of, &rows).await
        });
        add.await.unwrap();
    }

    /// More than a JSON number can hold exactly.
    const LARGE: i128 = (1 << 53) + 1;

    /// `acme` on two clusters and `other` on one of them; the second cluster has reported an hour less.
    async fn used() -> (TestApi, Token, TenantId) {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let (a, b) = (api.cluster(&admin, "dc1-a").await, api.cluster(&admin, "dc1-b").await);
        let acme = api.tenant(&admin, "acme", &["dc1-a", "dc1-b"]).await;
        let other = api.tenant(&admin, "other", &["dc1-a"]).await;
        add(&api, &a, 0, &[], &[(acme, LARGE), (other, 7)]).await;
        add(&api, &a, 1, &["gap".to_owned()], &[(acme, 1)]).await;
        add(&api, &b, 0, &[], &[(acme, 5)]).await;
        (api, admin, acme)
    }

    #[tokio::test]
    async fn sums_are_exact_over_what_each_filter_selects() {
        let (api, admin, acme) = used().await;
        let owner = api.caller(Role::TenantOwner, Some(acme)).await;
        let (one, two) = ("1970-01-01T01:00:00Z", "1970-01-01T02:00:00Z");
        for (caller, query, rows, sum, with_gaps, as_of) in [
            (&admin, String::new(), "4", LARGE + 13, "1", one),
            (&admin, "?tenant=acme".to_owned(), "3", LARGE + 6, "1", one),
            (&owner, String::new(), "3", LARGE + 6, "1", one),
            (&admin, "?tenant=other".to_owned(), "1", 7, "0", two),
            (&admin, "?cluster=dc1-a".to_owned(), "3", LARGE + 8, "1", two),
            (&admin, format!("?tenant={acme}&cluster=dc1-b"), "1", 5, "0", one),
            (&admin, format!("?from={one}"), "1", 1, "1", one),
            (&admin, "?from=0000-01-01T00:00:00Z".to_owned(), "4", LARGE + 13, "1", one),
            (&admin, "?to=0000-01-01T00:00:00Z".to_owned(), "0", 0, "0", one),
            (&admin, format!("?to={one}"), "3", LARGE + 12, "0", one),
            (&admin, format!("?from={one}&to={one}"), "0", 0, "0", one),
        ] {
            let list = api.get(&format!("/api/v1/usage{query}")).send(caller).await.ok(200);
            assert_eq!((&list["rows"], &list["rowsWithGaps"]), (&json!(rows), &json!(with_gaps)), "{query}");
            assert_eq!(list["items"].as_array().unwrap().len().to_string(), rows, "{query}");
            for meter in list["totals"].as_object().unwrap().values() {
                assert_eq!(*meter, sum.to_string(), "{query}");
            }
            assert_eq!(list["asOf"], as_of, "{query}: the end of the newest hour of the slowest cluster");
        }
    }

    #[tokio::test]
    async fn pages_hold_every_row_once_with_the_same_sums() {
        let (api, admin, _) = used().await;
        let whole = api.get("/api/v1/usage").send(&admin).await.ok(200);
        let (mut seen, mut path) = (Vec::new(), "/api/v1/usage?limit=1".to_owned());
        loop {
            let page = api.get(&path).send(&admin).await.ok(200);
            assert_eq!(page["totals"], whole["totals"]);
            seen.extend(page["items"].as_array().unwrap().iter().cloned());
            let Some(cursor) = page["nextCursor"].as_str() else { break };
            path = format!("/api/v1/usage?limit=1&cursor={cursor}");
        }
        assert_eq!(json!(seen), whole["items"]);
        let newest = &seen[3];
        assert_eq!((&newest["clusterName"], &newest["tenantName"]), (&json!("dc1-a"), &json!("then")));
        assert_eq!(
            (&newest["windowStart"], &newest["windowEnd"]),
            (&json!("1970-01-01T01:00:00Z"), &json!("1970-01-01T02:00:00Z"))
        );
        assert_eq!((&newest["quality"], &newest["coverageMs"]), (&json!(["gap"]), &json!("3600000")));
    }

    #[tokio::test]
    async fn bad_filters_are_refused() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        api.cluster(&admin, "dc1-a").await;
        let acme = api.tenant(&admin, "acme", &[]).await;
        let owner = api.caller(Role::TenantOwner, Some(acme)).await;
        let list = |query: &str| api.get(&format!("/api/v1/usage?{query}")).send(&admin);
        for query in
            ["from=yesterday", "from=", "from=-009999-01-01T00:00:00Z", "to=2026-13-01T00:00:00Z", "limit=0", "day=1"]
        {
            list(query).await.refused(Reason::QueryInvalid);
        }
        let swapped = list("from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z").await.refused(Reason::QueryInvalid);
        assert!(swapped["detail"].as_str().unwrap().contains("after to"), "{swapped}");
        list("tenant=none").await.refused(Reason::TenantNotFound);
        list("cluster=none").await.refused(Reason::ClusterNotFound);
        list("cursor=AAAA").await.refused(Reason::CursorInvalid);
        let foreign = api.get("/api/v1/usage?cluster=dc1-a").send(&owner).await;
        foreign.refused(Reason::ClusterNotFound);
    }
}
