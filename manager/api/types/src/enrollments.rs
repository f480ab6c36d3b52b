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
    /// Revoked by an administrator before it was used, or because the cluster was purged.
    Revoked,
}

/// Uses of a token by other installations than the one it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecondUses {
    /// Id of the token.
    pub enrollment_id: String,
    /// How many.
    pub count: String,
    /// When the last one was made.
    pub last_at: Timestamp,
    /// Address that it came from.
    pub last_peer: String,
}

/// An installation that asked to enroll where an administrator approves. What it says of itself helps to tell clusters apart; only the
/// fingerprint says who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalRequest {
    /// Of its public keys. The cluster shows its own in condition `TokenAccepted` of its NovaClusterConfig: compare both.
    #[schema(example = "sha256:3f1d2c0b9a887766554433221100ffeeddccbbaa99887766554433221100ffee")]
    pub fingerprint: String,
    /// UID of its kube-system namespace, as it says.
    pub kubernetes_uid: String,
    /// Nodes of its cluster, as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
    /// Version of its API server, as it says.
    pub kubernetes_version: String,
    /// Version of its Operator, as it says.
    pub operator_version: String,
    /// Address that it last asked from.
    pub peer: String,
    /// When it first asked.
    pub requested_at: Timestamp,
    /// When it last asked.
    pub last_requested_at: Timestamp,
    /// What was decided; absent while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<ApprovalDecision>,
}

/// What an administrator decided about an installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalDecision {
    /// Whether it may enroll.
    pub verdict: ApprovalVerdict,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// Who decided.
    pub decided_by: String,
    /// Why it was rejected; its Operator shows it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether an installation may enroll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum ApprovalVerdict {
    /// It may.
    Approved,
    /// It may not.
    Rejected,
}

/// Body of `POST …/approve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnrollmentApprove {
    /// The fingerprint that the cluster itself shows. Any other is refused.
    #[schema(min_length = 1, max_length = 100)]
    pub fingerprint: String,
}

/// Body of `POST …/reject`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnrollmentReject {
    /// Why, in one line; the Operator shows it to whoever installs it.
    #[schema(min_length = 1, max_length = 500, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    pub reason: String,
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
    /// The installation that waits, or waited, for approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<ApprovalRequest>,
    /// Its uses by other installations than the one it belongs to, all of them refused: it may have been stolen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_uses: Option<SecondUses>,
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
