//! Outcomes: keyed by command id, never coalesced between commands, repeated after each hello.
//!
//! The record's status is written before an outcome is queued. What is queued while no session is open is dropped: the
//! repetition after the next hello reports it.

use super::outcome_queue::Batch;
use crate::{
    apiserver::{self, verbs},
    context::{BrokerContext, ClusterContext},
    session::state::{session_ended, wait_for_session},
};
use futures::{StreamExt as _, TryStreamExt as _, future::ready, stream};
use kube::Api;
use kubenova_bus::{BusError, publish as bus};
use kubenova_crds::command::NovaCommand;
use kubenova_operator_core::outcome;
use kubenova_runtime::{backoff::Backoff, failpoint, random, telemetry};
use kubenova_schema::{message, signature, subjects, v1::Outcome};
use std::collections::VecDeque;

/// Publishes that wait for their acknowledgement at once.
const IN_FLIGHT: usize = 64;
/// Records that are read at once; each may have 900 KB.
const READS: usize = 8;

/// An outcome was not stored by the broker.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("could not publish an outcome: not connected to the broker")]
    NotConnected,
    #[error("could not publish an outcome")]
    Bus(#[from] BusError),
}

/// Publishes queued outcomes, and repeats every record's after each hello, until the process stops.
pub async fn run(cluster: ClusterContext, broker: BrokerContext) {
    let mut session = broker.session.clone();
    loop {
        let Some(open) = wait_for_session(&mut session, &cluster.shutdown).await else { return };
        cluster.outcomes.clear();
        tokio::select! {
            () = cluster.shutdown.requested() => return,
            () = serve(&cluster, &broker, open.floor) => {}
            () = session_ended(&mut session, &open) => {}
        }
    }
}

/// Publishes one outcome and waits until the stream has it.
///
/// # Errors
/// When it is not stored: the command's message must stay unacknowledged.
pub async fn publish(broker: &BrokerContext, outcome: &Outcome) -> Result<(), PublishError> {
    let connection = broker.connection().ok_or(PublishError::NotConnected)?;
    // Random, since the duplicate check is per stream and another cluster could take a guessable id first.
    let id = random::uuid_v4().to_string();
    let headers = bus::headers(
        &id,
        &[(signature::COMMAND_ID_HEADER, &outcome.command_id), (signature::SCHEMA_HEADER, "kubenova.v1.Outcome")],
    );
    let subject = subjects::outcome(broker.cluster_id());
    bus::publish(&connection.jetstream, &subject, headers, message::to_json(outcome)).await?;
    Ok(())
}

/// What is queued goes first: thousands of records may have to be repeated, and the outcome of a new command must not wait for that.
async fn serve(cluster: &ClusterContext, broker: &BrokerContext, floor: u64) {
    let mut rest = above(cluster, floor);
    let mut backoff = Backoff::default();
    loop {
        let Batch { mut outcomes, overflowed } = cluster.outcomes.take(IN_FLIGHT);
        if overflowed {
            rest = above(cluster, floor);
        }
        if outcomes.is_empty() && rest.is_empty() {
            cluster.outcomes.changed().await;
            continue;
        }
        let repeated = repeat(cluster, broker, &mut rest, IN_FLIGHT.saturating_sub(outcomes.len())).await;
        let is_read = repeated.is_ok();
        match repeated {
            Ok(repeated) => outcomes.extend(repeated),
            Err(error) => {
                let cause = apiserver::error::chain(&error);
                tracing::warn!(error = cause, "could not read inbox records to repeat their outcomes; trying again");
            }
        }
        let failed = publish_all(broker, outcomes).await;
        if failed.is_empty() && is_read {
            backoff.reset();
            continue;
        }
        if !failed.is_empty() {
            cluster.outcomes.give_back(failed);
            broker.rehello.notify_one();
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// Publishes a batch and returns what failed.
async fn publish_all(broker: &BrokerContext, batch: Vec<Outcome>) -> Vec<Outcome> {
    failpoint::passing("outbound.outcome");
    stream::iter(batch)
        .map(|outcome| async move {
            match publish(broker, &outcome).await {
                Ok(()) => None,
                Err(error) => {
                    tracing::debug!(command.id = outcome.command_id, error = %telemetry::chain(&error), "could not publish an outcome; trying again");
                    Some(outcome)
                }
            }
        })
        .buffered(IN_FLIGHT)
        .filter_map(ready)
        .collect()
        .await
}

/// Names of the records above the floor, settled ones too: only the Manager knows which of its rows are still open.
fn above(cluster: &ClusterContext, floor: u64) -> VecDeque<String> {
    let above = cluster.inbox.all().into_iter().filter(|record| record.revision > floor);
    let names: VecDeque<String> = above.map(|record| record.name.clone()).collect();
    tracing::debug!(count = names.len(), floor, "repeating outcomes");
    names
}

/// What the next records report; they stay to be repeated when they cannot be read.
async fn repeat(
    cluster: &ClusterContext,
    broker: &BrokerContext,
    rest: &mut VecDeque<String>,
    max: usize,
) -> Result<Vec<Outcome>, apiserver::Error> {
    let names: Vec<String> = rest.iter().take(max).cloned().collect();
    let outcomes = read(cluster, broker, &names).await?;
    rest.drain(..names.len());
    Ok(outcomes)
}

/// What these records report; one that is gone reports nothing.
async fn read(
    cluster: &ClusterContext,
    broker: &BrokerContext,
    names: &[String],
) -> Result<Vec<Outcome>, apiserver::Error> {
    let api: Api<NovaCommand> = Api::namespaced(cluster.apiserver.client(), &cluster.settings.state_namespace);
    let outcome = async |name: &String| {
        let record = verbs::get(&api, name).await?;
        Ok(record.map(|record| outcome::of_record(broker.cluster_id(), &record)))
    };
    stream::iter(names).map(outcome).buffered(READS).try_filter_map(|outcome| ready(Ok(outcome))).try_collect().await
}
