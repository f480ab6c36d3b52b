//! An installation that asks to enroll, and what an administrator decided about it. The rules are in `enrollment.rs` and
//! `enrollment_approval.rs`.

use jiff::Timestamp;

/// One installation of an Operator, as it identifies itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// UID of the kube-system namespace: the identity of the Kubernetes cluster.
    pub cluster_uid: String,
    /// Fingerprint of its public keys.
    pub keys: String,
}

/// What an administrator said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The installation may enroll.
    Approved,
    /// It may not.
    Rejected,
}

impl Verdict {
    /// The text in the database and in REST.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Rejected => "rejected",
        }
    }

    /// The one with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Approved, Self::Rejected].into_iter().find(|verdict| verdict.as_str() == text)
    }
}

/// A decision about an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What was decided.
    pub verdict: Verdict,
    /// When.
    pub at: Timestamp,
    /// Who decided.
    pub by: String,
    /// Why, where it was rejected.
    pub reason: String,
}

/// An installation that asked to enroll where approval is manual. A token has one at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRequest {
    /// Who asked.
    pub installation: Installation,
    /// Fingerprint of its keys, as administrators compare it.
    pub fingerprint: String,
    /// Version of its Operator, as it says.
    pub operator_version: String,
    /// Version of its API server, as it says.
    pub kubernetes_version: String,
    /// Nodes of its cluster, as it says.
    pub nodes: Option<i32>,
    /// Address it last asked from.
    pub peer: String,
    /// When it first asked.
    pub requested_at: Timestamp,
    /// When it last asked.
    pub last_requested_at: Timestamp,
    /// What was decided.
    pub decision: Option<Decision>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_read_back() {
        for verdict in [Verdict::Approved, Verdict::Rejected] {
            assert_eq!(Verdict::parse(verdict.as_str()), Some(verdict));
        }
        assert_eq!(Verdict::parse(""), None);
    }
}
