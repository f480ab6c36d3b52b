//! Randomness: the only source of ids and secrets.

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use uuid::Uuid;

/// Bytes from the system's cryptographic source.
///
/// # Panics
/// When the operating system has no randomness: nothing safe can be done then.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system provides randomness");
    bytes
}

/// A time-ordered id.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one maker of ids")]
pub fn uuid_v7() -> Uuid {
    Uuid::now_v7()
}

/// An unguessable id, for `Nats-Msg-Id` of what clusters publish: the broker checks for duplicates per stream, so a
/// guessable id could be used first by another cluster, and the message would be dropped.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one maker of ids")]
pub fn uuid_v4() -> Uuid {
    Uuid::new_v4()
}
