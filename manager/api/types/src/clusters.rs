//! Clusters: their configuration, their session with the Manager, and their enrollment.

use crate::{
    commands::CommandRef,
    components::{Components, ComponentsChange},
    enrollments::{Enrollment, EnrollmentAttempt, EnrollmentState, SecondUses},
    list::List,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Body of `POST /api/v1/clusters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterCreate {
    /// 1 to 50 lower-case letters, digits and dashes; unique.
    #[schema(example = "dc1-a", min_length = 1, max_length = 50, pattern = "^[a-z]([a-z0-9-]*[a-z0-9])?$")]
    pub name: String,
    /// Where the cluster is; free text without control characters.
    #[serde(default)]
    #[schema(example = "dc1", max_length = 63, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    pub datacenter: String,
    /// Labels as in Kubernetes, at most 32.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether enrollments wait for an administrator; `automatic` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// What to install; what is left out is taken from the Manager's settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<ComponentsChange>,
}

/// Body of `PATCH /api/v1/clusters/{cluster}`: what is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterChange {
    /// Whether enrollments wait for an administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// What should be installed: each component's differences from what is wanted now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<ComponentsChange>,
}

/// Answer of `PATCH /api/v1/clusters/{cluster}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterChanged {
    /// The cluster.
    #[serde(flatten)]
    pub cluster: Cluster,
    /// The commands to it; empty in a dry run, and when nothing changes there.
    pub commands: Vec<CommandRef>,
}

/// Whether enrollments of a cluster wait for an administrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Approval {
    /// A good token is enough.
    Automatic,
    /// An administrator compares the fingerprint of each installation's keys, and approves or rejects it.
    Manual,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Its id.
    #[schema(example = "c01m8x5v2e3fq0000000000000a")]
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where the cluster is.
    pub datacenter: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether its identity is trusted.
    pub state: ClusterState,
    /// Why it is in this state, when that is not what usually happens: one CamelCase word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(example = "CredentialsCopied")]
    pub state_reason: String,
    /// What happened, and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state_message: String,
    /// Whether its enrollments wait for an administrator.
    pub approval: Approval,
    /// What should be installed.
    pub components: Components,
    /// Version of this object; every change of the desired state raises it.
    pub generation: String,
    /// Rises with every further enrollment and when the Manager was restored from a backup; commands of a lower epoch are void.
    pub epoch: String,
    /// Highest revision given to a command so far.
    pub revision: String,
    /// UID of its kube-system namespace, once enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_uid: Option<String>,
    /// When it was first enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolled_at: Option<Timestamp>,
    /// Its certificate and broker credentials; absent until enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<ClusterCredentials>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the desired state last changed.
    pub updated_at: Timestamp,
    /// Who created it.
    pub created_by: String,
    /// Whether its heartbeats arrive.
    pub connection: Connection,
    /// Its last heartbeat: what it reports of itself is known up to then. Absent before its first hello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// Its session with the Manager; absent before its first hello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// Its last hello that was refused, unless the same Operator was admitted since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_hello: Option<RefusedHello>,
    /// The observed state of its configuration; only when a single cluster is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Observed>,
    /// The last uses of one of its tokens by another installation than the one it belongs to, all of them refused. Absent once an
    /// installation has enrolled with another token since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_uses: Option<SecondUses>,
    /// Its last ten enrollment tokens, newest first; only when a single cluster is read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub enrollments: Vec<EnrollmentState>,
}

/// Certificate and broker credentials of a cluster. It renews them by itself from a third of their life on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterCredentials {
    /// Rises with each enrollment; renewals do not change it.
    pub incarnation: String,
    /// When they were last issued.
    pub issued_at: Timestamp,
    /// When the first of them expires, unless they are renewed before.
    pub expires_at: Timestamp,
    /// The last renewals that the cluster's key had signed, newest first; only when a single cluster is read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renewals: Vec<EnrollmentAttempt>,
    /// The key that clients seal to; only when a single cluster is read. Absent once the credentials are revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealing_key: Option<ClusterSealingKey>,
    /// That they were revoked; only when a single cluster is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation: Option<Revocation>,
}

/// A cluster's sealing key: what is sealed to it (HPKE, RFC 9180) only its Operator opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSealingKey {
    /// X25519, 32 bytes in base64.
    pub public_key: String,
    /// `<public nkey>:<base64>`: the cluster's nkey over the key and the cluster.
    pub signature: String,
}

/// A revocation of a cluster's credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Revocation {
    /// `Revoked`, `Detached` or `Purged`.
    #[schema(example = "Revoked")]
    pub reason: String,
    /// When it was requested.
    pub requested_at: Timestamp,
    /// When every server of the broker had it: none accepts the credentials since. Absent while one may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_at: Option<Timestamp>,
    /// The servers of the broker that do not have it yet, with what they said; empty before the first attempt.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub waiting_for: String,
}

/// One page of clusters.
pub type ClusterList = List<Cluster>;

