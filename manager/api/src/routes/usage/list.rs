//! `GET /usage`.

use crate::{
    cursor,
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
    ledger::{self, Filter, Quantities, Row},
    placements,
    pool::Connection,
};

const LIST: &str = "usage";

/// Query of this list.
#[derive(Debug, Clone, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageParams {
    /// Of this tenant, by id or name.
    pub tenant: Option<String>,
    /// On this cluster, by id or name.
    pub cluster: Option<String>,
    /// Windows that begin at or after this time, RFC 3339.
    pub from: Option<String>,
    /// Windows that begin before this time, RFC 3339.
    pub to: Option<String>,
    /// `nextCursor` of the page before, with the same filter.
    pub cursor: Option<String>,
    /// Rows in a page: 50 when absent, at most 500.
    pub limit: Option<u32>,
}

/// List usage by tenant, cluster and window, oldest first, with sums over the whole filter.
#[utoipa::path(get, path = "/api/v1/usage", tag = "usage", operation_id = "listUsage", params(UsageParams),
    responses((status = 200, description = "One page and the sums", body = UsageList)))]
pub async fn list(
    State(state): State<AppState>,
    ctx: RequestContext,
    Params(params): Params<UsageParams>,
) -> Result<Json<UsageList>, ApiError> {
    let mut connection = state.store.read().await?;
    let filter = filter(&mut connection, &ctx, &params).await?;
    let text = format!("{filter:?}").replace('\n', " ");
    let page = cursor::page(LIST, &text, params.cursor.as_deref(), params.limit)?;
    if page.after.as_deref().is_some_and(|after| !ledger::is_key(after)) {
        return Err(Refusal::new(Reason::CursorInvalid, "the cursor was altered").into());
    }
    let mut rows = ledger::list(&mut connection, &filter, &page).await?;
    let more = page.cut(&mut rows);
    let next_cursor = rows.last().filter(|_| more).map(|row| cursor::after(LIST, &text, &row.key()));
    let sums = ledger::sums(&mut connection, &filter).await?;
    let as_of = ledger::reached(&mut connection, &filter).await?;
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
    if let Some(named) = &params.tenant {
        filter.tenant = Some(tenants::find(connection, ctx, named).await?.id);
    }
    if let Some(named) = params.cluster.as_deref().map(ClusterRef::parse) {
        let cluster = found(clusters::find(connection, &named).await?, &named)?;
        // Whoever sees one tenant only learns of clusters on which it is, or was.
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
            Refusal::new(Reason::QueryInvalid, format!("{name} is {text:?}, not a time such as 2026-01-31T00:00:00Z"))
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
