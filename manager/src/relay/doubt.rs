//! Whether the broker answers. A Manager that is cut off from the broker and not from Postgres must not go on claiming commands that
//! another Manager could send: each claim holds them for as long as a publish waits for its acknowledgement.

use async_nats::jetstream;
use std::sync::atomic::{AtomicBool, Ordering};

/// Raised by a command that was not acknowledged, removed by any answer of the broker.
#[derive(Debug, Default)]
pub struct Doubt(AtomicBool);

impl Doubt {
    /// A command was not acknowledged.
    pub(super) fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// True when there is none, or the broker answers now.
    pub(super) async fn is_removed(&self, jetstream: &jetstream::Context) -> bool {
        if !self.0.load(Ordering::SeqCst) {
            return true;
        }
        let answers = jetstream.query_account().await.is_ok();
        if answers {
            self.0.store(false, Ordering::SeqCst);
        }
        answers
    }
}
