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
    let page = cursor::page(LIST, &text, params.cursor.as_deref(), params.limit)?;
    if page.after.as_deref().is_some_and(|after| !ledger::is_key(after)) {
        return Err(
            Refusal::new(Reason::CursorInvalid, "the cursor is not one that this list returned as nextCursor").into()
        );
    }
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

fn time(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Refusal> {
    text.map(|text| {
        text.parse().map_err(|_| {
            Refusal::new(
                Reason::QueryInvalid,
                format!("{name} is {text:?}, which is not a time such as 2026-01-31T00:00:00Z"),
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
    use crate::testing::TestApi;
    use kubenova_core::{access::Role, refusal::Reason};
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

    #[tokio::test]
    async fn bad_filters_are_refused() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        api.cluster(&admin, "dc1-a").await;
        let acme = api.tenant(&admin, "acme", &[]).await;
        let owner = api.caller(Role::TenantOwner, Some(acme)).await;
        let list = |query: &str| api.get(&format!("/api/v1/usage?{query}")).send(&admin);
        for query in ["from=yesterday", "from=", "to=2026-13-01T00:00:00Z", "limit=0", "day=1"] {
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
