//! Sends the cluster's listing when the Manager holds another one: it sends again what is missing or outdated here, under new
//! revisions.

use super::state::Session;
use crate::apiserver::cache::Cache;
use kubenova_bus::Connection;
use kubenova_operator_core::{digest::RecordDigest, listing};
use kubenova_runtime::{clock, telemetry};
use kubenova_schema::{
    message::{self, MessageError},
    subjects,
    v1::{ListingAnswer, ListingPart},
};
use std::time::Duration;

/// Time for the answer to a part: one transaction.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Why the listing was not sent.
#[derive(Debug, thiserror::Error)]
enum ListingError {
    #[error("could not send a part of the listing")]
    Request(#[from] async_nats::RequestError),
    #[error("the Manager did not answer within {} s", ANSWER_LIMIT.as_secs())]
    NoAnswer(#[from] tokio::time::error::Elapsed),
    #[error("could not read the Manager's answer")]
    Answer(#[from] MessageError),
    #[error("the Manager did not take it: {reason}: {message}")]
    NotTaken { reason: String, message: String },
}

/// Sends the listing in parts. One that does not arrive is asked for again, by a request for a hello.
pub(super) async fn send(connection: &Connection, cluster: &str, inbox: &Cache<RecordDigest>, session: &Session) {
    match send_parts(connection, cluster, inbox, session).await {
        Ok(entries) => tracing::info!(entries, "sent the listing: the Manager holds another one"),
        Err(error) => {
            tracing::warn!(error = %telemetry::chain(&error), "could not send the listing; the Manager asks for it again");
        }
    }
}

async fn send_parts(
    connection: &Connection,
    cluster: &str,
    inbox: &Cache<RecordDigest>,
    session: &Session,
) -> Result<usize, ListingError> {
    let at = clock::rfc3339_ms(clock::now());
    let records = inbox.all();
    let mut rest = listing::entries(records.iter().map(|record| &**record));
    let count = rest.len();
    let mut after_key = String::new();
    loop {
        let later = rest.split_off(rest.len().min(listing::PART_ENTRIES));
        let next_after = rest.last().map(|entry| entry.key.clone());
        let part = ListingPart {
            cluster_id: cluster.to_owned(),
            session: session.number,
            at: at.clone(),
            after_key,
            last: later.is_empty(),
            entries: rest,
        };
        request(connection, cluster, &part).await?;
        let (false, Some(key)) = (part.last, next_after) else { return Ok(count) };
        (after_key, rest) = (key, later);
    }
}

async fn request(connection: &Connection, cluster: &str, part: &ListingPart) -> Result<(), ListingError> {
    let request = connection.client.request(subjects::listing(cluster), message::to_json(part).into());
    let reply = tokio::time::timeout(ANSWER_LIMIT, request).await??;
    let ListingAnswer { accepted, reason, message } = message::from_json(&reply.payload)?;
    if accepted { Ok(()) } else { Err(ListingError::NotTaken { reason, message }) }
}
