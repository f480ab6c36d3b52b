//! Enrollment tokens: made, listed, revoked, and the attempts to use them.

use crate::list::List;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /api/v1/clusters/{cluster}/enrollments`; may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnrollmentCreate {
    /// Seconds until the token expires; the Manager's setting when absent (three days).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 600, maximum = 2592000)]
    pub ttl_seconds: Option<u32>,
    /// Whether the cluster's earlier tokens that could still be used are revoked.
    #[serde(default)]
    pub replaces: bool,
}

/// How to enroll a cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Enrollment {
    /// Its id.
    pub id: String,
    /// The token: it works once and is shown once. Absent in a repeated answer and in a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// When the token expires.
    pub expires_at: Timestamp,
    /// SHA-256 of the public key of the Manager's CA in hex; the Operator trusts no other.
    pub ca_sha256: String,
    /// The URLs at which the Operator enrolls.
    pub endpoints: Vec<String>,
    /// Command lines that install the Operator.
    pub commands: EnrollmentCommands,
    /// Ids of the tokens that were revoked with `replaces`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<String>,
}

impl std::fmt::Debug for Enrollment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrollment").field("id", &self.id).field("token", &"***").finish_non_exhaustive()
    }
}

/// Command lines that install the Operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnrollmentCommands {
    /// The helm command; it reads the token from the file `kn-token`.
    pub helm: String,
}

/// Whether an enrollment token can still be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum EnrollmentTokenState {
    /// Not used yet.
    Open,
    /// Used by an installation.
    Used,
    /// Expired before it was used.
    Expired,
    /// Revoked by an administrator before it was used, or because the cluster was purged.
    Revoked,
}

/// One page of enrollment tokens.
pub type EnrollmentList = List<EnrollmentState>;

/// An enrollment token and its uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnrollmentState {
    /// Its id.
    pub id: String,
    /// Whether it can still be used.
    pub state: EnrollmentTokenState,
    /// When it was created.
    pub created_at: Timestamp,
    /// Who created it.
    pub created_by: String,
    /// When it expires.
    pub expires_at: Timestamp,
    /// When it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<Timestamp>,
    /// UID of the kube-system namespace of the cluster that used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by_uid: Option<String>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// Who revoked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_by: Option<String>,
    /// The last attempts to use it, newest first, at most 20.
    #[serde(default)]
    pub attempts: Vec<EnrollmentAttempt>,
}

/// An attempt to use an enrollment token, or to renew credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnrollmentAttempt {
    /// When it was made.
    pub at: Timestamp,
    /// `accepted`, or the reason of the refusal.
    pub outcome: String,
    /// Why it was refused; empty when it was accepted.
    #[serde(default)]
    pub message: String,
    /// Address it came from.
    pub peer: String,
}
