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
            Self::Apiserver(error) if refusal(error).is_some() => {
                CommandProgress::failed("Denied", format!("the cluster refused the object: {}", error.reason()))
            }
            Self::Apiserver(error) => CommandProgress::running("Retrying", apiserver::error::chain(error)),
            Self::Client(error) => CommandProgress::running("Retrying", apiserver::error::chain(error)),
        }
    }

    /// The same call may succeed without a change of the command: a quota may be raised, a policy lifted.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Apiserver(error) => refusal(error) != Some(Refusal::Invalid),
            Self::Client(_) => true,
        }
    }
}

/// An answer that the command has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// By a webhook, a policy or a quota.
    Denied,
    /// By the kind itself.
    Invalid,
}

/// Whether the call was refused; a missing right may only not be bound yet.
pub(super) fn refusal(error: &apiserver::Error) -> Option<Refusal> {
    let message = error.reason();
    let by_admission = ["admission webhook", "ValidatingAdmissionPolicy", "exceeded quota", "denied the request"]
        .iter()
        .any(|mark| message.contains(mark));
    if by_admission && error.is_refusal() {
        return Some(Refusal::Denied);
    }
    // A field that the kind does not have; the API server answers it with one code or another.
    let has_unknown_field = message.contains("failed to create typed patch object");
    (error.is_invalid() || has_unknown_field).then_some(Refusal::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_operator_core::outcome::State;

    fn answer(code: u16, message: &str) -> DispatchError {
        let status = kube::core::Status::failure(message, "").with_code(code);
        DispatchError::from(apiserver::Error::unreadable("applications", kube::Error::Api(status.boxed())))
    }

    fn state(code: u16, message: &str) -> State {
        answer(code, message).progress().state
    }

    #[test]
    fn what_the_kind_refuses_can_only_pass_by_another_command() {
        assert!(answer(403, "exceeded quota: few, requested: count/applications.core.oam.dev=1").may_pass());
        assert!(answer(422, "admission webhook \"x\" denied the request: no").may_pass());
        assert!(answer(503, "the server is currently unable to handle the request").may_pass());
        assert!(!answer(422, "spec.components: Invalid value").may_pass());
        assert!(!answer(500, "failed to create typed patch object: field not declared in schema").may_pass());
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
