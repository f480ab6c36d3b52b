//! What is answered about a command that is not stored, and why one has to be delivered again.

use crate::{apiserver, outbound::outcomes::PublishError};
use jiff::Timestamp;
use kubenova_operator_core::{inbox::Stale, outcome::State, policy::Denial};
use std::time::Duration;

/// Longest time to store a record: a webhook may take ten seconds, one that hangs thirty, and the broker delivers again after
/// [`kubenova_schema::streams::COMMAND_ACK_WAIT`].
pub(super) const STORE_MAX: Duration = Duration::from_secs(15);
/// Attempts to store against other writers of a record. Only the lease holder writes records, so a conflict is rare: a
/// status write of its own in between.
pub(super) const STORE_ATTEMPTS: u32 = 5;

/// What to answer about a command that is not stored.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) state: State,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) retry_after_seconds: u32,
}

/// Why a command has to be delivered again.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotNow {
    #[error("could not use the inbox")]
    Apiserver(#[from] apiserver::Error),
    #[error("could not publish a verdict")]
    Publish(#[from] PublishError),
    #[error("could not store the record in {} s", STORE_MAX.as_secs())]
    Slow,
    #[error("could not store the record in {STORE_ATTEMPTS} attempts: another writer keeps changing it")]
    Contended,
}

impl Answer {
    /// Final.
    pub(super) fn new(state: State, reason: &'static str, message: impl Into<String>) -> Self {
        Self { state, reason, message: message.into(), retry_after_seconds: 0 }
    }

    /// The Manager sends the command again after this time.
    pub(super) fn deferred(reason: &'static str, message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self { retry_after_seconds, ..Self::new(State::Deferred, reason, message) }
    }

    pub(super) fn rejected(unsupported: bool, reason: &'static str, message: String) -> Self {
        Self::new(if unsupported { State::Unsupported } else { State::Refused }, reason, message)
    }

    pub(super) fn stale(stale: Stale) -> Self {
        Self::new(State::Superseded, stale.reason(), stale.message())
    }

    pub(super) fn denial(Denial { reason, message, retry_after_seconds }: Denial) -> Self {
        match retry_after_seconds {
            Some(seconds) => Self::deferred(reason, message, seconds),
            None => Self::new(State::Refused, reason, message),
        }
    }

    pub(super) fn late(deadline: Timestamp, now: Timestamp, retry_after_seconds: u32) -> Self {
        let message = format!(
            "the command was to be stored by {deadline}, and it is {now} by the Manager's clock as compared at the last hello: it was \
             long on its way, or a clock was set; the Manager signs it again and sends it in {retry_after_seconds} s"
        );
        Self::deferred("Late", message, retry_after_seconds)
    }

    pub(super) fn expired(deadline: Timestamp, now: Timestamp) -> Self {
        let message = format!(
            "the operation arrived after its deadline, {deadline}: it is {now} by the Manager's clock; it is not carried out"
        );
        Self::new(State::Expired, "DeadlineExceeded", message)
    }

    pub(super) fn cancelled() -> Self {
        Self::new(State::Cancelled, "Requested", "the operation was cancelled before it began")
    }

    /// Refused, so that it is not taken for a cancellation that is stored.
    pub(super) fn begun() -> Self {
        let message = "the operation had begun before its cancellation arrived: see how it ends";
        Self::new(State::Refused, "OperationStarted", message)
    }

    pub(super) fn diverged() -> Self {
        let message = "the cluster holds another command of the same revision: the Manager's database was restored or copied; see \
                       what the cluster holds with kubenova-manager recover list";
        Self::new(State::Refused, "Divergence", message)
    }
}
