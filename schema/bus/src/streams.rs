//! Creates the streams of `kubenova_schema::streams`, as often as they are deleted.

use crate::BusError;
use async_nats::jetstream::{self, stream as settings};
use kubenova_schema::streams::{self, Stream};

/// Creates what is missing of the streams, and sets every one to its settings.
///
/// # Errors
/// When the broker refuses one or does not answer.
pub async fn ensure_all(jetstream: &jetstream::Context) -> Result<(), BusError> {
    for stream in &streams::ALL {
        ensure(jetstream, stream).await?;
    }
    Ok(())
}

/// Creates one stream if it is missing, and sets it to its settings.
///
/// # Errors
/// When the broker refuses it or does not answer.
pub async fn ensure(jetstream: &jetstream::Context, stream: &Stream) -> Result<(), BusError> {
    jetstream
        .create_or_update_stream(config(stream))
        .await
        .map(drop)
        .map_err(|source| BusError::Stream { name: stream.name.to_owned(), source: source.into() })
}

fn config(stream: &Stream) -> settings::Config {
    settings::Config {
        name: stream.name.to_owned(),
        description: Some(stream.description.to_owned()),
        subjects: stream.subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        retention: settings::RetentionPolicy::Limits,
        discard: settings::DiscardPolicy::Old,
        storage: settings::StorageType::File,
        num_replicas: 1,
        max_age: stream.max_age,
        duplicate_window: stream.duplicate_window,
        max_messages_per_subject: stream.max_messages_per_subject,
        max_messages: -1,
        max_bytes: stream.max_bytes,
        max_consumers: stream.max_consumers,
        ..settings::Config::default()
    }
}
