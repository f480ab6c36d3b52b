//! The outbox of billing events: written with their ledger rows, published by `manager/src/billing`.

use crate::error::{StoreError, failed, one_row};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{cluster::ClusterId, tenant::TenantId};
use sqlx::PgConnection;
use uuid::Uuid;

/// A new event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// The ledger key in text.
    pub event_id: String,
    /// The tenant.
    pub tenant: TenantId,
    /// `usage`, `gap`, `correction` or `period`.
    pub kind: &'static str,
    /// The exact CloudEvent.
    pub body: String,
}

/// Adds events; an event that exists stays as it is.
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

/// An event to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Order of writing.
    pub sequence: i64,
    /// The ledger key in text.
    pub event_id: String,
    /// The tenant.
    pub tenant_id: String,
    /// The cluster.
    pub cluster_id: String,
    /// `usage`, `gap`, `correction` or `period`.
    pub kind: String,
    /// The exact CloudEvent.
    pub body: String,
}

/// The oldest events that were not published yet.
pub async fn unpublished(connection: &mut PgConnection, limit: i64) -> Result<Vec<Event>, StoreError> {
    sqlx::query_as!(
        Event,
        r#"select sequence, event_id, tenant_id::text as "tenant_id!", cluster_id, kind, body
           from billing_outbox where published_at is null and refused_reason = '' order by sequence limit $1"#,
        limit,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find billing events to publish"))
}

/// Sets an event aside that can never be published, so that it holds up none behind it.
pub async fn set_aside(connection: &mut PgConnection, sequence: i64, reason: &str) -> Result<(), StoreError> {
    let done = sqlx::query!("update billing_outbox set refused_reason = $2 where sequence = $1", sequence, reason)
        .execute(connection)
        .await
        .map_err(failed("set a billing event aside"))?;
    one_row(done.rows_affected(), "billing_outbox", &sequence)
}

/// Marks events that the broker has stored. Fails when one of them is missing: it was published and nothing is left of it
/// here. The others are marked all the same.
pub async fn mark_published(
    connection: &mut PgConnection,
    sequences: &[i64],
    now: Timestamp,
) -> Result<(), StoreError> {
    let updated = sqlx::query_scalar!(
        "update billing_outbox set published_at = $2 where sequence = any($1) returning sequence",
        sequences,
        now.to_sqlx()
    )
    .fetch_all(connection)
    .await
    .map_err(failed("mark billing events as published"))?;
    match sequences.iter().find(|sequence| !updated.contains(sequence)) {
        Some(missing) => Err(StoreError::Missing { table: "billing_outbox", id: missing.to_string() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, at, tenant};

    fn event(id: &str, body: &str) -> NewEvent {
        NewEvent { event_id: id.into(), tenant: tenant(1).id, kind: "usage", body: body.into() }
    }

    #[tokio::test]
    async fn events_are_published_in_the_order_they_were_written_and_each_id_once() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        insert(&mut connection, &cluster, &[event("b", "1"), event("a", "2")], at(0)).await.unwrap();
        insert(&mut connection, &cluster, &[event("b", "other"), event("c", "3")], at(1)).await.unwrap();
        let waiting = unpublished(&mut connection, 10).await.unwrap();
        let texts =
            |events: &[Event]| events.iter().map(|one| format!("{}{}", one.event_id, one.body)).collect::<Vec<_>>();
        assert_eq!(texts(&waiting), ["b1", "a2", "c3"]);
        assert_eq!(texts(&unpublished(&mut connection, 1).await.unwrap()), ["b1"]);
        mark_published(&mut connection, &[waiting[0].sequence, waiting[2].sequence], at(2)).await.unwrap();
        assert_eq!(texts(&unpublished(&mut connection, 10).await.unwrap()), ["a2"]);
    }

    #[tokio::test]
    async fn an_event_that_is_set_aside_holds_up_none_behind_it() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        insert(&mut connection, &cluster, &[event("a", "1"), event("b", "2")], at(0)).await.unwrap();
        let first = unpublished(&mut connection, 1).await.unwrap().remove(0);
        set_aside(&mut connection, first.sequence, "too large").await.unwrap();
        assert_eq!(unpublished(&mut connection, 10).await.unwrap()[0].event_id, "b");
        let missing = set_aside(&mut connection, first.sequence + 9, "too large").await;
        assert!(matches!(missing, Err(StoreError::Missing { table: "billing_outbox", .. })), "{missing:?}");
    }

    #[tokio::test]
    async fn a_published_event_that_is_missing_is_an_error_and_the_others_are_marked() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        insert(&mut connection, &cluster, &[event("a", "1")], at(0)).await.unwrap();
        let present = unpublished(&mut connection, 1).await.unwrap()[0].sequence;
        let outcome = mark_published(&mut connection, &[present, present + 1], at(1)).await;
        let missing = (present + 1).to_string();
        assert!(
            matches!(&outcome, Err(StoreError::Missing { table: "billing_outbox", id }) if *id == missing),
            "{outcome:?}"
        );
        assert_eq!(unpublished(&mut connection, 1).await.unwrap(), []);
    }
}
