//! Enrollment tokens as administrators see them: how long they may live, in which state they are, and what revoking one does.
//!
//! Whether an installation may use one is decided in `enrollment.rs`.

use crate::{
    enrollment_request::{ApprovalRequest, Verdict},
    refusal::{Reason, Refusal},
};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

/// Shortest life that a request may choose: shorter than an installation takes, it would only expire.
pub const TTL_SECONDS_MIN: u32 = 10 * 60;
/// Longest life that a request may choose: whoever finds the token in a ticket or a shell history becomes the cluster.
pub const TTL_SECONDS_MAX: u32 = 30 * 24 * 3600;

/// The life that a request chooses for its token.
///
/// # Errors
/// With [`Reason::FieldInvalid`] outside [`TTL_SECONDS_MIN`] to [`TTL_SECONDS_MAX`].
pub fn check_ttl(seconds: u32) -> Result<SignedDuration, Refusal> {
    if (TTL_SECONDS_MIN..=TTL_SECONDS_MAX).contains(&seconds) {
        return Ok(SignedDuration::from_secs(i64::from(seconds)));
    }
    let detail = format!(
        "ttlSeconds is {seconds}; a token lives from {TTL_SECONDS_MIN} (10 minutes) to {TTL_SECONDS_MAX} (30 days) seconds"
    );
    Err(Refusal::at(Reason::FieldInvalid, "/ttlSeconds", detail))
}

/// Whether a token can still be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// Not used yet.
    Open,
    /// An installation waits for an administrator's approval.
    PendingApproval,
    /// An administrator approved the installation, which has not asked since.
    Approved,
    /// An administrator rejected the installation.
    Rejected,
    /// Used by an installation.
    Used,
    /// Expired before it was used.
    Expired,
    /// Revoked by an administrator before it was used, or because its cluster was purged.
    Revoked,
}

/// What happened to a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenHistory {
    /// When it expires.
    pub expires_at: Timestamp,
    /// When an installation got its identity with it.
    pub used_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl TokenHistory {
    /// Its state now, with the installation that asked for approval if one did.
    #[must_use]
    pub fn state(&self, request: Option<&ApprovalRequest>, now: Timestamp) -> TokenState {
        let verdict = request.and_then(|request| request.decision.as_ref()).map(|decision| decision.verdict);
        if self.revoked_at.is_some() {
            TokenState::Revoked
        } else if self.used_at.is_some() {
            TokenState::Used
        } else if let Some(verdict) = verdict {
            match verdict {
                Verdict::Approved => TokenState::Approved,
                Verdict::Rejected => TokenState::Rejected,
            }
        } else if self.expires_at <= now {
            TokenState::Expired
        } else if request.is_some() {
            TokenState::PendingApproval
        } else {
            TokenState::Open
        }
    }

    /// Whether revoking it changes anything; one that was revoked stays as it is.
    ///
    /// # Errors
    /// With [`Reason::EnrollmentCompleted`]: what was issued for a used token does not depend on it any more.
    pub fn revoke(&self) -> Result<bool, Refusal> {
        let Some(used_at) = self.used_at.filter(|_| self.revoked_at.is_none()) else {
            return Ok(self.revoked_at.is_none());
        };
        let detail = format!(
            "the token was used at {used_at:.0} and cannot be used again; revoking it would take nothing away from the cluster \
             that was enrolled with it"
        );
        Err(Refusal::new(Reason::EnrollmentCompleted, detail))
    }
}

/// The id of a token, when the text has its form.
#[must_use]
pub fn parse_id(text: &str) -> Option<Uuid> {
    // Only as it is written in answers: a second spelling would be a second path of one object.
    Uuid::parse_str(text).ok().filter(|id| id.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn open() -> TokenHistory {
        TokenHistory { expires_at: at(100), used_at: None, revoked_at: None }
    }

    #[test]
    fn a_life_is_within_limits_that_the_refusal_names() {
        for good in [TTL_SECONDS_MIN, TTL_SECONDS_MAX] {
            assert_eq!(check_ttl(good).unwrap().as_secs(), i64::from(good));
        }
        for bad in [0, TTL_SECONDS_MIN - 1, TTL_SECONDS_MAX + 1, u32::MAX] {
            let refusal = check_ttl(bad).unwrap_err();
            assert_eq!(refusal.field.as_deref(), Some("/ttlSeconds"));
            assert!(refusal.detail.contains("10 minutes") && refusal.detail.contains("30 days"), "{}", refusal.detail);
        }
    }

    #[test]
    fn what_happened_first_to_last_decides_the_state() {
        let state = |history: &TokenHistory, now| history.state(None, at(now));
        assert_eq!(state(&open(), 99), TokenState::Open);
        assert_eq!(state(&open(), 100), TokenState::Expired);
        let revoked = TokenHistory { revoked_at: Some(at(5)), ..open() };
        assert_eq!(state(&revoked, 200), TokenState::Revoked);
        let used = TokenHistory { used_at: Some(at(6)), ..open() };
        assert_eq!(state(&used, 200), TokenState::Used);
        let purged = TokenHistory { revoked_at: Some(at(7)), ..used };
        assert_eq!(state(&purged, 200), TokenState::Revoked);
    }

    #[test]
    fn a_token_is_revoked_once_and_a_used_one_never() {
        assert_eq!(open().revoke(), Ok(true));
        let revoked = TokenHistory { revoked_at: Some(at(5)), ..open() };
        assert_eq!(revoked.revoke(), Ok(false));
        let used = TokenHistory { used_at: Some(at(6)), ..open() };
        let refusal = used.revoke().unwrap_err();
        assert_eq!(refusal.reason, Reason::EnrollmentCompleted);
        assert!(refusal.detail.contains("take nothing away"), "{}", refusal.detail);
    }

    #[test]
    fn ids_have_one_spelling() {
        let id = "0198c1d2-0000-7000-8000-000000000000";
        assert_eq!(parse_id(id).unwrap().to_string(), id);
        for other in ["", "x", "0198C1D2-0000-7000-8000-000000000000", "0198c1d2000070008000000000000000"] {
            assert_eq!(parse_id(other), None, "{other}");
        }
    }
}
