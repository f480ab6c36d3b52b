//! Failed calls, and what they mean for a command: refused for good by the cluster, or to be tried again.

use crate::apiserver;
use kubenova_operator_core::outcome::CommandProgress;
use std::time::Duration;

/// A call that failed; the command is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum DispatchError {
    #[error(transparent)]
    Apiserver(#[from] apiserver::Error),
    #[error(transparent)]
    Client(#[from] apiserver::client::ConnectError),
}

impl DispatchError {
    pub(super) fn retry_after(&self) -> Duration {
        match self {
            Self::Apiserver(error) => error.retry_after(),
            Self::Client(_) => Duration::ZERO,
        }
    }

    pub(super) fn progress(&self) -> CommandProgress {
        match self {
            Self::Apiserver(error) if is_refused(error) => {
                CommandProgress::failed("Denied", format!("the cluster refused the object: {}", error.reason()))
            }
            Self::Apiserver(error) => CommandProgress::running("Retrying", apiserver::error::chain(error)),
            Self::Client(error) => CommandProgress::running("Retrying", apiserver::error::chain(error)),
        }
    }
}

/// Admission and validation refuse for good; a missing right may only not be bound yet.
fn is_refused(error: &apiserver::Error) -> bool {
    let message = error.reason();
    // A field that the kind does not have; the API server answers it with one code or another.
    if message.contains("failed to create typed patch object") {
        return true;
    }
    let by_admission = ["admission webhook", "ValidatingAdmissionPolicy", "exceeded quota", "denied the request"]
        .iter()
        .any(|mark| message.contains(mark));
    error.is_invalid() || (error.is_forbidden() && by_admission)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_operator_core::outcome::State;

    fn state(code: u16, message: &str) -> State {
        let status = kube::core::Status::failure(message, "").with_code(code);
        let error = apiserver::Error::unreadable("applications", kube::Error::Api(status.boxed()));
        DispatchError::from(error).progress().state
    }

    #[test]
    fn what_admission_denies_has_failed_and_a_missing_right_is_tried_again() {
        assert_eq!(state(403, "admission webhook \"x\" denied the request: no"), State::Failed);
        assert_eq!(state(403, "ValidatingAdmissionPolicy 'x' denied request"), State::Failed);
        assert_eq!(state(422, "spec.components: Invalid value"), State::Failed);
        assert_eq!(state(500, "failed to create typed patch object: field not declared in schema"), State::Failed);
        assert_eq!(state(403, "User \"x\" cannot patch resource \"applications\""), State::Running);
        assert_eq!(state(503, "the server is currently unable to handle the request"), State::Running);
    }
}
