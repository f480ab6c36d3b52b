//! Reads on a timer what only Postgres knows: depth and age of the outboxes, sessions, receipts, dead letters.

use super::{OPEN, StateLabels, StoredGauges};
use jiff::{SignedDuration, Timestamp};
use kubenova_runtime::{
    clock,
    periodic::{Next, Periodic},
    shutdown::Shutdown,
};
use kubenova_store::{
    error::StoreError,
    gauges::{self, Stored},
    pool::Store,
    sessions,
};
use std::time::Duration;

/// Time between two reads: as often as Prometheus scrapes by default.
const EVERY: Duration = Duration::from_secs(15);
/// Difference of the two clocks that is worth a warning: NTP keeps them within milliseconds.
const CLOCK_OFFSET_MAX: SignedDuration = SignedDuration::from_secs(5);
/// Longest time for a round: a Postgres that is gone without a word must not be waited for.
const ROUND_MAX: Duration = Duration::from_secs(30);

/// Reads until a stop is requested. A cluster without a heartbeat for `stale_after` is not in session.
pub async fn run(store: Store, gauges: StoredGauges, stale_after: Duration, shutdown: Shutdown) {
    let stale_after = SignedDuration::try_from(stale_after).unwrap_or(SignedDuration::MAX);
    Periodic::new("read the metrics of the database", EVERY)
        .limit(ROUND_MAX)
        .run(&shutdown, || async {
            let (now, database_now, stored) = read(&store, stale_after).await?;
            set(&gauges, &stored, now);
            gauges.clock_offset_seconds.set(now.duration_since(database_now).as_secs_f64());
            if now.duration_since(database_now).abs() > CLOCK_OFFSET_MAX {
                tracing::warn!(
                    now = %now, database_now = %database_now,
                    "the clocks of the Manager and of Postgres differ: deadlines of operations and deletes are checked against both; \
                     synchronize them (NTP)"
                );
            }
            Ok::<_, StoreError>(Next::Wait)
        })
        .await;
}

/// What is stored, and the time by the Manager's clock and by that of Postgres.
async fn read(store: &Store, stale_after: SignedDuration) -> Result<(Timestamp, Timestamp, Stored), StoreError> {
    let mut connection = store.acquire().await?;
    let database_now = sessions::database_time(&mut connection).await?;
    let now = clock::now();
    let heartbeat_since = database_now.checked_sub(stale_after).unwrap_or(Timestamp::MIN);
    Ok((now, database_now, gauges::read(&mut connection, heartbeat_since, now).await?))
}

fn set(gauges: &StoredGauges, stored: &Stored, now: Timestamp) {
    for state in OPEN {
        let count = stored.open_commands.get(&state).copied().unwrap_or_default();
        gauges.commands_open.get_or_create(&StateLabels { state: state.as_str() }).set(count);
    }
    let age =
        |oldest: Option<Timestamp>| oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64().max(0.0));
    gauges.commands_without_session.set(stored.open_without_session);
    gauges.commands_overdue.set(stored.overdue);
    gauges.deletes_unconfirmed.set(stored.unconfirmed_deletes);
    gauges.outbox_oldest_seconds.set(age(stored.oldest_queued));
    gauges.billing_outbox.set(stored.billing_outbox);
    gauges.billing_outbox_oldest_seconds.set(age(stored.oldest_billing));
    gauges.billing_events_set_aside.set(stored.billing_set_aside);
    gauges.sessions_open.set(stored.sessions_open);
    gauges.windows_unreceipted.set(stored.windows_unreceipted);
    gauges.dead_letters.set(stored.dead_letters);
    gauges.unclaimed_usage.set(stored.unclaimed_usage);
    gauges.diverged_clusters.set(stored.diverged_clusters);
    gauges.enrollments_waiting.set(stored.enrollments_waiting);
    gauges.tokens_used_twice.set(stored.tokens_used_twice);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metrics, PREFIX};
    use kubenova_core::command::CommandState;
    use kubenova_runtime::metrics::Registry;

    #[test]
    fn a_state_without_commands_is_zero_and_ages_are_seconds() {
        let mut registry = Registry::new(PREFIX);
        let metrics = Metrics::register(&mut registry);
        let now = Timestamp::from_second(1_000).unwrap();
        let stored = Stored {
            open_commands: [(CommandState::Queued, 3)].into(),
            open_without_session: 2,
            overdue: 6,
            unconfirmed_deletes: 7,
            oldest_queued: Some(Timestamp::from_second(990).unwrap()),
            billing_outbox: 0,
            oldest_billing: None,
            billing_set_aside: 5,
            sessions_open: 2,
            windows_unreceipted: 4,
            dead_letters: 1,
            unclaimed_usage: 2,
            diverged_clusters: 3,
            enrollments_waiting: 4,
            tokens_used_twice: 5,
        };
        set(&metrics.stored, &stored, now);
        let text = registry.encode();
        for line in [
            "commands_open{state=\"queued\"} 3",
            "commands_open{state=\"running\"} 0",
            "commands_without_session 2",
            "commands_overdue 6",
            "tenant_deletes_unconfirmed 7",
            "outbox_oldest_seconds 10.0",
            "billing_outbox_oldest_seconds 0.0",
            "billing_events_set_aside 5",
            "sessions_open 2",
            "usage_windows_unreceipted 4",
            "dead_letters 1",
            "unclaimed_usage_records 2",
            "clusters_diverged 3",
            "enrollments_waiting_for_approval 4",
            "clusters_token_used_twice 5",
        ] {
            assert!(text.contains(&format!("kubenova_manager_{line}\n")), "{line} in {text}");
        }
    }
}
