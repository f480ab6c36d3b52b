//! A command that could not be stored: delivered again soon, or put off with a verdict, so that its row says what is in the way.
//!
//! An API server that is away keeps every command out and comes back: the message stays at the broker. What keeps out this one
//! record (a policy of the site, a webhook, its size) is for a person to correct, and no other command may wait for that.

use super::answer::{Answer, NotNow};
use crate::apiserver;
use kubenova_operator_core::{command::Unreadable, outcome::State};
use kubenova_schema::mutant;
use std::time::Duration;

/// The API server or the broker is busy or away; both come back within seconds.
const REDELIVER_AFTER: Duration = Duration::from_secs(1);
/// Deliveries after which a command that gets no verdict by itself is put off.
const DELIVERIES_MAX: i64 = 3;
/// A person corrects what refuses a record within minutes; until then an attempt costs one refused request.
const REFUSED_RETRY_SECONDS: u32 = 60;
/// What gives no answer may be over sooner.
const STUCK_RETRY_SECONDS: u32 = 30;

/// A message without a valid signature may bear the id of a true command: that one is sent again soon.
const UNVERIFIED_RETRY_SECONDS: u32 = 60;
/// A release that reads it is installed within hours at best.
const UNREADABLE_RETRY_SECONDS: u32 = 600;

/// What to do about it.
#[derive(Debug)]
pub(super) enum Remedy {
    /// Deliver it again after this time.
    Again(Duration),
    /// Say so, and have the Manager send it again.
    Answer(Answer),
}

/// What is said of a message that is no command of a known author.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) retry_after_seconds: u32,
}

/// It has no valid signature, or this release cannot read what the Manager signed.
pub(super) fn unreadable(error: &Unreadable, cause: &str) -> Refusal {
    match error {
        Unreadable::Signature(_) => Refusal {
            reason: "CommandUnverified",
            message: format!(
                "dropped a command that cannot be verified: {cause}; if this goes on, find out who else can write to the broker; a \
                 command key that the Manager has changed comes with the next renewal of the credentials"
            ),
            retry_after_seconds: UNVERIFIED_RETRY_SECONDS,
        },
        Unreadable::Body(_) => Refusal {
            reason: "CommandUnreadable",
            message: format!(
                "dropped a command that this Operator cannot read: {cause}; upgrade the older of Manager and Operator"
            ),
            retry_after_seconds: UNREADABLE_RETRY_SECONDS,
        },
    }
}

/// Decides by what went wrong and how often the message has been delivered.
pub(super) fn remedy(error: &NotNow, delivered: i64) -> Remedy {
    let again = Remedy::Again(REDELIVER_AFTER);
    match error {
        NotNow::Publish(_) => again,
        NotNow::Apiserver(error) if error.is_too_large() => Remedy::Answer(too_large(error)),
        NotNow::Apiserver(error) if error.is_refusal() && !mutant::is_on("inbox.refused-again") => {
            Remedy::Answer(refused(error))
        }
        NotNow::Apiserver(error) if error.is_away() => again,
        _ if delivered < DELIVERIES_MAX => again,
        error => Remedy::Answer(stuck(error, delivered)),
    }
}

fn too_large(error: &apiserver::Error) -> Answer {
    let message = format!(
        "the cluster's API server cannot store so large a command: {}; make the object smaller",
        error.reason()
    );
    Answer::new(State::Refused, "RecordTooLarge", message)
}

fn refused(error: &apiserver::Error) -> Answer {
    let message = format!(
        "the cluster's API server does not accept the command's record: {}; ask its administrator to let NovaCommands in \
         kubenova-system pass; it is tried again every {REFUSED_RETRY_SECONDS} s",
        error.reason()
    );
    Answer::deferred("RecordRefused", message, REFUSED_RETRY_SECONDS)
}

fn stuck(error: &NotNow, delivered: i64) -> Answer {
    let message = format!(
        "the command's record could not be stored in {delivered} attempts: {}; see the log of the Operator and the webhooks of \
         the cluster; it is tried again every {STUCK_RETRY_SECONDS} s",
        apiserver::error::chain(error)
    );
    Answer::deferred("RecordNotStored", message, STUCK_RETRY_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: u16, message: &str, delivered: i64) -> (Option<State>, &'static str) {
        let status = kube::core::Status::failure(message, "").with_code(code);
        let error = apiserver::Error::unreadable("novacommands", kube::Error::Api(status.boxed()));
        match remedy(&NotNow::Apiserver(error), delivered) {
            Remedy::Again(_) => (None, ""),
            Remedy::Answer(answer) => (Some(answer.state), answer.reason),
        }
    }

    #[test]
    fn what_refuses_one_record_gets_a_verdict_and_an_api_server_that_is_away_is_waited_for() {
        let deferred = |reason| (Some(State::Deferred), reason);
        assert_eq!(of(422, "ValidatingAdmissionPolicy 'x' denied request: no", 1), deferred("RecordRefused"));
        assert_eq!(of(403, "admission webhook \"x\" denied the request", 1), deferred("RecordRefused"));
        assert_eq!(of(413, "Request entity too large", 1), (Some(State::Refused), "RecordTooLarge"));
        assert_eq!(of(500, "etcdserver: request is too large", 1), (Some(State::Refused), "RecordTooLarge"));
        for delivered in [1, 100] {
            assert_eq!(of(503, "unavailable", delivered), (None, ""), "everything waits for that");
            assert_eq!(of(429, "too many requests", delivered), (None, ""));
        }
        assert_eq!(of(500, "failed calling webhook \"x\": connection refused", 2), (None, ""));
        assert_eq!(of(500, "failed calling webhook \"x\": connection refused", 3), deferred("RecordNotStored"));
        let hangs = |delivered| matches!(remedy(&NotNow::Slow, delivered), Remedy::Answer(_));
        assert!(!hangs(2) && hangs(3), "storing that hangs");
    }
}
