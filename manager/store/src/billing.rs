//! The outbox of billing events: written with their ledger rows, published by `manager/src/billing`.

use crate::error::{StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{cluster::ClusterId, tenant::TenantId};
use sqlx::PgConnection;
use uuid::Uuid;

/// An event to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// The ledger key in text.
    pub event_id: String,
    /// Whose.
    pub tenant: TenantId,
    /// `usage`, `gap`, `correction` or `period`.
    pub kind: &'static str,
    /// The exact CloudEvent.
    pub body: String,
}

/// Adds events; one that is there already stays as it is.
///
/// # Errors
/// When Postgres does not answer.
pub async fn insert(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    events: &[NewEvent],
    now: Timestamp,
) -> Result<(), StoreError> {
    let ids: Vec<String> = events.iter().map(|event| event.event_id.clone()).collect();
    let tenants: Vec<Uuid> = events.iter().map(|event| event.tenant.0).collect();
    let kinds: Vec<String> = events.iter().map(|event| event.kind.to_owned()).collect();
    let bodies: Vec<String> = events.iter().map(|event| event.body.clone()).collect();
    sqlx::query!(
        "insert into billing_outbox (event_id, tenant_id, cluster_id, kind, body, created_at)
         select e.event_id, e.tenant_id, $1, e.kind, e.body, $2
         from unnest($3::text[], $4::uuid[], $5::text[], $6::text[]) with ordinality as e (event_id, tenant_id, kind, body, place)
         order by e.place
         on conflict (event_id) do nothing",
        cluster.as_str(),
        now.to_sqlx(),
        &ids,
        &tenants,
        &kinds,
        &bodies,
    )
    .execute(connection)
    .await
    .map_err(failed("add billing events"))?;
    Ok(())
}

/// An event that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Order of writing.
    pub sequence: i64,
    /// The ledger key in text.
    pub event_id: String,
    /// Whose.
    pub tenant_id: String,
    /// From where.
    pub cluster_id: String,
    /// `usage`, `gap`, `correction` or `period`.
    pub kind: String,
    /// The exact CloudEvent.
    pub body: String,
}

/// The oldest events that wait.
///
/// # Errors
/// When Postgres does not answer.
pub async fn waiting(connection: &mut PgConnection, limit: i64) -> Result<Vec<Event>, StoreError> {
    sqlx::query_as!(
        Event,
        r#"select sequence, event_id, tenant_id::text as "tenant_id!", cluster_id, kind, body
           from billing_outbox where published_at is null order by sequence limit $1"#,
        limit,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find billing events to publish"))
}

/// Notes that the broker has stored these events.
///
/// # Errors
/// When Postgres does not answer.
pub async fn published(connection: &mut PgConnection, sequences: &[i64], now: Timestamp) -> Result<(), StoreError> {
    sqlx::query!("update billing_outbox set published_at = $2 where sequence = any($1)", sequences, now.to_sqlx())
        .execute(connection)
        .await
        .map_err(failed("note published billing events"))?;
    Ok(())
}
