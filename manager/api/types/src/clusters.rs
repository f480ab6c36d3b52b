//! Clusters.

use crate::commands::CommandRef;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Body of `POST /api/v1/clusters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterCreate {
    /// 1 to 50 lower-case letters, digits and dashes; unique.
    #[schema(example = "dc1-a", max_length = 50)]
    pub name: String,
    /// Where it stands.
    #[serde(default)]
    pub datacenter: String,
    /// Any labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What to install; what is not said is as the Manager is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<ComponentsChange>,
}

/// Differences from the Manager's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ComponentsChange {
    /// Tenants' walls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capsule: Option<ComponentChange>,
    /// Tenants' view of the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capsule_proxy: Option<ComponentChange>,
    /// Applications.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubevela: Option<ComponentChange>,
}

/// Differences of one component.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ComponentChange {
    /// Should it run?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Which version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Take over an install that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<bool>,
    /// Replicas of its controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Capsule Proxy only: the URL that kubeconfigs carry.
    #[serde(default, rename = "publicURL", skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub datacenter: String,
    /// Any labels.
    pub labels: BTreeMap<String, String>,
    /// `pendingBootstrap`, `enrolled`, `quarantined`, `revoking`, `revoked` or `detached`.
    pub state: String,
    /// What should be installed.
    pub components: Components,
    /// Version of this resource.
    pub generation: String,
    /// Rises when the Manager recovered from a restore.
    pub epoch: String,
    /// Highest revision given to a command so far.
    pub revision: String,
    /// UID of its kube-system namespace, once enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_uid: Option<String>,
    /// When it first showed its token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolled_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the wish last changed.
    pub updated_at: Timestamp,
    /// Who created it.
    pub created_by: String,
    /// Whether it is heard: `connected`, `stale`, `offline` or `unknown`.
    pub connection: String,
    /// Its session with the Manager; absent before its first hello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// What it says of its configuration; only where one cluster is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Observed>,
    /// Its enrollment tokens, newest first; only where one cluster is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub enrollments: Vec<EnrollmentState>,
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
    /// Nodes at the last heartbeat.
    pub nodes: u32,
    /// The cluster's clock minus the Manager's.
    pub clock_offset_ms: String,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// The last heartbeat.
    pub heard_at: Timestamp,
    /// Why the last hello was refused.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub refused_reason: String,
}

/// What is heard of something from a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// `connected`, `stale`, `offline` or `unknown`.
    pub connection: String,
    /// When the cluster said so: everything here is as of then.
    pub as_of: Timestamp,
    /// True when the object is Ready there.
    pub ready: bool,
    /// Revision of the newest command that this speaks about.
    pub revision: String,
    /// True when the cluster says that the object is gone.
    pub absent: bool,
    /// Conditions as the cluster reports them.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Everything else that the cluster says of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub details: Option<serde_json::Value>,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
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

/// What should be installed in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Components {
    /// Tenants' walls.
    pub capsule: Component,
    /// Tenants' view of the API.
    pub capsule_proxy: Component,
    /// Applications.
    pub kubevela: Component,
}

/// One component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// Should it run?
    pub enabled: bool,
    /// Which version; absent: the one the Operator was built for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Take over an install that is there.
    pub adopt: bool,
    /// Replicas of its controller.
    pub replicas: u32,
    /// Capsule Proxy only: the URL that kubeconfigs carry.
    #[serde(default, rename = "publicURL", skip_serializing_if = "String::is_empty")]
    pub public_url: String,
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
    /// The cluster's first command: its configuration.
    pub commands: Vec<CommandRef>,
}

/// How to enroll a cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Enrollment {
    /// Its id.
    pub id: String,
    /// Works once, and is shown once: absent in a repeated answer and in a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// When the token ends.
    pub expires_at: Timestamp,
    /// SHA-256 of the Manager's CA key, hex; the token pins it.
    pub ca_sha256: String,
    /// Where the cluster calls.
    pub endpoints: Vec<String>,
    /// What to run in the cluster.
    pub commands: EnrollmentCommands,
}

impl std::fmt::Debug for Enrollment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrollment").field("id", &self.id).field("token", &"***").finish_non_exhaustive()
    }
}

/// What to run in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnrollmentCommands {
    /// With the token in the file `kn-token`.
    pub helm: String,
}

/// What became of an enrollment token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnrollmentState {
    /// Its id.
    pub id: String,
    /// `open`, `used`, `expired` or `revoked`.
    pub state: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<Timestamp>,
    /// Who tried it, newest first.
    #[serde(default)]
    pub attempts: Vec<EnrollmentAttempt>,
}

/// A use of an enrollment token that the Manager saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnrollmentAttempt {
    /// When.
    pub at: Timestamp,
    /// `accepted`, or the reason of the refusal.
    pub outcome: String,
    /// A sentence.
    #[serde(default)]
    pub message: String,
}
