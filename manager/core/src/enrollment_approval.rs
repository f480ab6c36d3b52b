//! Manual approval: an enrollment with a good token waits until an administrator has compared the fingerprint of its keys.
//!
//! What the installation says of itself helps to tell clusters apart; only its keys decide what was approved.

use crate::{
    cluster::Approval,
    enrollment_request::{ApprovalRequest, Decision, Verdict},
    enrollment_token::TokenHistory,
    plain_text::is_plain,
    refusal::{Reason, Refusal},
};
use jiff::Timestamp;

/// Longest reason of a rejection, in characters.
pub const REASON_LENGTH_MAX: usize = 500;

/// Whether an installation has to wait. One that was approved does not, also when approval was made manual since.
#[must_use]
pub fn waits(approval: Approval, request: Option<&ApprovalRequest>) -> bool {
    let decision = request.and_then(|request| request.decision.as_ref());
    approval == Approval::Manual && decision.is_none_or(|decision| decision.verdict != Verdict::Approved)
}

/// Whether an administrator's verdict changes anything; the same one again does not. Approving names the fingerprint that was compared.
///
/// # Errors
/// When the keys are others, nothing waits (any more), or the token can no longer be used.
pub fn decide(
    history: &TokenHistory,
    request: Option<&ApprovalRequest>,
    verdict: Verdict,
    fingerprint: Option<&str>,
    now: Timestamp,
) -> Result<bool, Refusal> {
    let not_pending = |detail: String| Err(Refusal::new(Reason::EnrollmentNotPending, detail));
    let Some(request) = request else {
        return not_pending(
            "no installation has asked with this token, or approval was automatic when it did".to_owned(),
        );
    };
    if let Some(compared) = fingerprint.filter(|compared| !compared.trim().eq_ignore_ascii_case(&request.fingerprint)) {
        let detail = format!("the installation that waits has fingerprint {}, not {compared:?}", request.fingerprint);
        return Err(Refusal::at(Reason::EnrollmentFingerprintMismatch, "/fingerprint", detail));
    }
    if let Some(Decision { verdict: before, at, by, .. }) = &request.decision {
        if *before == verdict {
            return Ok(false);
        }
        let undo = match before {
            Verdict::Approved => "revoke the token if it was not used yet",
            Verdict::Rejected => "create a new token for another attempt",
        };
        return not_pending(format!("{by} {} this enrollment at {at:.0}; {undo}", before.as_str()));
    }
    if history.revoked_at.is_some() {
        return Err(Refusal::new(Reason::EnrollmentTokenRevoked, "the token was revoked while its enrollment waited"));
    }
    if let Some(used_at) = history.used_at {
        return not_pending(format!("the token was used at {used_at:.0}, when approval was automatic"));
    }
    if history.expires_at <= now {
        let detail = format!("the token expired at {:.0} while its enrollment waited for approval", history.expires_at);
        return Err(Refusal::new(Reason::EnrollmentTokenExpired, detail));
    }
    Ok(true)
}

/// Refuses a reason that the Operator could not show.
///
/// # Errors
/// With [`Reason::FieldInvalid`].
pub fn check_reason(reason: &str) -> Result<(), Refusal> {
    if !reason.trim().is_empty() && is_plain(reason, REASON_LENGTH_MAX) {
        return Ok(());
    }
    let length = reason.chars().count();
    let detail = format!(
        "reason has {length} characters; write 1 to {REASON_LENGTH_MAX} without line breaks: whoever installs the cluster reads it"
    );
    Err(Refusal::at(Reason::FieldInvalid, "/reason", detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrollment_request::Installation;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn history() -> TokenHistory {
        TokenHistory { expires_at: at(100), used_at: None, revoked_at: None }
    }

    fn request(verdict: Option<Verdict>) -> ApprovalRequest {
        ApprovalRequest {
            installation: Installation { cluster_uid: "u".into(), keys: "k".into() },
            fingerprint: "sha256:ab".into(),
            operator_version: String::new(),
            kubernetes_version: String::new(),
            nodes: None,
            peer: String::new(),
            requested_at: at(1),
            last_requested_at: at(1),
            decision: verdict.map(|verdict| Decision { verdict, at: at(2), by: "ann".into(), reason: String::new() }),
        }
    }

    #[test]
    fn only_manual_approval_waits_and_only_until_it_is_approved() {
        let (approved, rejected) = (request(Some(Verdict::Approved)), request(Some(Verdict::Rejected)));
        assert!(!waits(Approval::Automatic, None) && !waits(Approval::Automatic, Some(&request(None))));
        assert!(waits(Approval::Manual, None) && waits(Approval::Manual, Some(&request(None))));
        assert!(waits(Approval::Manual, Some(&rejected)));
        assert!(!waits(Approval::Manual, Some(&approved)));
    }

    #[test]
    fn what_is_approved_is_what_was_compared() {
        let approve = |request: Option<&ApprovalRequest>, compared, now| {
            decide(&history(), request, Verdict::Approved, Some(compared), at(now)).map_err(|refusal| refusal.reason)
        };
        let waiting = request(None);
        assert_eq!(approve(Some(&waiting), "sha256:ab", 99), Ok(true));
        assert_eq!(approve(Some(&waiting), " SHA256:AB ", 99), Ok(true));
        assert_eq!(approve(Some(&waiting), "sha256:ac", 99), Err(Reason::EnrollmentFingerprintMismatch));
        assert_eq!(approve(Some(&waiting), "sha256:ab", 100), Err(Reason::EnrollmentTokenExpired));
        assert_eq!(approve(None, "sha256:ab", 99), Err(Reason::EnrollmentNotPending));
        // The same again, also after the token's life; the opposite is refused.
        assert_eq!(approve(Some(&request(Some(Verdict::Approved))), "sha256:ab", 500), Ok(false));
        let refused = approve(Some(&request(Some(Verdict::Rejected))), "sha256:ab", 99);
        assert_eq!(refused, Err(Reason::EnrollmentNotPending));
    }

    #[test]
    fn a_token_that_can_no_longer_be_used_is_not_decided_about() {
        let waiting = request(None);
        let reject = |history: TokenHistory| decide(&history, Some(&waiting), Verdict::Rejected, None, at(9));
        assert_eq!(reject(history()), Ok(true));
        let revoked = reject(TokenHistory { revoked_at: Some(at(3)), ..history() });
        assert_eq!(revoked.unwrap_err().reason, Reason::EnrollmentTokenRevoked);
        let used = reject(TokenHistory { used_at: Some(at(3)), ..history() });
        assert_eq!(used.unwrap_err().reason, Reason::EnrollmentNotPending);
    }

    #[test]
    fn a_reason_is_one_line_that_says_something() {
        assert!(check_reason("not ordered").is_ok() && check_reason(&"ü".repeat(REASON_LENGTH_MAX)).is_ok());
        for bad in ["", "  ", "a\nb", &"a".repeat(REASON_LENGTH_MAX + 1)] {
            assert_eq!(check_reason(bad).unwrap_err().field.as_deref(), Some("/reason"), "{bad:?}");
        }
    }
}
