//! Makes the streams of `kubenova_schema::streams`, as often as they are deleted.

use crate::BusError;
use async_nats::jetstream::{self, stream};
use kubenova_schema::streams::{self, Stream};

/// Makes or mends every stream.
///
/// # Errors
/// When the server refuses one or does not answer.
pub async fn ensure_all(jetstream: &jetstream::Context) -> Result<(), BusError> {
    for wanted in &streams::ALL {
        ensure(jetstream, wanted).await?;
    }
    Ok(())
}

/// Makes or mends one stream.
///
/// # Errors
/// When the server refuses it or does not answer.
pub async fn ensure(jetstream: &jetstream::Context, wanted: &Stream) -> Result<(), BusError> {
    jetstream
        .create_or_update_stream(config(wanted))
        .await
        .map(drop)
        .map_err(|source| BusError::Stream { name: wanted.name.to_owned(), source: source.into() })
}

fn config(wanted: &Stream) -> stream::Config {
    stream::Config {
        name: wanted.name.to_owned(),
        subjects: wanted.subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        retention: stream::RetentionPolicy::Limits,
        discard: stream::DiscardPolicy::Old,
        storage: stream::StorageType::File,
        num_replicas: 1,
        max_age: wanted.max_age,
        duplicate_window: wanted.duplicate_window,
        max_messages_per_subject: wanted.max_messages_per_subject,
        max_messages: -1,
        max_bytes: wanted.max_bytes,
        max_consumers: wanted.max_consumers,
        ..stream::Config::default()
    }
}
