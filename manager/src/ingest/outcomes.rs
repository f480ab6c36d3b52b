//! Outcomes of commands into their rows.
//!
//! Keyed by command id, so repeats change nothing. Who says it is taken from the subject, which the broker's permissions
//! vouch for; a body that claims another cluster is poison.

use async_nats::jetstream;
use jiff::{SignedDuration, Timestamp};
use kubenova_bus::{
    consume::{self, Delivery, Verdict},
    durable, streams as made,
};
use kubenova_core::{
    cluster::ClusterId,
    command::{CommandId, CommandState, Hop},
};
use kubenova_runtime::{clock, failpoint, shutdown::Shutdown, telemetry};
use kubenova_schema::{message, streams, subjects, v1::Outcome};
use kubenova_store::{
    error::StoreError,
    outcomes::{self, Recorded, Reported},
    pool::Store,
};
use std::time::Duration;

/// The Manager's own durable on KN_STS for outcomes.
const DURABLE: &str = "manager-outcomes";
/// Time to commit one outcome before it comes again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Pause after Postgres did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Ingests until a stop is asked for.
pub async fn run(store: Store, jetstream: jetstream::Context, shutdown: Shutdown) {
    let handle = |delivery: Delivery| {
        let store = store.clone();
        async move { verdict(&store, &delivery).await }
    };
    let missing = || ensure(&jetstream);
    missing().await;
    consume::run(&jetstream, streams::STATUS.name, DURABLE, &shutdown, handle, missing).await;
}

async fn ensure(jetstream: &jetstream::Context) {
    let made = async {
        made::ensure(jetstream, &streams::STATUS).await?;
        durable::ensure_own(jetstream, streams::STATUS.name, DURABLE, subjects::every::OUTCOME, ACK_WAIT).await
    };
    if let Err(error) = made.await {
        tracing::debug!(error = %telemetry::chain(&error), "could not ensure the durable for outcomes; trying again");
    }
}

async fn verdict(store: &Store, delivery: &Delivery) -> Verdict {
    let now = clock::now();
    let reported = match read(delivery, now) {
        Ok(reported) => reported,
        Err(reason) => return Verdict::Poison(reason),
    };
    match record(store, &reported, now).await {
        Ok(recorded) => {
            tracing::debug!(cluster.id = %reported.cluster_id, command.id = %reported.command_id, ?recorded, state = ?reported.state, "outcome");
            failpoint::passing("ingest.outcome-committed");
            if recorded == Recorded::Unknown {
                return Verdict::Poison(format!(
                    "command {} of cluster {} is not known here",
                    reported.command_id, reported.cluster_id
                ));
            }
            Verdict::Done
        }
        Err(error) => {
            tracing::warn!(error = %telemetry::chain(&error), "could not record an outcome; it will come again");
            Verdict::Later(RETRY)
        }
    }
}

async fn record(store: &Store, reported: &Reported, now: Timestamp) -> Result<Recorded, StoreError> {
    let mut transaction = store.transaction().await?;
    let recorded = outcomes::record(&mut transaction, reported, now).await?;
    transaction.commit().await.map_err(kubenova_store::error::failed("commit an outcome"))?;
    Ok(recorded)
}

fn read(delivery: &Delivery, now: Timestamp) -> Result<Reported, String> {
    let outcome: Outcome = message::from_json(&delivery.payload).map_err(|error| telemetry::chain(&error))?;
    let cluster = subjects::cluster_of(&delivery.subject).and_then(ClusterId::parse);
    let cluster_id = cluster.ok_or_else(|| format!("subject \"{}\" names no cluster", delivery.subject))?;
    if outcome.cluster_id != cluster_id.as_str() {
        return Err(format!("cluster {cluster_id} reported for cluster \"{}\"", outcome.cluster_id));
    }
    let command_id =
        CommandId::parse(&outcome.command_id).ok_or_else(|| format!("\"{}\" is no command id", outcome.command_id))?;
    let deferred = outcome.state == "deferred";
    let state = match outcome.state.as_str() {
        "deferred" => None,
        "unsupported" => Some(CommandState::Refused),
        other => Some(
            CommandState::parse(other)
                .filter(|state| !matches!(state, CommandState::Queued | CommandState::Sent))
                .ok_or_else(|| format!("\"{other}\" is no state that a cluster may report"))?,
        ),
    };
    let after = SignedDuration::from_secs(i64::from(outcome.retry_after_seconds.max(1)));
    Ok(Reported {
        cluster_id,
        command_id,
        state,
        reason: outcome.reason,
        message: outcome.message,
        hops: outcome.hops.into_iter().map(|hop| Hop { name: hop.name, at: hop.at }).collect(),
        send_again_at: if deferred { now.checked_add(after).ok() } else { None },
    })
}
