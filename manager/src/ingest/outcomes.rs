//! Outcomes of commands into their rows.
//!
//! Keyed by command id, so repeats change nothing. The reporting cluster is that of the subject, where the broker lets
//! only that cluster publish; a body that names another one becomes a dead letter.

use super::durable::{self, Handled, Ingest, IngestError};
use jiff::Timestamp;
use kubenova_bus::{consume::Delivery, durable::OwnDurable};
use kubenova_core::command::{CommandId, CommandState, Hop, OutcomeReport};
use kubenova_runtime::{clock, failpoint, random, shutdown::Shutdown, telemetry};
use kubenova_schema::{message, streams, subjects, v1::Outcome};
use kubenova_store::{
    error::StoreError,
    outcomes::{self, Recorded, Reported},
    pool::Store,
};
use std::time::Duration;

const OUTCOMES: OwnDurable = OwnDurable {
    stream: streams::STATUS,
    name: "manager-outcomes",
    description: "The Manager's reader of command outcomes",
    filter: subjects::every::OUTCOME,
    ack_wait: Duration::from_secs(30),
};

/// Ingests until a stop is requested. A command that did not end is due again after `report_again_after`.
pub async fn run(ingest: Ingest, report_again_after: Duration, shutdown: Shutdown) {
    let handle = |delivery| handle(&ingest.store, report_again_after, delivery);
    Box::pin(durable::run(&OUTCOMES, &ingest, &shutdown, handle)).await;
}

async fn handle(store: &Store, report_again_after: Duration, delivery: Delivery) -> Result<Handled, IngestError> {
    let now = clock::now();
    let reported = read(&delivery, report_again_after, now)?;
    let recorded = record(store, &reported, now).await?;
    tracing::debug!(
        cluster.id = %reported.cluster_id, command.id = %reported.command_id,
        state = reported.state.map_or("deferred", CommandState::as_str), result = recorded.as_str(),
        "stored an outcome"
    );
    failpoint::passing("ingest.outcome-committed");
    if recorded == Recorded::Unknown {
        let reason = format!("the Manager sent no command {} to cluster {}", reported.command_id, reported.cluster_id);
        return Err(IngestError::Invalid(reason));
    }
    Ok(Handled::Committed)
}

async fn record(store: &Store, reported: &Reported, now: Timestamp) -> Result<Recorded, StoreError> {
    store.transaction("record an outcome", async |tx| outcomes::record(tx, reported, now, random::uuid_v7).await).await
}

fn read(delivery: &Delivery, report_again_after: Duration, now: Timestamp) -> Result<Reported, IngestError> {
    let outcome: Outcome =
        message::from_json(&delivery.payload).map_err(|error| IngestError::Invalid(telemetry::chain(&error)))?;
    let cluster_id = durable::sender_named(&delivery.subject, &outcome.cluster_id)?;
    let command_id = CommandId::parse(&outcome.command_id)
        .ok_or_else(|| IngestError::Invalid(format!("\"{}\" is not a command id", outcome.command_id)))?;
    let report = OutcomeReport::parse(&outcome.state).ok_or_else(|| {
        IngestError::Invalid(format!("\"{}\" is not a state that a cluster may report", outcome.state))
    })?;
    let after = match report {
        OutcomeReport::Deferred => Duration::from_secs(u64::from(outcome.retry_after_seconds.max(1))),
        _ => report_again_after,
    };
    Ok(Reported {
        cluster_id,
        command_id,
        epoch: i64::try_from(outcome.epoch).unwrap_or(i64::MAX),
        state: report.state(),
        reason: plain(&outcome.reason),
        message: plain(&outcome.message),
        hops: outcome.hops.into_iter().map(|hop| Hop { name: plain(&hop.name), at: plain(&hop.at) }).collect(),
        send_again_at: now.checked_add(after).ok(),
    })
}

/// A message may quote a tenant's document with a NUL in it, which Postgres stores in no text. The outcome counts all the
/// same.
fn plain(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
