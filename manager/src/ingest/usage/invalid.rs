//! Why a usage message can never be counted. The text becomes the reason of its dead letter.

use kubenova_core::usage::InvalidWindow;
use kubenova_schema::signature::SignatureError;

/// Why a message can never be counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidUsage {
    /// The subject names no cluster and window.
    #[error("subject \"{0}\" does not name a cluster and a window")]
    Subject(String),
    /// Not the protobuf it should be.
    #[error("could not decode the message: {0}")]
    Undecodable(String),
    /// An impossible chunk.
    #[error("chunk {index} of {count} is impossible, or differs from the chunks before it")]
    Chunk {
        /// Its index.
        index: u32,
        /// Of so many.
        count: u32,
    },
    /// No `<nkey public>:<base64>`.
    #[error("the manifest's signature is not of the form <nkey public>:<base64>")]
    SignatureForm,
    /// A key that was never enrolled for this cluster.
    #[error("the manifest is signed by \"{0}\", which was never enrolled for this cluster")]
    UnknownKey(String),
    /// The signature does not verify.
    #[error("the manifest's signature does not verify: {0}")]
    Signature(SignatureError),
    /// Manifest and subject, or manifest and records, disagree.
    #[error("the manifest does not agree with its {0}")]
    Disagrees(&'static str),
    /// The content breaks a rule.
    #[error(transparent)]
    Window(#[from] InvalidWindow),
}
