//! Billing events from the outbox to KN_BILL, each confirmed by the broker before it is marked.
//!
//! At least once: an event's id is its ledger key and never changes, the broker drops a repeated `Nats-Msg-Id` within
//! two minutes, and subscribers add up by id. The notification only makes it sooner; the poll is the truth.

pub mod event;

use async_nats::jetstream;
use kubenova_bus::{publish, streams as made};
use kubenova_runtime::{clock, failpoint, shutdown::Shutdown, telemetry};
use kubenova_schema::{signature::SCHEMA_HEADER, streams, subjects};
use kubenova_store::{billing, error::StoreError, pool::Store};
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;

/// Events published between two marks: a crash repeats at most so many.
const BATCH: i64 = 256;
/// Time between looks without a notification.
const POLL: Duration = Duration::from_secs(1);
/// Pause after the broker did not confirm.
const RETRY: Duration = Duration::from_secs(2);

/// Publishes until a stop is asked for.
pub async fn run(store: Store, jetstream: jetstream::Context, wake: Arc<Notify>, shutdown: Shutdown) {
    while !shutdown.is_requested() {
        let wait = match relay(&store, &jetstream).await {
            Ok(Relayed::More) => continue,
            Ok(Relayed::All) => POLL,
            Ok(Relayed::Unconfirmed) => RETRY,
            Err(error) => {
                tracing::warn!(error = %telemetry::chain(&error), "could not relay billing events; trying again");
                RETRY
            }
        };
        tokio::select! {
            () = shutdown.requested() => return,
            () = wake.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// How far a batch got.
enum Relayed {
    /// Others wait.
    More,
    /// None waits.
    All,
    /// The broker did not confirm one.
    Unconfirmed,
}

async fn relay(store: &Store, jetstream: &jetstream::Context) -> Result<Relayed, StoreError> {
    let mut connection = store.acquire().await?;
    let events = billing::unpublished(&mut connection, BATCH).await?;
    drop(connection);
    let mut confirmed = Vec::new();
    let mut all = true;
    for event in &events {
        let subject = subjects::bill(&event.tenant_id, &event.cluster_id, &event.kind);
        let headers =
            publish::headers(&event.event_id, &[(SCHEMA_HEADER, event::TYPE), ("Content-Type", event::CONTENT_TYPE)]);
        if let Err(error) = publish::publish(jetstream, &subject, headers, event.body.clone()).await {
            tracing::debug!(error = %telemetry::chain(&error), "the broker did not confirm a billing event; trying again");
            if let Err(error) = made::ensure(jetstream, &streams::BILL).await {
                tracing::debug!(error = %telemetry::chain(&error), "could not ensure the stream of billing events");
            }
            all = false;
            break;
        }
        failpoint::passing("billing.published");
        confirmed.push(event.sequence);
    }
    if !confirmed.is_empty() {
        let mut connection = store.acquire().await?;
        billing::mark_published(&mut connection, &confirmed, clock::now()).await?;
    }
    Ok(match (all, i64::try_from(events.len()).unwrap_or(i64::MAX) < BATCH) {
        (false, _) => Relayed::Unconfirmed,
        (true, true) => Relayed::All,
        (true, false) => Relayed::More,
    })
}
