//! What is answered about a command that is not stored, and why one has to be delivered again.

use crate::{apiserver, outbound::outcomes::PublishError};
use kubenova_operator_core::{command::Rejected, inbox::Stale, outcome::State, policy::Denial};
use std::time::Duration;

/// Longest time to store a record: a webhook may take ten seconds, one that hangs thirty, and the broker delivers again after
/// [`kubenova_schema::streams::COMMAND_ACK_WAIT`].
pub(super) const STORE_MAX: Duration = Duration::from_secs(15);
/// Attempts to store against other writers of a record. Only the lease holder writes records, so a conflict is rare: a
/// status write of its own in between.
pub(super) const STORE_ATTEMPTS: u32 = 5;
/// A delete that arrived late may be sent again at once: it is signed again then.
const LATE_RETRY_SECONDS: u32 = 1;

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
    pub(super) fn rejected(rejected: Rejected) -> Self {
        let state = if rejected.unsupported { State::Unsupported } else { State::Refused };
        Self { state, reason: rejected.reason, message: rejected.message, retry_after_seconds: 0 }
    }

    pub(super) fn stale(stale: Stale) -> Self {
        Self {
            state: State::Superseded,
            reason: stale.reason(),
            message: stale.message().to_owned(),
            retry_after_seconds: 0,
        }
    }

    pub(super) fn denial(denial: Denial) -> Self {
        let state = if denial.retry_after_seconds.is_some() { State::Deferred } else { State::Refused };
        Self {
            state,
            reason: denial.reason,
            message: denial.message,
            retry_after_seconds: denial.retry_after_seconds.unwrap_or_default(),
        }
    }

    pub(super) fn late() -> Self {
        Self {
            state: State::Deferred,
            reason: "Late",
            message: "the command arrived after its deadline; the Manager sends it again".to_owned(),
            retry_after_seconds: LATE_RETRY_SECONDS,
        }
    }

    pub(super) fn expired() -> Self {
        Self {
            state: State::Expired,
            reason: "DeadlineExceeded",
            message: "the operation arrived after its deadline: it is not carried out".to_owned(),
            retry_after_seconds: 0,
        }
    }

    pub(super) fn cancelled() -> Self {
        Self {
            state: State::Cancelled,
            reason: "Requested",
            message: "the operation was cancelled before it began".to_owned(),
            retry_after_seconds: 0,
        }
    }

    /// Refused, so that it is not taken for a cancellation that is stored.
    pub(super) fn begun() -> Self {
        Self {
            state: State::Refused,
            reason: "OperationStarted",
            message: "the operation had begun before its cancellation arrived: see how it ends".to_owned(),
            retry_after_seconds: 0,
        }
    }

    pub(super) fn diverged() -> Self {
        let message = "the cluster holds another command of the same revision: the Manager's database was restored or \
                       copied; restore its newest state";
        Self { state: State::Refused, reason: "Divergence", message: message.to_owned(), retry_after_seconds: 0 }
    }
}
