//! Outcomes of commands into their rows.
//!
//! Keyed by command id, so repeats change nothing. Who says it is taken from the subject, which the broker's permissions
//! vouch for; a body that claims another cluster is dead_letters.

use super::durable::{self, IngestError, OwnDurable, Taken};
use async_nats::jetstream;
use jiff::{SignedDuration, Timestamp};
use kubenova_bus::consume::Delivery;
use kubenova_core::command::{CommandId, CommandState, Hop};
use kubenova_runtime::{clock, failpoint, shutdown::Shutdown, telemetry};
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
    filter: subjects::every::OUTCOME,
    ack_wait: Duration::from_secs(30),
};

/// Ingests until a stop is asked for.
pub async fn run(store: Store, jetstream: jetstream::Context, shutdown: Shutdown) {
    durable::run(&OUTCOMES, &store, &jetstream, &shutdown, |delivery| take(&store, delivery)).await;
}

async fn take(store: &Store, delivery: Delivery) -> Result<Taken, IngestError> {
    let now = clock::now();
    let reported = read(&delivery, now)?;
    let recorded = record(store, &reported, now).await?;
    tracing::debug!(cluster.id = %reported.cluster_id, command.id = %reported.command_id, ?recorded, state = ?reported.state, "outcome");
    failpoint::passing("ingest.outcome-committed");
    if recorded == Recorded::Unknown {
        let reason = format!("command {} of cluster {} is not known here", reported.command_id, reported.cluster_id);
        return Err(IngestError::InvalidUsage(reason));
    }
    Ok(Taken::Committed)
}

async fn record(store: &Store, reported: &Reported, now: Timestamp) -> Result<Recorded, StoreError> {
    let mut transaction = store.begin("record an outcome").await?;
    let recorded = outcomes::record(&mut transaction, reported, now).await?;
    transaction.commit().await?;
    Ok(recorded)
}

fn read(delivery: &Delivery, now: Timestamp) -> Result<Reported, IngestError> {
    let outcome: Outcome =
        message::from_json(&delivery.payload).map_err(|error| IngestError::InvalidUsage(telemetry::chain(&error)))?;
    let cluster_id = durable::sender_named(&delivery.subject, &outcome.cluster_id)?;
    let no = IngestError::InvalidUsage;
    let command_id = CommandId::parse(&outcome.command_id)
        .ok_or_else(|| no(format!("\"{}\" is no command id", outcome.command_id)))?;
    let deferred = outcome.state == "deferred";
    let state = match outcome.state.as_str() {
        "deferred" => None,
        "unsupported" => Some(CommandState::Refused),
        other => Some(
            CommandState::parse(other)
                .filter(|state| !matches!(state, CommandState::Queued | CommandState::Sent))
                .ok_or_else(|| no(format!("\"{other}\" is no state that a cluster may report")))?,
        ),
    };
    let after = SignedDuration::from_secs(i64::from(outcome.retry_after_seconds.max(1)));
    Ok(Reported {
        cluster_id,
        command_id,
        state,
        reason: plain(&outcome.reason),
        message: plain(&outcome.message),
        hops: outcome.hops.into_iter().map(|hop| Hop { name: plain(&hop.name), at: plain(&hop.at) }).collect(),
        send_again_at: if deferred { now.checked_add(after).ok() } else { None },
    })
}

/// What a cluster repeats of a tenant's document may hold a NUL, which Postgres takes in no text; the outcome counts.
fn plain(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