/// Whether a cluster's identity is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClusterState {
    /// Created; its enrollment token was not used yet.
    PendingBootstrap,
    /// Holds an identity.
    Enrolled,
    /// Two Kubernetes clusters claim to be it; nothing is sent until a person decides.
    Quarantined,
    /// Its credentials are revoked, and not every server of the broker has that yet.
    Revoking,
    /// Its credentials are revoked: no server of the broker accepts them. It can enroll again, with a new token.
    Revoked,
    /// No longer managed; what runs there was left as it is, and what is wanted there is kept.
    Detached,
    /// Given up as never coming back; what waited for it has failed.
    Purged,
}

/// Which cluster to purge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterPurge {
    /// Its name, once more.
    pub cluster: String,
}

/// Which cluster to revoke or to detach, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterRevoke {
    /// Its name, once more.
    pub cluster: String,
    /// Why; shown at the cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(
        example = "a backup of the cluster was stolen",
        max_length = 200,
        pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$"
    )]
    pub message: String,
}

/// A cluster that was purged, and what went with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPurged {
    /// The cluster.
    #[serde(flatten)]
    pub cluster: Cluster,
    /// Names of the tenants that were placed on it.
    pub tenants: Vec<String>,
    /// Applications that should run on it, as `<tenant>/<name>`.
    pub applications: Vec<String>,
    /// Those of them that should run nowhere else: they are gone.
    pub applications_gone: Vec<String>,
    /// How many open commands ended as `failed`.
    pub commands_ended: String,
}

/// That tenants of a cluster may be deleted: a statement that a person signed, or the caller's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeletionConfirmationCreate {
    /// What `kubenova-manager confirm-deletions` printed, with `signature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
    /// Its signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Instead: the tenants by id or name. Enough where the policy of the cluster names no keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 500)]
    pub tenants: Option<Vec<String>>,
    /// With `tenants`: seconds for which it counts; 3600 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 604800)]
    pub valid_seconds: Option<u32>,
}

/// A confirmation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeletionConfirmation {
    /// Its id.
    pub id: String,
    /// The cluster.
    pub cluster_id: String,
    /// The tenants that may be deleted there.
    pub tenant_ids: Vec<String>,
    /// Until when it counts.
    pub not_after: Timestamp,
    /// Who confirms.
    pub confirmed_by: String,
    /// Id of the key that signed it; absent for the caller's own statement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
    /// How many deletes waited for it.
    pub released: String,
}

/// Whether a cluster's heartbeats arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Connection {
    /// No heartbeat so far, or the Manager started too recently to know.
    Unknown,
    /// The last heartbeat is recent.
    Connected,
    /// Three heartbeats are missing.
    Stale,
    /// No heartbeat for minutes.
    Offline,
}

/// A cluster's session with the Manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Rises with every hello.
    pub number: String,
    /// Version of the Operator.
    pub operator_version: String,
    /// Version of the API server.
    pub kubernetes_version: String,
    /// The cluster's clock minus the Manager's.
    pub clock_offset_ms: String,
    /// When the session was opened.
    pub opened_at: Timestamp,
    /// When the last heartbeat arrived.
    pub last_heartbeat_at: Timestamp,
}

/// A hello that was refused. It does not end a session that is open: only heartbeats keep one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedHello {
    /// One CamelCase word.
    #[schema(example = "ClusterUidMismatch")]
    pub reason: String,
    /// What is wrong and what to do.
    pub message: String,
    /// Id of the Operator process that sent it.
    pub boot_id: String,
    /// When.
    pub refused_at: Timestamp,
}

/// The observed state of an object, as its cluster reported it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// Whether the cluster's heartbeats arrive.
    pub connection: Connection,
    /// The last moment at which this was known to be the state: the cluster's last heartbeat, because a connected cluster
    /// reports every change.
    pub as_of: Timestamp,
    /// When the cluster last reported a change of the object.
    pub changed_at: Timestamp,
    /// True when the object is Ready there.
    pub ready: bool,
    /// Revision of the newest command that this state includes.
    pub revision: String,
    /// True when the cluster reports that the object does not exist.
    pub absent: bool,
    /// Conditions as the cluster reports them.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Everything else that the cluster reports of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, serde_json::Value>>)]
    pub details: Option<serde_json::Value>,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What the condition is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[schema(example = "True")]
    pub status: String,
    /// One CamelCase word.
    #[serde(default)]
    pub reason: String,
    /// A sentence with the remedy.
    #[serde(default)]
    pub message: String,
    /// Since when, RFC 3339.
    #[serde(default)]
    pub since: String,
}

/// Answer of `POST /api/v1/clusters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterCreated {
    /// The cluster.
    #[serde(flatten)]
    pub cluster: Cluster,
    /// How to enroll it.
    pub enrollment: Enrollment,
    /// The cluster's first command, its configuration; empty in a dry run.
    pub commands: Vec<CommandRef>,
}
