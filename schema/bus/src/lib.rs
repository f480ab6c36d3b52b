//! The broker as both sides use it: connecting, streams and durables, publishing with an awaited acknowledgement,
//! consuming with a verdict.
//!
//! Delivery is at least once and out of order. A publish counts only when the broker acknowledged it; a message is
//! acknowledged only when what it holds is durable on our side.

pub mod bridge;
pub mod cause;
pub mod connection;
pub mod consume;
pub mod dial;
pub mod durable;
pub mod leaf;
pub mod publish;
pub mod relay;
pub mod route;
pub mod servers;
pub mod streams;
pub mod tls;
pub mod transport;
mod websocket;

use cause::ConnectCause;
use kubenova_runtime::telemetry;
use relay::error::RelayError;
use transport::Transport;

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
    /// No connection could be made by way of the relay.
    #[error("could not connect to the broker at {urls}")]
    Relay {
        /// Where.
        urls: String,
        /// Why it failed.
        #[source]
        source: RelayError,
    },
    /// No connection could be made to the leaf node.
    #[error(transparent)]
    Leaf(Box<Self>),
    /// The leaf node takes messages, and the hub does not answer.
    #[error("the leaf node at {url} was reached, but not the hub by way of it: {problem}")]
    LeafWithoutHub {
        /// The leaf node.
        url: String,
        /// What came instead of an answer.
        problem: &'static str,
    },
    /// None of several transports led to a connection.
    #[error("no transport leads to the broker: {}", shown(.tried))]
    Routes {
        /// What was tried, in order, and why each failed.
        tried: Vec<(Transport, Self)>,
    },
    /// There is no URL that may be used.
    #[error("none of the broker's URLs ({urls}) is of the transport that is set")]
    NoUrl {
        /// What there is.
        urls: String,
    },
    /// The loopback interface accepts no listener.
    #[error("could not listen on the loopback interface")]
    Listen(#[source] std::io::Error),
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

fn shown(tried: &[(Transport, BusError)]) -> String {
    let one = |(transport, error): &(Transport, BusError)| format!("{transport}: {}", telemetry::chain(error));
    tried.iter().map(one).collect::<Vec<_>>().join("; ")
}

impl BusError {
    /// Why no connection was made. Of several transports the broker's own refusal tells most, then the first one's cause.
    #[must_use]
    pub fn cause(&self) -> ConnectCause {
        match self {
            Self::Connect { source, .. } => ConnectCause::of(source),
            Self::Relay { source, .. } => source.cause(),
            Self::Routes { tried } => {
                let causes = || tried.iter().map(|(_, error)| error.cause());
                causes().find(|cause| cause.is_refusal()).or_else(|| causes().next()).unwrap_or(ConnectCause::NoUrl)
            }
            Self::Leaf(error) => error.cause().of_leaf(),
            Self::LeafWithoutHub { .. } => ConnectCause::LeafWithoutHub,
            Self::NoUrl { .. } => ConnectCause::NoUrl,
            // Only the stored nkey is left to fail, and the process's own limits.
            _ => ConnectCause::Unusable,
        }
    }

    /// True when the broker accepts no message as large as this one.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        let Self::Publish { source, .. } = self else { return false };
        let error = source.downcast_ref::<async_nats::jetstream::context::PublishError>();
        error.is_some_and(|error| error.kind() == async_nats::jetstream::context::PublishErrorKind::MaxPayloadExceeded)
    }
}
