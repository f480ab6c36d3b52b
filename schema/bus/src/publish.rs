//! Publishing: done only when the broker has stored the message. Many may be on their way at once.

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

/// A message that was sent and that the broker has not acknowledged yet.
#[derive(Debug)]
pub struct Unconfirmed {
    subject: String,
    acknowledgement: jetstream::context::PublishAckFuture,
}

impl Unconfirmed {
    /// Waits until the broker has stored it.
    ///
    /// # Errors
    /// When the broker does not acknowledge it in time: publish it again.
    pub async fn stored(self) -> Result<Stored, BusError> {
        let acknowledgement = self.acknowledgement.await.map_err(|error| failed(&self.subject, error))?;
        Ok(Stored {
            stream: acknowledgement.stream,
            sequence: acknowledgement.sequence,
            duplicate: acknowledgement.duplicate,
        })
    }
}

/// Sends a message to a stream. Messages of one connection are stored in the order in which they are sent.
///
/// # Errors
/// When it cannot be sent.
pub async fn send(
    jetstream: &jetstream::Context,
    subject: &str,
    headers: HeaderMap,
    payload: impl Into<Bytes>,
) -> Result<Unconfirmed, BusError> {
    let sent = jetstream.publish_with_headers(subject.to_owned(), headers, payload.into()).await;
    let acknowledgement = sent.map_err(|error| failed(subject, error))?;
    Ok(Unconfirmed { subject: subject.to_owned(), acknowledgement })
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
    send(jetstream, subject, headers, payload).await?.stored().await
}

fn failed(subject: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BusError {
    BusError::Publish { subject: subject.to_owned(), source: error.into() }
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
