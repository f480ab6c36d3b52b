//! What both sides share in transit: connecting, streams and durables, publishing with an awaited acknowledgement,
//! consuming with a verdict.
//!
//! Delivery is at least once and out of order. A publish counts only when the server acknowledged it; a message is
//! acknowledged only when its consumer says that what it holds is durable on our side.

pub mod cause;
pub mod connection;
pub mod consume;
pub mod durable;
pub mod publish;
pub mod streams;

pub use connection::{Connection, Credentials, Settings, connect};

/// What can go wrong on the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// No connection could be made in time.
    #[error("could not connect to the broker at {urls}")]
    Connect {
        /// Where it was tried.
        urls: String,
        /// Why it failed.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The stored nkey seed is unusable.
    #[error("could not read the nkey seed")]
    Seed(#[source] nkeys::error::Error),
    /// A stream could not be made or changed.
    #[error("could not ensure stream \"{name}\"")]
    Stream {
        /// The stream.
        name: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A durable could not be made or changed.
    #[error("could not ensure durable \"{durable}\" on stream \"{stream}\"")]
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
    #[error("could not purge \"{subject}\"")]
    Purge {
        /// The subject.
        subject: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server did not take the message, or its acknowledgement did not arrive: publish again.
    #[error("could not publish to \"{subject}\"")]
    Publish {
        /// The subject.
        subject: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
