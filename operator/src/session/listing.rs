//! Sends the cluster's listing when the Manager holds another one: it sends again what is missing or outdated here, under new
//! revisions.

use super::state::Session;
use crate::{
    apiserver::{self, cache::Cache},
    inbound::record::Records,
};
use kubenova_bus::Connection;
use kubenova_operator_core::{
    digest::RecordDigest,
    listing,
    record_pieces::{Body, Parts},
};
use kubenova_runtime::{clock, telemetry};
use kubenova_schema::{
    kinds::ObjectKey,
    message::{self, MessageError},
    subjects,
    v1::{ListingAnswer, RecordPiece, RecordsPart},
};
use std::time::Duration;

/// Time for the answer to a part: one transaction.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Time for everything that a database lost: thousands of records, each a call to the API server.
const DIVERGED_LIMIT: Duration = Duration::from_secs(600);
/// The session of a listing that is sent without one.
const NO_SESSION: u64 = 0;

/// Why the listing was not sent.
#[derive(Debug, thiserror::Error)]
enum ListingError {
    #[error("could not read a record")]
    Record(#[from] apiserver::Error),
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
    match send_parts(connection, cluster, inbox, session.number).await {
        Ok(Sent { entries, .. }) => tracing::info!(entries, "sent the listing: the Manager holds another one"),
        Err(error) => {
            tracing::warn!(error = %telemetry::chain(&error), "could not send the listing; the Manager asks for it again");
        }
    }
}

/// Sends the listing and the records that the Manager's database lost: an administrator decides what becomes of them. What does
/// not arrive is asked for again, in the answer to the next hello.
pub(super) async fn send_diverged(
    connection: &Connection,
    cluster: &str,
    inbox: &Cache<RecordDigest>,
    records: &Records,
) {
    let send = async {
        let Sent { entries, wanted } = send_parts(connection, cluster, inbox, NO_SESSION).await?;
        send_records(connection, cluster, records, &wanted).await?;
        Ok::<_, ListingError>((entries, wanted.len()))
    };
    match tokio::time::timeout(DIVERGED_LIMIT, send).await {
        Ok(Ok((entries, records))) => {
            tracing::warn!(entries, records, "sent what this cluster holds and the Manager's database lost");
        }
        Ok(Err(error)) => {
            tracing::warn!(error = %telemetry::chain(&error), "could not send what the Manager's database lost");
        }
        Err(_) => {
            tracing::warn!("could not send what the Manager's database lost in time; going on after the next hello");
        }
    }
}

/// What was sent of the listing.
struct Sent {
    entries: usize,
    /// Keys of records that the Manager lacks.
    wanted: Vec<String>,
}

async fn send_parts(
    connection: &Connection,
    cluster: &str,
    inbox: &Cache<RecordDigest>,
    session: u64,
) -> Result<Sent, ListingError> {
    let at = clock::rfc3339_ms(clock::now());
    let records = inbox.all();
    let records = records.iter().map(|record| &**record);
    let entries = if session == NO_SESSION { listing::all_entries(records) } else { listing::entries(records) };
    let mut wanted = Vec::new();
    for part in listing::parts(cluster, session, &at, &entries) {
        wanted.extend(request(connection, subjects::listing(cluster), message::to_json(&part)).await?);
    }
    Ok(Sent { entries: entries.len(), wanted })
}

async fn send_records(
    connection: &Connection,
    cluster: &str,
    records: &Records,
    wanted: &[String],
) -> Result<(), ListingError> {
    let mut parts = Parts::default();
    for key in wanted.iter().filter_map(|key| ObjectKey::parse(key)) {
        let Some(record) = records.get(&key).await? else { continue };
        let body = Body {
            key: key.to_string(),
            command_id: record.spec.command_id,
            signature: record.spec.signature,
            bytes: record.spec.body.into_bytes(),
        };
        for pieces in parts.add(&body) {
            send_pieces(connection, cluster, pieces).await?;
        }
    }
    send_pieces(connection, cluster, parts.take()).await
}

async fn send_pieces(connection: &Connection, cluster: &str, pieces: Vec<RecordPiece>) -> Result<(), ListingError> {
    if pieces.is_empty() {
        return Ok(());
    }
    let part = RecordsPart { cluster_id: cluster.to_owned(), pieces };
    request(connection, subjects::records(cluster), message::to_json(&part)).await.map(drop)
}

/// Sends a part; keys of records that the Manager lacks.
async fn request(connection: &Connection, subject: String, body: Vec<u8>) -> Result<Vec<String>, ListingError> {
    let request = connection.client.request(subject, body.into());
    let reply = tokio::time::timeout(ANSWER_LIMIT, request).await??;
    let ListingAnswer { accepted, reason, message, records_wanted } = message::from_json(&reply.payload)?;
    if accepted { Ok(records_wanted) } else { Err(ListingError::NotTaken { reason, message }) }
}
