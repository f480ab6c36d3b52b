//! How far a cluster holds what it was commanded.

use crate::clusters::{Connection, RefusedHello};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Whether a cluster holds what it was commanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum SyncState {
    /// The cluster has not reported what it holds.
    Unknown,
    /// Its hello is refused because it holds commands that the Manager does not know: nothing is sent.
    Diverged,
    /// Commands have not ended, or had not when what the cluster holds was last compared: it is compared again a minute later.
    Pending,
    /// It holds something else than it was commanded; the Manager asks for the listing and sends again what is missing.
    Differs,
    /// It holds what it was commanded, and objects that the Manager does not know.
    UnknownObjects,
    /// It holds what it was commanded.
    InSync,
}

/// Answer of `GET /api/v1/clusters/{cluster}/sync`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSync {
    /// The cluster.
    pub cluster_id: String,
    /// What follows from the rest.
    pub state: SyncState,
    /// Whether the cluster's heartbeats arrive.
    pub connection: Connection,
    /// The last heartbeat: the state is known up to then. Absent before the first hello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// Highest revision given to a command so far.
    pub revision: String,
    /// Commands that have not ended.
    pub open_commands: String,
    /// What the cluster says it holds; absent until it has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listing: Option<Listing>,
    /// The last time that the listing itself was compared; absent: the hashes never differed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<ListingExchange>,
    /// Its last hello that was refused, if one ever was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_hello: Option<RefusedHello>,
    /// The cluster holds commands that the Manager's database lost in a restore, and nothing is sent to it; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// Usage that the cluster reported of tenants which the Manager does not know there; absent when there is none. It is counted
    /// once they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unclaimed_usage: Option<UnclaimedUsage>,
    /// Objects that the cluster holds and the Manager does not know, at most 1000. They are kept.
    pub unknown_objects: Vec<UnknownObject>,
}

/// A cluster that holds commands which the Manager's database lost in a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Divergence {
    /// When its hello was first refused.
    pub since: Timestamp,
    /// Highest revision that the cluster holds.
    pub revision: String,
    /// Objects whose commands the database lost.
    pub objects: i64,
    /// Those of them that the cluster has not sent yet, or that cannot be used.
    pub objects_missing: i64,
    /// What to type at the Manager.
    #[schema(example = "kubenova-manager recover list --cluster dc1-a")]
    pub remedy: String,
}

/// Usage of tenants that the Manager does not know on the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnclaimedUsage {
    /// Records: one a tenant and window.
    pub records: i64,
    /// Tenants.
    pub tenants: i64,
    /// Begin of the oldest window.
    pub oldest_window_at: Timestamp,
}

/// What a cluster says it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Listing {
    /// Hex SHA-256 over key, revision and document of every object that was applied, sorted by key.
    pub sha256: String,
    /// Since when the cluster reports this hash.
    pub reported_at: Timestamp,
    /// When both sides were last seen to hold the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_sync_at: Option<Timestamp>,
    /// Since when they differ; absent when they do not, or when commands on their way may explain it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differs_since: Option<Timestamp>,
}

/// A comparison of what a cluster holds with what it was commanded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListingExchange {
    /// When.
    pub at: Timestamp,
    /// Objects of each finding: `InSync`, `Unsettled`, `Missing`, `Outdated`, `Undeleted` (these three are sent again),
    /// `Unknown` and `Ahead` (these two are shown and kept).
    pub findings: BTreeMap<String, i64>,
}

/// An object that a cluster holds and the Manager does not know, or knows an earlier command of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnknownObject {
    /// The object, as in a command.
    #[schema(example = "tenant/01m8x5v2-e3fq-7000-8000-00000000000a")]
    pub object_key: String,
    /// `Unknown`: no command about it is known. `Ahead`: the cluster holds a later one.
    pub finding: String,
    /// Revision of the command that the cluster holds.
    pub revision: String,
    /// When it was first seen.
    pub first_seen_at: Timestamp,
    /// When it was last seen.
    pub last_seen_at: Timestamp,
}
