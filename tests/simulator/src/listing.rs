//! What the cluster holds, as the Operator tells the Manager: its listing, and the records that the Manager's database lost.

use anyhow::{Context as _, Result, bail};
use kubenova_bus::Connection;
use kubenova_operator::session::hello::ANSWER_LIMIT;
use kubenova_operator_core::listing;
use kubenova_operator_core::record_pieces::Parts;
use kubenova_runtime::clock;
use kubenova_schema::v1::{ListingAnswer, RecordPiece, RecordsPart};
use kubenova_schema::{message, subjects};

use crate::shared::Shared;

/// The session of a listing that is sent without one.
const NO_SESSION: u64 = 0;

/// Sends the listing in parts; keys of records that the Manager lacks.
pub(crate) async fn send(shared: &Shared, connection: &Connection, session: u64) -> Result<Vec<String>> {
    let cluster = shared.identity.cluster_id();
    let at = clock::rfc3339_ms(clock::now());
    let entries = {
        let inbox = shared.inbox();
        if session == NO_SESSION { inbox.whole_listing() } else { inbox.listing() }
    };
    let mut wanted = Vec::new();
    for part in listing::parts(cluster, session, &at, &entries) {
        wanted.extend(request(connection, subjects::listing(cluster), message::to_json(&part)).await?);
    }
    Ok(wanted)
}

/// Sends the listing and the records that the Manager's database lost.
pub(crate) async fn send_diverged(shared: &Shared, connection: &Connection) -> Result<()> {
    let wanted = send(shared, connection, NO_SESSION).await?;
    let mut parts = Parts::default();
    for key in wanted {
        let body = shared.inbox().record_body(&key);
        let Some(body) = body else { continue };
        for pieces in parts.add(&body) {
            send_pieces(shared, connection, pieces).await?;
        }
    }
    send_pieces(shared, connection, parts.take()).await
}

async fn send_pieces(shared: &Shared, connection: &Connection, pieces: Vec<RecordPiece>) -> Result<()> {
    if pieces.is_empty() {
        return Ok(());
    }
    let cluster = shared.identity.cluster_id();
    let part = RecordsPart { cluster_id: cluster.to_owned(), pieces };
    request(connection, subjects::records(cluster), message::to_json(&part)).await.map(drop)
}

async fn request(connection: &Connection, subject: String, body: Vec<u8>) -> Result<Vec<String>> {
    let request = connection.client.request(subject, body.into());
    let reply =
        tokio::time::timeout(ANSWER_LIMIT, request).await.context("a part of the listing was not answered")??;
    let answer: ListingAnswer = message::from_json(&reply.payload)?;
    if !answer.accepted {
        bail!("the Manager does not take the listing: {}: {}", answer.reason, answer.message);
    }
    Ok(answer.records_wanted)
}
