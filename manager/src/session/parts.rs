//! What clusters send in parts, as request and reply: a few parts at a time, the others wait or are dropped, and each gets an
//! answer. A cluster whose part is dropped is asked again.

use super::{NOT_READY, Sessions, Subscribed, subscribe};
use async_nats::Message;
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::{shutdown::Shutdown, telemetry};
use kubenova_schema::{message, subjects, v1::ListingAnswer};
use kubenova_store::error::StoreError;
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tracing::Instrument as _;

/// Parts of a subject that are taken in at once: each takes a connection of Postgres.
const PARTS_MAX: usize = 2;
/// Parts that wait for their turn.
const WAITING_MAX: usize = 64;
/// Longest time for a part.
const PART_MAX: Duration = Duration::from_secs(25);

/// Takes one part in.
pub(super) type Take =
    for<'a> fn(&'a Sessions, &'a Message) -> Pin<Box<dyn Future<Output = ListingAnswer> + Send + 'a>>;

/// Whose a part is says its subject, where the broker lets only that cluster publish; the part must name the same.
pub(super) fn sender(subject: &str, named: &str) -> Result<ClusterId, String> {
    let cluster = subjects::cluster_of(subject).and_then(ClusterId::parse);
    let cluster = cluster.filter(|cluster| cluster.as_str() == named);
    cluster.ok_or_else(|| format!("it names cluster \"{named}\", its subject another one"))
}

/// Takes the parts of a subject in until a stop is requested.
pub(super) async fn run(sessions: Sessions, from: Subscribed, shutdown: Shutdown, take: Take) {
    let sessions = Arc::new(sessions);
    let (slots, waiting) = (Arc::new(Semaphore::new(PARTS_MAX)), Arc::new(Semaphore::new(WAITING_MAX)));
    let handle = |message: Message| {
        if let Ok(place) = Arc::clone(&waiting).try_acquire_owned() {
            let (sessions, slots) = (Arc::clone(&sessions), Arc::clone(&slots));
            let cluster = subjects::cluster_of(&message.subject).unwrap_or_default().to_owned();
            let work = async move {
                let _place = place;
                let Ok(_slot) = slots.acquire().await else { return };
                let answer = take(&sessions, &message).await;
                send(&sessions, &message, &answer).await;
            };
            let span = tracing::info_span!("part", subject = from.subject, cluster.id = cluster);
            shutdown.spawn_work("take in what a cluster holds", work.instrument(span));
        }
        std::future::ready(())
    };
    subscribe(&sessions.connection, from, &shutdown, handle).await;
}

async fn send(sessions: &Sessions, message: &Message, answer: &ListingAnswer) {
    if !answer.accepted {
        tracing::warn!(reason = answer.reason, message = answer.message, "refused a part of what a cluster holds");
    }
    let Some(reply) = message.reply.clone() else { return };
    if let Err(error) = sessions.connection.client.publish(reply, message::to_json(answer).into()).await {
        tracing::warn!(%error, "could not answer a part of what a cluster holds; the cluster is asked for it again");
    }
}

/// The answer of work in Postgres, which may fail or take too long.
pub(super) async fn in_time(work: impl Future<Output = Result<ListingAnswer, StoreError>>) -> ListingAnswer {
    match tokio::time::timeout(PART_MAX, work).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => refusal(NOT_READY, telemetry::chain(&error)),
        Err(_) => refusal(NOT_READY, format!("Postgres did not answer within {} s", PART_MAX.as_secs())),
    }
}

pub(super) fn taken() -> ListingAnswer {
    ListingAnswer { accepted: true, ..ListingAnswer::default() }
}

pub(super) fn refusal(reason: &str, message: String) -> ListingAnswer {
    ListingAnswer { accepted: false, reason: reason.to_owned(), message, ..ListingAnswer::default() }
}
