//! What both sides share in meaning: messages, subjects, streams, signatures, names.
//!
//! Nothing here does I/O, reads a clock or knows a database or a Kubernetes client. The only subject strings of the
//! project stand in [`subjects`]; the only stream settings in [`streams`].

// Others read these types without their code: every public item says what it means.
#![warn(missing_docs)]

pub mod applications;
pub mod deletion_confirmation;
pub mod kinds;
pub mod message;
pub mod meters;
pub mod mutant;
pub mod nats_files;
pub mod quantity;
pub mod renewal;
pub mod sealed;
pub mod sealing;
pub mod signature;
pub mod streams;
pub mod subjects;
pub mod token;
pub mod trace;
pub mod window;

pub mod enrollment;
pub mod fingerprint;

/// Types generated from `proto/kubenova/v1`. Field comments there are the documentation.
#[expect(missing_docs, reason = "generated; the documentation stands in the .proto files")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/kubenova.v1.rs"));
}
