//! The broker as both sides use it: connecting, streams and durables, publishing with an awaited acknowledgement,
//! consuming with a verdict.
//!
//! Delivery is at least once and out of order. A publish counts only when the broker acknowledged it; a message is
//! acknowledged only when what it holds is durable on our side.

pub mod cause;
pub mod connection;
pub mod consume;
pub mod durable;
pub mod publish;
pub mod servers;
pub mod streams;

pub use connection::{Connection, Credentials, Settings, connect};

/// What can go wrong with the broker.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// No connection could be made in time.
    #[error("could not connect to the broker at {urls}")]
    Connect {
        /// Where.
        urls: String,
        /// Why it failed.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The stored nkey seed is unusable.
    #[error("could not read the nkey seed")]
    Seed(#[source] nkeys::error::Error),
    /// A stream could not be created or changed.
    #[error("could not create or update stream \"{name}\"")]
    Stream {
        /// The stream.
        name: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A durable could not be created or changed.
    #[error("could not create or update durable \"{durable}\" on stream \"{stream}\"")]
    Durable {
        /// The stream.
        stream: String,
        /// The durable.
        durable: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A subject could not be purged.
    #[error("could not purge subject \"{subject}\"")]
    Purge {
        /// The subject.
        subject: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The broker did not store the message, or its acknowledgement did not arrive: publish again.
    #[error("could not publish to \"{subject}\"")]
    Publish {
        /// The subject.
        subject: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl BusError {
    /// True when the broker accepts no message as large as this one.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        let Self::Publish { source, .. } = self else { return false };
        let error = source.downcast_ref::<async_nats::jetstream::context::PublishError>();
        error.is_some_and(|error| error.kind() == async_nats::jetstream::context::PublishErrorKind::MaxPayloadExceeded)
    }
}
