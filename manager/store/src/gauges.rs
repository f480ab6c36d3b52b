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
    /// Those of them for clusters that are not in session.
    pub open_without_session: i64,
    /// Operations that were sent and whose cluster has not said by their deadline how they ended.
    pub overdue: i64,
    /// Deletes of tenants that wait for a person's confirmation.
    pub unconfirmed_deletes: i64,
    /// When the oldest command that was not sent was queued.
    pub oldest_queued: Option<Timestamp>,
    /// Billing events that were not published.
    pub billing_outbox: i64,
    /// When the oldest of them was written.
    pub oldest_billing: Option<Timestamp>,
    /// Billing events that can never be published.
    pub billing_set_aside: i64,
    /// Sessions with a fresh heartbeat.
    pub sessions_open: i64,
    /// Windows in the ledger that came after the newest list of receipts of their cluster.
    pub windows_unreceipted: i64,
    /// Dead letters of all clusters.
    pub dead_letters: i64,
    /// Usage records of tenants that are not known on their clusters.
    pub unclaimed_usage: i64,
    /// Clusters that hold commands which this database lost.
    pub diverged_clusters: i64,
    /// Installations that wait for an administrator's approval with a token that has not expired.
    pub enrollments_waiting: i64,
    /// Clusters of which a token was shown by a second installation, and that did not enroll with another one since.
    pub tokens_used_twice: i64,
}

/// Reads them. A session is open when its last heartbeat came after `heartbeat_since`.
pub async fn read(
    connection: &mut PgConnection,
    heartbeat_since: Timestamp,
    now: Timestamp,
) -> Result<Stored, StoreError> {
    let states = sqlx::query!(
        r#"select state, count(*) as "count!", min(queued_at) as oldest from commands
           where state in ('queued', 'sent', 'acknowledged', 'running') group by state"#,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("count open commands"))?;
    let others = sqlx::query!(
        r#"select (select count(*) from billing_outbox where published_at is null and refused_reason = '') as "billing!",
                  (select min(created_at) from billing_outbox where published_at is null and refused_reason = '') as oldest_billing,
                  (select count(*) from billing_outbox where refused_reason <> '') as "set_aside!",
                  (select count(*) from confirmed_sessions where last_heartbeat_at >= $1) as "sessions!",
                  (select count(*) from commands k
                    where k.state in ('queued', 'sent', 'acknowledged', 'running')
                      and not exists (select from confirmed_sessions s where s.cluster_id = k.cluster_id
                                         and s.last_heartbeat_at >= $1)) as "sessionless!",
                  (select count(*) from commands k
                    where k.state in ('sent', 'acknowledged', 'running') and k.not_after < $2) as "overdue!",
                  (select count(*) from commands k
                    where k.state in ('queued', 'sent') and k.waiting_for = 'DeletionConfirmation') as "unconfirmed!",
                  (select count(*) from clusters c left join receipts r on r.cluster_id = c.id
                     join usage_windows w on w.cluster_id = c.id and w.revision = 0
                          and w.received_at > coalesce(r.issued_at, '-infinity')) as "unreceipted!",
                  (select count(*) from dead_letters) as "dead_letters!",
                  (select count(*) from unclaimed_usage) as "unclaimed!",
                  (select count(*) from divergences) as "diverged!",
                  (select count(*) from enrollment_approvals a join enrollments e on e.id = a.enrollment_id
                    where a.verdict is null and e.used_at is null and e.revoked_at is null and e.expires_at > $2) as "waiting!",
                  (select count(distinct cluster_id) from unsettled_second_uses) as "used_twice!""#,
        heartbeat_since.to_sqlx(),
        now.to_sqlx(),
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
        open_without_session: others.sessionless,
        overdue: others.overdue,
        unconfirmed_deletes: others.unconfirmed,
        oldest_queued,
        billing_outbox: others.billing,
        billing_set_aside: others.set_aside,
        oldest_billing: others.oldest_billing.map(jiff_sqlx::Timestamp::to_jiff),
        sessions_open: others.sessions,
        windows_unreceipted: others.unreceipted,
        dead_letters: others.dead_letters,
        unclaimed_usage: others.unclaimed,
        diverged_clusters: others.diverged,
        enrollments_waiting: others.waiting,
        tokens_used_twice: others.used_twice,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{Fixture, at, window},
        receipts, windows,
    };
    use kubenova_core::change::Change;

    #[tokio::test]
    async fn open_commands_are_counted_by_state_with_the_age_of_the_oldest() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(2).await, fixture.tenant().await);
        let mut connection = fixture.store.acquire().await.unwrap();
        let queued = |stored: &Stored| stored.open_commands.get(&CommandState::Queued).copied().unwrap_or_default();
        let before = queued(&read(&mut connection, Timestamp::UNIX_EPOCH, at(0)).await.unwrap());
        fixture.enqueue(&clusters, &Change::Tenant(tenant)).await;
        let stored = read(&mut connection, Timestamp::UNIX_EPOCH, at(0)).await.unwrap();
        assert_eq!(queued(&stored), before + 2);
        assert!(stored.oldest_queued.is_some());
        assert_eq!((stored.sessions_open, stored.dead_letters, stored.billing_outbox), (0, 0, 0));
    }
    #[tokio::test]
    async fn a_command_counts_as_sessionless_until_its_cluster_is_in_session() {
        let fixture = Fixture::new().await;
        let (cluster, tenant) = (fixture.connected_cluster().await, fixture.tenant().await);
        fixture.enqueue(std::slice::from_ref(&cluster), &Change::Tenant(tenant)).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for (heartbeat_since, expected) in [(at(0), 0), (at(1), 1)] {
            let stored = read(&mut connection, heartbeat_since, at(0)).await.unwrap();
            assert_eq!(stored.open_without_session, expected, "heartbeats since {heartbeat_since}");
        }
    }

    #[tokio::test]
    async fn a_window_counts_as_unreceipted_until_a_list_of_receipts_is_made_after_it() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for (cluster, start, received) in [(0, 0, 1), (0, 3600, 3), (1, 0, 3)] {
            windows::insert(&mut connection, &window(&clusters[cluster], start, 'a'), at(received)).await.unwrap();
        }
        let unreceipted =
            async |connection: &mut PgConnection| read(connection, at(0), at(0)).await.unwrap().windows_unreceipted;
        assert_eq!(unreceipted(&mut connection).await, 3);
        receipts::issue(&mut connection, &clusters[0], at(2)).await.unwrap();
        assert_eq!(unreceipted(&mut connection).await, 2, "the list of cluster 1 holds its first window only");
        receipts::issue(&mut connection, &clusters[1], at(4)).await.unwrap();
        assert_eq!(unreceipted(&mut connection).await, 1);
    }
}
