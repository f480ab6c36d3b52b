//! Enrollment: whether a token may be used, and whether a Kubernetes cluster may enroll under a cluster's record.
//!
//! A token works once. Because an answer may be lost on its way, the same installation gets it again until it has
//! connected; any other use of a used token is refused and raised, for it may have been stolen. An installation that waits for approval
//! (`enrollment_approval.rs`) has its token to itself, too.

use crate::{
    cluster::{ClusterId, ClusterState},
    enrollment_request::{ApprovalRequest, Decision, Installation, Verdict},
    refusal::{Reason, Refusal},
};
use jiff::{SignedDuration, Timestamp};

/// How long an approval counts: the Operator asks every few seconds, but its cluster may be cut off just then.
const APPROVAL_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// Longest UID of a namespace; Kubernetes makes UUIDs of 36 characters.
const UID_LENGTH_MAX: usize = 64;

/// A request to enroll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollmentAttempt {
    /// The cluster that it wants to be.
    pub cluster: ClusterId,
    /// Who sent it.
    pub installation: Installation,
}

/// An enrollment token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// The cluster that it enrolls.
    pub cluster: ClusterId,
    /// When it expires.
    pub expires_at: Timestamp,
    /// Whether an administrator revoked it.
    pub revoked: bool,
    /// The installation that used it.
    pub used_by: Option<Installation>,
    /// Whether that installation has connected since.
    pub connected: bool,
    /// The installation that asked where approval is manual.
    pub request: Option<ApprovalRequest>,
}

impl TokenRecord {
    /// The installation that the token belongs to.
    fn owner(&self) -> Option<&Installation> {
        self.used_by.as_ref().or(self.request.as_ref().map(|request| &request.installation))
    }

    fn decision(&self) -> Option<&Decision> {
        self.request.as_ref()?.decision.as_ref()
    }
}

/// What happens with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenDecision {
    /// It is unused and valid: the cluster may be admitted.
    Use,
    /// The installation that used it gets the same answer again.
    Repeat,
    /// It is refused.
    Refuse(Refusal),
    /// It is refused, and another installation than the one it belongs to shows it: an administrator should look at it.
    SecondUse(Refusal),
}

/// Decides whether a token may be used. A secret that belongs to no token is `None`.
#[must_use]
pub fn check_token(token: Option<&TokenRecord>, attempt: &EnrollmentAttempt, now: Timestamp) -> TokenDecision {
    let refuse = |reason, detail: &str| TokenDecision::Refuse(Refusal::new(reason, detail));
    let Some(token) = token else {
        return refuse(Reason::EnrollmentTokenUnknown, "this Manager has no such enrollment token");
    };
    if token.cluster != attempt.cluster {
        return refuse(Reason::EnrollmentTokenUnknown, "the token is for another cluster than the request");
    }
    if token.owner().is_some_and(|owner| *owner != attempt.installation) {
        let detail = if token.used_by.is_some() {
            "the token was already used by another installation"
        } else {
            "the token was already shown by another installation, about which an administrator decides"
        };
        return TokenDecision::SecondUse(Refusal::new(Reason::EnrollmentTokenUsed, detail));
    }
    if token.revoked {
        let detail = if token.used_by.is_some() {
            "the token was used by this installation and has been revoked since"
        } else {
            "the token was revoked"
        };
        return refuse(Reason::EnrollmentTokenRevoked, detail);
    }
    if token.used_by.is_some() {
        if token.connected {
            let detail = "the token was already used by this installation, which has connected since";
            return refuse(Reason::EnrollmentTokenUsed, detail);
        }
        return TokenDecision::Repeat;
    }
    match token.decision() {
        // Also after the token's life: it was approved within it.
        Some(Decision { verdict: Verdict::Approved, at, .. }) if now.duration_since(*at) <= APPROVAL_LIFETIME => {
            TokenDecision::Use
        }
        Some(Decision { verdict: Verdict::Approved, at, by, .. }) => refuse(
            Reason::EnrollmentTokenExpired,
            &format!("{by} approved this enrollment at {at:.0}, and it was not completed within a day"),
        ),
        Some(Decision { verdict: Verdict::Rejected, at, by, reason }) => {
            refuse(Reason::EnrollmentRejected, &format!("{by} rejected this enrollment at {at:.0}: {reason}"))
        }
        None if token.expires_at <= now => {
            let waited = if token.request.is_some() { " while its enrollment waited for approval" } else { "" };
            refuse(Reason::EnrollmentTokenExpired, &format!("the token expired at {:.0}{waited}", token.expires_at))
        }
        None => TokenDecision::Use,
    }
}

/// A cluster's record, as admission sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateRecord {
    /// Its name.
    pub name: String,
    /// Whether its identity is trusted.
    pub state: ClusterState,
    /// UID of the Kubernetes cluster that enrolled before.
    pub kubernetes_uid: Option<String>,
    /// Name of another record under which this Kubernetes cluster is enrolled.
    pub enrolled_as: Option<String>,
    /// Since when it is quarantined.
    pub quarantined_at: Option<Timestamp>,
    /// When the token was created.
    pub token_created_at: Timestamp,
}

