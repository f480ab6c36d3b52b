//! Outcomes of commands into their rows.
//!
//! Keyed by command id, so repeats change nothing. The reporting cluster is that of the subject, where the broker lets
//! only that cluster publish; a body that names another one becomes a dead letter.

use super::{
    by_cluster::{self, Reports},
    durable::{self, Ingest, IngestError},
};
use crate::relay::Backlog;
use jiff::Timestamp;
use kubenova_bus::{consume::Delivery, durable::OwnDurable};
use kubenova_core::command::{CommandId, CommandState, Hop, OutcomeReport};
use kubenova_runtime::{clock, failpoint, random, shutdown::Shutdown, telemetry};
use kubenova_schema::{message, streams, subjects, v1::Outcome};
use kubenova_store::{
    cluster_reports,
    error::StoreError,
    outcomes::{Recorded, Reported},
    pool::Store,
};
use std::{sync::Arc, time::Duration};

const OUTCOMES: OwnDurable = OwnDurable {
    stream: streams::STATUS,
    name: "manager-outcomes",
    description: "The Manager's reader of command outcomes",
    filter: subjects::every::OUTCOME,
    ack_wait: Duration::from_secs(30),
};

/// Ingests until a stop is requested. A command that did not end is due again after `report_again_after`.
pub async fn run(ingest: Ingest, report_again_after: Duration, backlog: Arc<Backlog>, shutdown: Shutdown) {
    let outcomes = Outcomes { store: ingest.store.clone(), report_again_after, backlog };
    Box::pin(by_cluster::run(&OUTCOMES, &ingest, &shutdown, outcomes)).await;
}

struct Outcomes {
    store: Store,
    report_again_after: Duration,
    backlog: Arc<Backlog>,
}

impl Reports for Outcomes {
    type Report = Reported;

    fn read(&self, delivery: &Delivery) -> Result<Reported, IngestError> {
        read(delivery, self.report_again_after, clock::now())
    }

    async fn store(&self, reports: &[Reported]) -> Result<Vec<Result<(), String>>, StoreError> {
        let now = clock::now();
        let record = self.store.transaction("record outcomes", async |tx| {
            cluster_reports::record_outcomes(tx, reports, now, random::uuid_v7).await
        });
        let recorded = record.await?;
        failpoint::passing("ingest.outcome-committed");
        // They are of one cluster.
        if let Some(first) = reports.first() {
            self.backlog.outcome_stored(&first.cluster_id);
        }
        Ok(reports.iter().zip(recorded).map(|(reported, recorded)| judge(reported, recorded)).collect())
    }
}

/// Why an outcome can never be handled, if it cannot.
fn judge(reported: &Reported, recorded: Recorded) -> Result<(), String> {
    tracing::debug!(
        cluster.id = %reported.cluster_id, command.id = %reported.command_id,
        state = reported.state.map_or("deferred", CommandState::as_str), result = recorded.as_str(),
        "stored an outcome"
    );
    if recorded == Recorded::Unknown {
        return Err(format!("the Manager sent no command {} to cluster {}", reported.command_id, reported.cluster_id));
    }
    Ok(())
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
        hops: outcome
            .hops
            .into_iter()
            .map(|hop| Hop { name: plain(&hop.name), at: plain(&hop.at), object: plain(&hop.object) })
            .collect(),
        send_again_at: now.checked_add(after).ok(),
    })
}

/// A message may quote a tenant's document with a NUL in it, which Postgres stores in no text. The outcome counts all the
/// same.
fn plain(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
