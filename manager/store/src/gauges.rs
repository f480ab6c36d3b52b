//! What the Manager's metrics say about the database: how much waits, and for how long.
//!
//! Every statement reads a partial index or a bounded table, so that reading them each quarter of a minute costs nothing.

use crate::error::{RowRef, StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::command::CommandState;
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// What waits, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Commands that did not end, by state.
    pub open_commands: BTreeMap<CommandState, i64>,
    /// When the oldest command that was not sent was queued.
    pub oldest_queued: Option<Timestamp>,
    /// Billing events that were not published.
    pub billing_outbox: i64,
    /// When the oldest of them was written.
    pub oldest_billing: Option<Timestamp>,
    /// Sessions with a fresh heartbeat.
    pub sessions_open: i64,
    /// Dead letters of all clusters.
    pub dead_letters: i64,
}

/// Reads them. A session is open when its last heartbeat came after `heartbeat_since`.
pub async fn read(connection: &mut PgConnection, heartbeat_since: Timestamp) -> Result<Stored, StoreError> {
    let states = sqlx::query!(
        r#"select state, count(*) as "count!", min(queued_at) as oldest from commands
           where state in ('queued', 'sent', 'acknowledged', 'running') group by state"#,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("count open commands"))?;
    let others = sqlx::query!(
        r#"select (select count(*) from billing_outbox where published_at is null) as "billing!",
                  (select min(created_at) from billing_outbox where published_at is null) as oldest_billing,
                  (select count(*) from sessions where last_heartbeat_at >= $1 and refused_reason = '') as "sessions!",
                  (select count(*) from dead_letters) as "dead_letters!""#,
        heartbeat_since.to_sqlx(),
    )
    .fetch_one(connection)
    .await
    .map_err(failed("count what waits"))?;
    let mut open_commands = BTreeMap::new();
    let mut oldest_queued = None;
    for row in states {
        let state = RowRef { table: "commands", id: &row.state }.parse("state", &row.state, CommandState::parse)?;
        open_commands.insert(state, row.count);
        if state == CommandState::Queued {
            oldest_queued = row.oldest.map(jiff_sqlx::Timestamp::to_jiff);
        }
    }
    Ok(Stored {
        open_commands,
        oldest_queued,
        billing_outbox: others.billing,
        oldest_billing: others.oldest_billing.map(jiff_sqlx::Timestamp::to_jiff),
        sessions_open: others.sessions,
        dead_letters: others.dead_letters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;
    use kubenova_core::change::Change;

    #[tokio::test]
    async fn open_commands_are_counted_by_state_with_the_age_of_the_oldest() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(2).await, fixture.tenant().await);
        let mut connection = fixture.store.acquire().await.unwrap();
        let queued = |stored: &Stored| stored.open_commands.get(&CommandState::Queued).copied().unwrap_or_default();
        let before = queued(&read(&mut connection, Timestamp::UNIX_EPOCH).await.unwrap());
        fixture.enqueue(&clusters, &Change::Tenant(tenant)).await;
        let stored = read(&mut connection, Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!(queued(&stored), before + 2);
        assert!(stored.oldest_queued.is_some());
        assert_eq!((stored.sessions_open, stored.dead_letters, stored.billing_outbox), (0, 0, 0));
    }
}