/// Whether a Kubernetes cluster may enroll under a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Admit,
    /// It may not.
    Refuse(Refusal),
    /// It may not, and two Kubernetes clusters claim one record: nothing more is sent until an administrator decides.
    Quarantine {
        /// For whoever showed the token.
        refusal: Refusal,
        /// For the administrator: who claims the record, and the way out.
        message: String,
    },
}

/// Decides whether a Kubernetes cluster may enroll under a record. The same one may do so again: it gets a new
/// incarnation.
#[must_use]
pub fn admit(record: &CandidateRecord, attempt: &EnrollmentAttempt) -> Admission {
    let uid = &attempt.installation.cluster_uid;
    if !record.state.may_enroll() {
        let detail = format!("cluster \"{}\" is {}", record.name, record.state.as_str());
        return Admission::Refuse(Refusal::new(Reason::ClusterNotUsable, detail));
    }
    let name = &record.name;
    let claims = match (&record.enrolled_as, &record.kubernetes_uid) {
        (Some(other), _) => Some((
            format!(
                "this Kubernetes cluster is enrolled as \"{other}\", and the token is of \"{name}\", which is quarantined until an \
                 administrator decides"
            ),
            format!("which is enrolled as \"{other}\""),
        )),
        (None, Some(known)) if known != uid => Some((
            format!(
                "another Kubernetes cluster is enrolled as \"{name}\", which is quarantined until an administrator decides"
            ),
            format!("while that with UID {known} is enrolled"),
        )),
        _ => None,
    };
    if let Some((detail, who)) = claims {
        let message = format!(
            "a Kubernetes cluster with UID {uid}, {who}, used a token of this cluster; stop its Operator or install it with a token of \
             its own, then release this cluster"
        );
        return Admission::Quarantine { refusal: Refusal::new(Reason::ClusterUidMismatch, detail), message };
    }
    // An administrator ends a quarantine, not a token that lay about when it began.
    if let Some(since) = record.quarantined_at.filter(|since| record.token_created_at <= *since) {
        let detail = format!("the token was created before \"{name}\" was quarantined, at {since:.0}");
        return Admission::Refuse(Refusal::new(Reason::EnrollmentTokenRevoked, detail));
    }
    Admission::Admit
}

