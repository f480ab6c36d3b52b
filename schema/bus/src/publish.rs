//! Publishing: done only when the broker has stored the message.

use crate::BusError;
use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;

/// Where the broker stored a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The stream.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// The broker had this `Nats-Msg-Id` already and stored nothing.
    pub duplicate: bool,
}

/// Publishes to a stream and waits until it is stored.
///
/// # Errors
/// When the broker does not acknowledge it in time: publish it again.
pub async fn publish(
    jetstream: &jetstream::Context,
    subject: &str,
    headers: HeaderMap,
    payload: impl Into<Bytes>,
) -> Result<Stored, BusError> {
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| BusError::Publish { subject: subject.to_owned(), source };
    let acknowledgement = jetstream
        .publish_with_headers(subject.to_owned(), headers, payload.into())
        .await
        .map_err(|error| failed(error.into()))?
        .await
        .map_err(|error| failed(error.into()))?;
    Ok(Stored {
        stream: acknowledgement.stream,
        sequence: acknowledgement.sequence,
        duplicate: acknowledgement.duplicate,
    })
}

/// Headers with a message id and others.
#[must_use]
pub fn headers(message_id: &str, others: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(async_nats::header::NATS_MESSAGE_ID, message_id);
    for (name, value) in others {
        headers.insert(*name, *value);
    }
    headers
}
