//! Billing events from the outbox to KN_BILL, each confirmed by the broker before it is marked as published.
//!
//! At least once: an event's id is its ledger key and never changes, the broker drops a repeated `Nats-Msg-Id` within
//! two minutes, and subscribers add up by id. An event that no broker accepts is set aside, with an error in the log. A signal only makes a round sooner; the poll finds everything.

pub mod event;

use async_nats::jetstream;
use kubenova_bus::{BusError, publish, streams as broker};
use kubenova_runtime::{
    clock, failpoint,
    periodic::{Next, Periodic},
    shutdown::Shutdown,
    telemetry,
};
use kubenova_schema::{signature::SCHEMA_HEADER, streams, subjects};
use kubenova_store::{
    billing::{self, Event},
    error::StoreError,
    pool::Store,
};
use prometheus_client::metrics::counter::Counter;
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;

/// Events published between two marks: a crash repeats at most so many.
const BATCH: i64 = 256;
/// Time between two rounds without a signal.
const POLL: Duration = Duration::from_secs(1);

/// What publishing needs.
#[derive(Debug)]
pub struct Billing {
    /// Postgres.
    pub store: Store,
    /// The broker.
    pub jetstream: jetstream::Context,
    /// Signaled when events were written.
    pub wake: Arc<Notify>,
    /// Counts confirmed events.
    pub published: Counter,
}

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum BillingError {
    #[error("could not read or mark billing events")]
    Store(#[from] StoreError),
    #[error("the broker did not confirm a billing event")]
    Bus(#[from] BusError),
}

/// Publishes until a stop is requested.
pub async fn run(billing: Billing, shutdown: Shutdown) {
    Periodic::new("publish billing events", POLL)
        .on_signal(Arc::clone(&billing.wake))
        .run(&shutdown, || round(&billing))
        .await;
}

/// Publishes one batch and marks what the broker confirmed, also when it stops confirming on the way.
async fn round(billing: &Billing) -> Result<Next, BillingError> {
    let events = billing::unpublished(&mut *billing.store.acquire().await?, BATCH).await?;
    let mut confirmed = Vec::new();
    let mut failed = None;
    for event in &events {
        if event.body.len() > streams::MESSAGE_BYTES_MAX {
            set_aside(billing, event).await?;
            continue;
        }
        match publish(&billing.jetstream, event).await {
            Ok(()) => {
                failpoint::passing("billing.published");
                confirmed.push(event.sequence);
            }
            Err(error) if error.is_too_large() => set_aside(billing, event).await?,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    if !confirmed.is_empty() {
        billing::mark_published(&mut *billing.store.acquire().await?, &confirmed, clock::now()).await?;
        billing.published.inc_by(u64::try_from(confirmed.len()).unwrap_or_default());
    }
    match failed {
        Some(error) => {
            // The stream may have been deleted. If it cannot be created either, the next round says so.
            if let Err(error) = broker::ensure(&billing.jetstream, &streams::BILL).await {
                tracing::debug!(error = %telemetry::chain(&error), "could not create the stream of billing events");
            }
            Err(error.into())
        }
        None if i64::try_from(events.len()).unwrap_or(i64::MAX) < BATCH => Ok(Next::Wait),
        None => Ok(Next::AtOnce),
    }
}

/// An event that no broker accepts must not hold up those behind it.
async fn set_aside(billing: &Billing, event: &Event) -> Result<(), StoreError> {
    let reason = format!("the event has {} bytes, more than the broker accepts", event.body.len());
    tracing::error!(event.id = event.event_id, reason, "set a billing event aside that can never be published");
    billing::set_aside(&mut *billing.store.acquire().await?, event.sequence, &reason).await
}

async fn publish(jetstream: &jetstream::Context, event: &Event) -> Result<(), BusError> {
    let subject = subjects::bill(&event.tenant_id, &event.cluster_id, &event.kind);
    let headers =
        publish::headers(&event.event_id, &[(SCHEMA_HEADER, event::TYPE), ("Content-Type", event::CONTENT_TYPE)]);
    publish::publish(jetstream, &subject, headers, event.body.clone()).await?;
    Ok(())
}
