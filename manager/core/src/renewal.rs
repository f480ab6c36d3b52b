//! Renewal: whether a cluster's credentials may be issued again. That the request comes from who holds the enrolled key was verified
//! before.
//!
//! A cluster that was away past the end of its credentials renews the same way, so that no person has to visit it.

use crate::{
    cluster::ClusterState,
    refusal::{Reason, Refusal},
};
use jiff::{SignedDuration, Timestamp};
use kubenova_schema::mutant;

/// How long after their end credentials can be renewed.
pub const AFTER_END_MAX: SignedDuration = SignedDuration::from_hours(90 * 24);

/// An incarnation and its cluster, as a renewal sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolledRecord {
    /// Whether the cluster's identity is trusted.
    pub state: ClusterState,
    /// UID of the Kubernetes cluster that enrolled.
    pub kubernetes_uid: Option<String>,
    /// The cluster's current incarnation.
    pub incarnation: i64,
    /// When the credentials expire, or expired.
    pub expires_at: Timestamp,
    /// Whether they were revoked.
    pub is_revoked: bool,
}

/// A request to renew, whose signature was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewalAttempt {
    /// UID of the kube-system namespace.
    pub cluster_uid: String,
    /// The incarnation whose key signed it.
    pub incarnation: i64,
}

/// What becomes of a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// New credentials.
    Renew,
    /// None.
    Refuse(Refusal),
    /// None, and two Kubernetes clusters hold one identity: nothing more is sent until an administrator decides.
    Quarantine(Refusal),
}

/// Decides about a renewal. A quarantined cluster renews: quarantine stops what is sent to it, and must not end its identity while a
/// person makes up their mind.
#[must_use]
pub fn decide(record: &EnrolledRecord, attempt: &RenewalAttempt, now: Timestamp) -> Decision {
    let refuse = |reason, detail: String| Decision::Refuse(Refusal::new(reason, detail));
    match record.state {
        ClusterState::Enrolled | ClusterState::Quarantined => {}
        ClusterState::Revoking | ClusterState::Revoked => {
            return refuse(Reason::CredentialsRevoked, "this cluster's credentials were revoked".to_owned());
        }
        state @ (ClusterState::PendingBootstrap | ClusterState::Detached | ClusterState::Purged) => {
            return refuse(Reason::ClusterNotUsable, format!("this cluster is {}", state.as_str()));
        }
    }
    // Whatever the cluster's state has become since: a quarantine, for one, does not bring back what was revoked.
    if record.is_revoked && attempt.incarnation == record.incarnation && !mutant::is_on("renewal.revoked") {
        return refuse(Reason::CredentialsRevoked, "these credentials were revoked".to_owned());
    }
    if attempt.incarnation != record.incarnation && !mutant::is_on("renewal.replaced") {
        let detail = format!(
            "incarnation {} asks for credentials, and incarnation {} has enrolled since",
            attempt.incarnation, record.incarnation
        );
        return refuse(Reason::IncarnationReplaced, detail);
    }
    if record.kubernetes_uid.as_ref() != Some(&attempt.cluster_uid) {
        let detail = "another Kubernetes cluster holds a copy of this cluster's keys; the cluster is quarantined";
        return Decision::Quarantine(Refusal::new(Reason::ClusterUidMismatch, detail));
    }
    if now.duration_since(record.expires_at) > AFTER_END_MAX {
        let detail = format!(
            "the credentials expired at {}, more than {} days ago",
            record.expires_at,
            AFTER_END_MAX.as_hours() / 24
        );
        return refuse(Reason::CredentialsTooOld, detail);
    }
    Decision::Renew
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(change: impl FnOnce(&mut EnrolledRecord, &mut RenewalAttempt), now_hours: i64) -> Result<(), Reason> {
        let mut record = EnrolledRecord {
            state: ClusterState::Enrolled,
            kubernetes_uid: Some("uid".to_owned()),
            incarnation: 2,
            expires_at: Timestamp::UNIX_EPOCH,
            is_revoked: false,
        };
        let mut attempt = RenewalAttempt { cluster_uid: "uid".to_owned(), incarnation: 2 };
        change(&mut record, &mut attempt);
        match decide(&record, &attempt, Timestamp::UNIX_EPOCH + SignedDuration::from_hours(now_hours)) {
            Decision::Renew => Ok(()),
            Decision::Refuse(refusal) => Err(refusal.reason),
            Decision::Quarantine(refusal) => {
                assert_eq!(refusal.reason, Reason::ClusterUidMismatch);
                Err(refusal.reason)
            }
        }
    }

    #[test]
    fn credentials_are_renewed_long_before_and_ninety_days_after_their_end() {
        for (hours, renewed) in [(-24 * 14, Ok(())), (90 * 24, Ok(())), (90 * 24 + 1, Err(Reason::CredentialsTooOld))] {
            assert_eq!(decided(|_, _| {}, hours), renewed, "{hours}");
        }
    }

    #[test]
    fn who_was_replaced_revoked_or_copied_gets_none() {
        assert_eq!(decided(|_, attempt| attempt.incarnation = 1, 0), Err(Reason::IncarnationReplaced));
        assert_eq!(decided(|_, attempt| attempt.cluster_uid = "copy".into(), 0), Err(Reason::ClusterUidMismatch));
        assert_eq!(decided(|record, _| record.kubernetes_uid = None, 0), Err(Reason::ClusterUidMismatch));
        for state in [ClusterState::Enrolled, ClusterState::Quarantined] {
            let revoked = |record: &mut EnrolledRecord, _: &mut RenewalAttempt| {
                (record.state, record.is_revoked) = (state, true);
            };
            assert_eq!(decided(revoked, 0), Err(Reason::CredentialsRevoked), "{state:?}");
        }
        for state in ClusterState::ALL {
            let expected = match state {
                ClusterState::Enrolled | ClusterState::Quarantined => Ok(()),
                ClusterState::Revoking | ClusterState::Revoked => Err(Reason::CredentialsRevoked),
                _ => Err(Reason::ClusterNotUsable),
            };
            assert_eq!(decided(|record, _| record.state = state, 0), expected, "{state:?}");
        }
    }
}