/// Refuses a text that cannot be the UID of a namespace.
///
/// # Errors
/// With [`Reason::EnrollmentRequestInvalid`].
pub fn check_cluster_uid(uid: &str) -> Result<(), Refusal> {
    let is_uid = (1..=UID_LENGTH_MAX).contains(&uid.len())
        && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_uid {
        return Ok(());
    }
    Err(Refusal::at(
        Reason::EnrollmentRequestInvalid,
        "/clusterUid",
        "clusterUid is not the UID of the kube-system namespace",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn cluster(number: u128) -> ClusterId {
        ClusterId::from_uuid(Uuid::from_u128(number))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn attempt(uid: &str, keys: &str) -> EnrollmentAttempt {
        let installation = Installation { cluster_uid: uid.to_owned(), keys: keys.to_owned() };
        EnrollmentAttempt { cluster: cluster(1), installation }
    }

    fn fresh() -> TokenRecord {
        TokenRecord {
            cluster: cluster(1),
            expires_at: at(100),
            revoked: false,
            used_by: None,
            connected: false,
            request: None,
        }
    }

    fn refused(decision: TokenDecision) -> Reason {
        match decision {
            TokenDecision::Refuse(refusal) | TokenDecision::SecondUse(refusal) => refusal.reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_fresh_token_works_until_it_expires_or_is_revoked() {
        let check = |token: &TokenRecord, now| check_token(Some(token), &attempt("u", "k"), at(now));
        assert_eq!(check(&fresh(), 99), TokenDecision::Use);
        assert_eq!(refused(check(&fresh(), 100)), Reason::EnrollmentTokenExpired);
        let revoked = TokenRecord { revoked: true, ..fresh() };
        assert_eq!(refused(check(&revoked, 0)), Reason::EnrollmentTokenRevoked);
        let foreign = TokenRecord { cluster: cluster(2), ..fresh() };
        assert_eq!(refused(check(&foreign, 0)), Reason::EnrollmentTokenUnknown);
        assert_eq!(refused(check_token(None, &attempt("u", "k"), at(0))), Reason::EnrollmentTokenUnknown);
    }

    #[test]
    fn a_used_token_answers_its_own_installation_until_it_has_connected() {
        let used = TokenRecord { used_by: Some(attempt("u", "k").installation), ..fresh() };
        // Also after the token's time: the answer may have been lost just before.
        assert_eq!(check_token(Some(&used), &attempt("u", "k"), at(1000)), TokenDecision::Repeat);
        let connected = TokenRecord { connected: true, ..used.clone() };
        let decision = check_token(Some(&connected), &attempt("u", "k"), at(0));
        assert_eq!(refused(decision), Reason::EnrollmentTokenUsed);
        // Its cluster was purged before the answer arrived.
        let revoked = TokenRecord { revoked: true, ..used.clone() };
        let decision = check_token(Some(&revoked), &attempt("u", "k"), at(0));
        assert_eq!(refused(decision), Reason::EnrollmentTokenRevoked);
        for other in [attempt("u", "other"), attempt("other", "k")] {
            let decision = check_token(Some(&used), &other, at(0));
            assert!(matches!(decision, TokenDecision::SecondUse(_)), "{decision:?}");
        }
    }

    fn asked(verdict: Option<Verdict>) -> TokenRecord {
        let request = ApprovalRequest {
            installation: attempt("u", "k").installation,
            fingerprint: "sha256:ab".into(),
            operator_version: String::new(),
            kubernetes_version: String::new(),
            nodes: None,
            peer: String::new(),
            requested_at: at(1),
            last_requested_at: at(1),
            decision: verdict.map(|verdict| Decision { verdict, at: at(2), by: "ann".into(), reason: "no".into() }),
        };
        TokenRecord { request: Some(request), ..fresh() }
    }

    #[test]
    fn an_installation_that_asked_for_approval_has_the_token_to_itself() {
        for token in [asked(None), asked(Some(Verdict::Approved)), asked(Some(Verdict::Rejected))] {
            for other in [attempt("u", "other"), attempt("other", "k")] {
                let decision = check_token(Some(&token), &other, at(0));
                assert!(matches!(decision, TokenDecision::SecondUse(_)), "{decision:?}");
            }
        }
        let check = |token: &TokenRecord, now| check_token(Some(token), &attempt("u", "k"), at(now));
        assert_eq!(check(&asked(None), 99), TokenDecision::Use);
        assert_eq!(refused(check(&asked(None), 100)), Reason::EnrollmentTokenExpired);
        assert_eq!(check(&asked(Some(Verdict::Approved)), 100), TokenDecision::Use, "it was approved in time");
        let day = 24 * 3600;
        assert_eq!(check(&asked(Some(Verdict::Approved)), 2 + day), TokenDecision::Use);
        assert_eq!(refused(check(&asked(Some(Verdict::Approved)), 3 + day)), Reason::EnrollmentTokenExpired);
        let rejected = check(&asked(Some(Verdict::Rejected)), 99);
        assert!(
            matches!(&rejected, TokenDecision::Refuse(it) if it.detail.contains("ann rejected") && it.detail.ends_with("no"))
        );
        assert_eq!(refused(rejected), Reason::EnrollmentRejected);
        let revoked = TokenRecord { revoked: true, ..asked(Some(Verdict::Approved)) };
        assert_eq!(refused(check(&revoked, 0)), Reason::EnrollmentTokenRevoked);
    }

    #[test]
    fn a_record_admits_the_kubernetes_cluster_that_it_is() {
        let record = |state, uid: Option<&str>, other: Option<&str>| CandidateRecord {
            name: "alpha".to_owned(),
            state,
            kubernetes_uid: uid.map(str::to_owned),
            enrolled_as: other.map(str::to_owned),
            quarantined_at: None,
            token_created_at: at(5),
        };
        let admit = |record: CandidateRecord| admit(&record, &attempt("u", "k"));
        assert_eq!(admit(record(ClusterState::PendingBootstrap, None, None)), Admission::Admit);
        assert_eq!(admit(record(ClusterState::Enrolled, Some("u"), None)), Admission::Admit);
        assert_eq!(admit(record(ClusterState::Revoked, Some("u"), None)), Admission::Admit, "with a token made since");
        for state in [ClusterState::Revoking, ClusterState::Detached, ClusterState::Purged] {
            let admission = admit(record(state, Some("u"), None));
            assert!(matches!(admission, Admission::Refuse(it) if it.reason == Reason::ClusterNotUsable), "{state:?}");
        }
        for (quarantined, admitted) in [(at(4), true), (at(5), false), (at(6), false)] {
            let record = record(ClusterState::Quarantined, Some("u"), None);
            let admission = admit(CandidateRecord { quarantined_at: Some(quarantined), ..record });
            assert_eq!(admission == Admission::Admit, admitted, "a token that was created before it does not end it");
        }
        for clone in [
            record(ClusterState::Enrolled, Some("other"), None),
            record(ClusterState::PendingBootstrap, None, Some("beta")),
            // Whoever shows such a token again must read why, and not that the token is old.
            CandidateRecord {
                quarantined_at: Some(at(6)),
                ..record(ClusterState::Quarantined, Some("other"), Some("beta"))
            },
        ] {
            let Admission::Quarantine { refusal, message } = admit(clone) else { panic!("not quarantined") };
            assert_eq!(refusal.reason, Reason::ClusterUidMismatch);
            assert!(refusal.detail.contains("\"alpha\"") && message.contains("UID u"), "{}: {message}", refusal.detail);
        }
    }

    #[test]
    fn uids_of_namespaces() {
        assert!(check_cluster_uid("0198c1d2-0000-7000-8000-000000000000").is_ok());
        for bad in ["", "a b", "ü", &"a".repeat(65)] {
            assert!(check_cluster_uid(bad).is_err(), "{bad:?}");
        }
    }
}
