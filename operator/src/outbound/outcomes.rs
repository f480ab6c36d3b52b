//! Outcomes: keyed by command id, never coalesced between commands, repeated after each hello.
//!
//! The truth is the record's status, written before anything is said here. What is queued while there is no session is
//! dropped: the repetition after the next hello says it again.

use crate::{apiserver::verbs, context::Context, session::Session};
use futures::{StreamExt as _, stream};
use kube::Api;
use kubenova_bus::{BusError, Connection, publish};
use kubenova_crds::command::NovaCommand;
use kubenova_operator_core::outcome;
use kubenova_runtime::{backoff, failpoint, random, telemetry};
use kubenova_schema::{message, signature, subjects, v1::Outcome};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// Outcomes that wait at most; beyond it the queue is dropped and everything is repeated from the records.
const QUEUE_MAX: usize = 4096;
/// Publishes that wait for their acknowledgement at once.
const IN_FLIGHT: usize = 64;

/// Where outcomes are handed in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outcomes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Mutex<Queue>,
    wake: Notify,
    bus: watch::Receiver<Option<Connection>>,
    cluster_id: String,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Outcome>,
    overflowed: bool,
}

/// A verdict could not be given to the broker.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// There is no connection.
    #[error("could not publish an outcome: not connected to the broker")]
    NotConnected,
    /// The broker did not take it.
    #[error("could not publish an outcome")]
    Bus(#[from] BusError),
}

impl Outcomes {
    /// For this cluster.
    #[must_use]
    pub fn new(cluster_id: &str, bus: watch::Receiver<Option<Connection>>) -> Self {
        let queue = Mutex::default();
        Self(Arc::new(Inner { queue, wake: Notify::new(), bus, cluster_id: cluster_id.to_owned() }))
    }

    /// Says how far a stored order got. Returns at once; the record holds the truth until it is said.
    pub fn tell(&self, record: &NovaCommand) {
        self.push(outcome::of_record(&self.0.cluster_id, record));
    }

    fn push(&self, outcome: Outcome) {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.waiting.len() >= QUEUE_MAX {
            queue.waiting.clear();
            queue.overflowed = true;
        } else {
            queue.waiting.push_back(outcome);
        }
        drop(queue);
        self.0.wake.notify_one();
    }

    fn take(&self) -> (Vec<Outcome>, bool) {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let count = queue.waiting.len().min(IN_FLIGHT);
        let taken = queue.waiting.drain(..count).collect();
        (taken, std::mem::take(&mut queue.overflowed))
    }

    fn give_back(&self, outcomes: Vec<Outcome>) {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        for outcome in outcomes.into_iter().rev() {
            queue.waiting.push_front(outcome);
        }
    }

    fn clear(&self) {
        *self.0.queue.lock().unwrap_or_else(PoisonError::into_inner) = Queue::default();
    }

    /// Publishes a verdict about an order that is not stored, and waits until the stream has it.
    ///
    /// # Errors
    /// When it is not stored: the message must stay unacknowledged.
    pub async fn publish(&self, outcome: &Outcome) -> Result<(), PublishError> {
        let connection = self.0.bus.borrow().clone().ok_or(PublishError::NotConnected)?;
        // Random, since the duplicate check is per stream and another cluster could take a guessable id first.
        let id = random::uuid_v4().to_string();
        let headers = publish::headers(
            &id,
            &[(signature::COMMAND_ID_HEADER, &outcome.command_id), (signature::SCHEMA_HEADER, "kubenova.v1.Outcome")],
        );
        let subject = subjects::outcome(&self.0.cluster_id);
        publish::publish(&connection.jetstream, &subject, headers, message::to_json(outcome)).await?;
        Ok(())
    }
}

/// Publishes what is handed in, and repeats everything open after each hello, until the process stops.
pub async fn run(ctx: Context) {
    let mut session = ctx.session.clone();
    loop {
        let Some(open) = wait_for_session(&ctx, &mut session).await else { return };
        ctx.outcomes.clear();
        tokio::select! {
            () = ctx.shutdown.requested() => return,
            () = serve(&ctx) => {}
            () = ended(&mut session, &open) => {}
        }
    }
}

/// The session that is open, once one is.
pub(crate) async fn wait_for_session(ctx: &Context, session: &mut watch::Receiver<Option<Session>>) -> Option<Session> {
    tokio::select! {
        () = ctx.shutdown.requested() => None,
        open = session.wait_for(Option::is_some) => open.ok()?.clone(),
    }
}

/// Resolves when this session is no longer the open one.
pub(crate) async fn ended(session: &mut watch::Receiver<Option<Session>>, open: &Session) {
    let _sender_gone = session.wait_for(|now| now.as_ref() != Some(open)).await;
}

async fn serve(ctx: &Context) {
    repeat(ctx).await;
    let mut waits = backoff::forever();
    loop {
        let (batch, overflowed) = ctx.outcomes.take();
        if overflowed {
            repeat(ctx).await;
            continue;
        }
        if batch.is_empty() {
            ctx.outcomes.0.wake.notified().await;
            continue;
        }
        let failed = publish_all(ctx, batch).await;
        if failed.is_empty() {
            waits = backoff::forever();
            continue;
        }
        ctx.outcomes.give_back(failed);
        ctx.hello_again.notify_one();
        tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(1))).await;
    }
}

async fn publish_all(ctx: &Context, batch: Vec<Outcome>) -> Vec<Outcome> {
    failpoint::passing("outbound.outcome");
    stream::iter(batch)
        .map(|outcome| async move {
            match ctx.outcomes.publish(&outcome).await {
                Ok(()) => None,
                Err(error) => {
                    tracing::debug!(command.id = outcome.command_id, error = %telemetry::chain(&error), "could not publish an outcome; trying again");
                    Some(outcome)
                }
            }
        })
        .buffered(IN_FLIGHT)
        .filter_map(futures::future::ready)
        .collect()
        .await
}

/// Says again what every record says. Settled ones too: which rows are still open only the Manager knows.
async fn repeat(ctx: &Context) {
    let api: Api<NovaCommand> = Api::namespaced(ctx.apiserver.client(), &ctx.settings.state_namespace);
    for wait in backoff::forever() {
        match verbs::list(&api, "").await {
            Ok(records) => {
                tracing::debug!(count = records.len(), "repeating outcomes");
                let mut outcomes: Vec<Outcome> =
                    records.iter().map(|record| outcome::of_record(ctx.identity.cluster_id(), record)).collect();
                while !outcomes.is_empty() {
                    let rest = outcomes.split_off(outcomes.len().min(IN_FLIGHT));
                    let failed = publish_all(ctx, outcomes).await;
                    if !failed.is_empty() {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                    outcomes = failed.into_iter().chain(rest).collect();
                }
                return;
            }
            Err(error) => {
                tracing::warn!(error = %crate::apiserver::error::chain(&error), "could not list the inbox to repeat its outcomes");
            }
        }
        tokio::time::sleep(wait).await;
    }
}
