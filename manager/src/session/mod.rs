//! Sessions: the answer to a hello, and the heartbeat.
//!
//! Before it answers, the Manager makes the streams and the cluster's durable if they are gone and purges the cluster's
//! subject: a session begins with an empty wire, and every open row is due again. A cluster that names a revision which
//! Postgres does not know has more than we: nothing is sent to it.
//!
//! Before it: `operator/src/session`. After it: the relay and the receipts.

pub mod heartbeat;
mod hello;

use async_nats::Message;
use futures::StreamExt as _;
use hello::{Asked, Refused};
use jiff::Timestamp;
use kubenova_bus::{BusError, Connection, durable, streams as made};
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::{backoff, clock, shutdown::Shutdown, telemetry};
use kubenova_schema::{
    enrollment::PublicKey,
    message, streams, subjects,
    v1::{CommandKey, HelloAnswer},
};
use kubenova_store::{cluster_queue, error::StoreError, pool::Store, sessions};
use std::{sync::Arc, time::Duration};
use tokio::sync::{Notify, mpsc};

/// What the session side needs.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// Postgres.
    pub store: Store,
    /// The broker.
    pub connection: Connection,
    /// Keys that clusters are told to accept.
    pub keys: Vec<PublicKey>,
    /// Told which cluster wants its receipts.
    pub receipts: mpsc::Sender<ClusterId>,
    /// Rung when rows became due.
    pub wake: Arc<Notify>,
}

/// In the answer to a hello that may be accepted when it is asked again.
const NOT_READY: &str = "ManagerNotReady";

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("could not read or write the session")]
    Store(#[from] StoreError),
    #[error("could not prepare the broker for the session")]
    Bus(#[from] BusError),
}

/// Answers hellos until a stop is asked for.
pub async fn run(sessions: Sessions, shutdown: Shutdown) {
    let sessions = Arc::new(sessions);
    let handle = |message: Message| {
        let sessions = Arc::clone(&sessions);
        // One slow cluster must not keep the others waiting.
        tokio::spawn(async move { answer(&sessions, message).await });
        std::future::ready(())
    };
    listen(&sessions.connection, subjects::every::HELLO, &shutdown, handle).await;
}

/// Hands every message of a core subject to `handle`; subscribes again when the subscription ends.
async fn listen<H, F>(connection: &Connection, subject: &'static str, shutdown: &Shutdown, handle: H)
where
    H: Fn(Message) -> F,
    F: Future<Output = ()>,
{
    let mut waits = backoff::forever();
    while !shutdown.is_requested() {
        match connection.client.subscribe(subject).await {
            Ok(mut subscription) => loop {
                let message = tokio::select! {
                    () = shutdown.requested() => return,
                    message = subscription.next() => message,
                };
                let Some(message) = message else { break };
                handle(message).await;
            },
            Err(error) => tracing::warn!(subject, %error, "could not subscribe; trying again"),
        }
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(1))) => {}
        }
    }
}

async fn answer(sessions: &Sessions, message: Message) {
    let Some(reply) = message.reply.clone() else { return };
    let now = clock::now();
    let answer = match hello::read(&message.subject, &message.payload, now) {
        Ok(asked) => match open(sessions, &asked, now).await {
            Ok(answer) => answer,
            Err(error) => {
                let why = telemetry::chain(&error);
                tracing::warn!(cluster.id = %asked.hello.cluster_id, error = why, "could not open a session; the cluster asks again");
                // Silence would say that we are not here.
                let message = format!("the Manager is there but could not open a session: {why}");
                refusal(&Refused { reason: NOT_READY, message }, now)
            }
        },
        Err(refused) => refusal(&refused, now),
    };
    if let Err(error) = sessions.connection.client.publish(reply, message::to_json(&answer).into()).await {
        tracing::warn!(%error, "could not answer a hello; the cluster asks again");
    }
}

async fn open(sessions: &Sessions, asked: &Asked, now: Timestamp) -> Result<HelloAnswer, SessionError> {
    let cluster = &asked.hello.cluster_id;
    let mut transaction = sessions.store.begin("open a session").await?;
    let known = sessions::lock_cluster(&mut transaction, cluster).await?;
    let agrees =
        sessions::revision_matches(&mut transaction, cluster, asked.hello.highest_revision, asked.highest_command)
            .await?;
    let epoch = match hello::judge(asked, known.as_ref(), agrees) {
        Ok(epoch) => epoch,
        Err(refused) => {
            if known.is_some() {
                sessions::refuse(&mut transaction, &asked.hello, refused.reason, now).await?;
                transaction.commit().await?;
            }
            tracing::warn!(cluster.id = %cluster, reason = refused.reason, message = refused.message, "refused a hello");
            return Ok(refusal(&refused, now));
        }
    };
    let jetstream = &sessions.connection.jetstream;
    made::ensure_all(jetstream).await?;
    durable::ensure_cluster(jetstream, cluster.as_str()).await?;
    durable::purge_cluster(jetstream, cluster.as_str()).await?;
    let session = sessions::open(&mut transaction, &asked.hello, now).await?;
    let due = cluster_queue::resend_open(&mut transaction, cluster).await?;
    transaction.commit().await?;
    tracing::info!(cluster.id = %cluster, session, epoch, due, "session opened");
    sessions.wake.notify_one();
    if sessions.receipts.try_send(cluster.clone()).is_err() {
        tracing::debug!(cluster.id = %cluster, "receipts are busy; the next commit brings them");
    }
    Ok(HelloAnswer {
        accepted: true,
        epoch: u64::try_from(epoch).unwrap_or_default(),
        session: u64::try_from(session).unwrap_or_default(),
        manager_time: clock::rfc3339_ms(now),
        stream: streams::COMMANDS.name.to_owned(),
        durable: cluster.to_string(),
        command_keys: sessions.keys.iter().map(command_key).collect(),
        ..HelloAnswer::default()
    })
}

fn refusal(refused: &Refused, now: Timestamp) -> HelloAnswer {
    HelloAnswer {
        accepted: false,
        reason: refused.reason.to_owned(),
        message: refused.message.clone(),
        manager_time: clock::rfc3339_ms(now),
        ..HelloAnswer::default()
    }
}

fn command_key(key: &PublicKey) -> CommandKey {
    CommandKey { key_id: key.key_id.clone(), public_key: key.public_key.clone() }
}
