//! Rollouts: one change of a component for many clusters, in waves.

use crate::{components::ComponentChange, list::List};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Body of `POST /api/v1/rollouts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutCreate {
    /// The component: `capsule`, `capsule-proxy` or `kubevela`.
    #[schema(example = "capsule", pattern = "^(capsule|capsule-proxy|kubevela)$")]
    pub component: String,
    /// What is changed of it on every cluster; what is absent stays as it is there.
    pub change: ComponentChange,
    /// On which clusters.
    pub clusters: ClusterSelection,
    /// The first wave: a few clusters, of which none may fail. Absent: there is no such wave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Amount>,
    /// Size of each wave after that; absent: all other clusters are one wave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Amount>,
    /// Most clusters that are changed and not yet healthy at once; absent: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub max_unavailable: Option<u32>,
    /// The rollout stops when more clusters than this have failed; absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1000)]
    pub max_failures: Option<u32>,
    /// Seconds for which the clusters of a wave must stay healthy before the next one begins; absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 604_800)]
    pub pause_seconds: Option<u32>,
    /// Whether the rollout pauses after each wave until it is resumed.
    #[serde(default)]
    pub wait_for_resume: bool,
    /// A cluster that is not healthy so many seconds after its change was written has failed; absent: 900.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 30, maximum = 86_400)]
    pub progress_deadline_seconds: Option<u32>,
    /// What happens to a cluster that is not connected when its turn comes; absent: `wait`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline: Option<OfflinePolicy>,
}

/// On which clusters: those named, in this order, and then those that have all the labels, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterSelection {
    /// Clusters by id or name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1000)]
    pub names: Vec<String>,
    /// Labels of clusters; all of them must be there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A part of the clusters: one of both fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Amount {
    /// So many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub count: Option<u32>,
    /// So many of a hundred, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub percent: Option<u32>,
}

/// What happens to a cluster that is not connected when its turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum OfflinePolicy {
    /// Its wave goes on without it, and it is changed when it is back; the rollout does not end before.
    Wait,
    /// It is left out.
    Skip,
}

/// A rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Its id.
    pub id: String,
    /// The component that it changes.
    #[schema(example = "capsule")]
    pub component: String,
    /// What it changes of it; absent in a rollback, where it differs from cluster to cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ComponentChange>,
    /// The rollout that it takes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<String>,
    /// Where it is.
    pub state: RolloutState,
    /// Why it is in this state: one CamelCase word.
    #[schema(example = "CanaryFailed")]
    pub reason: String,
    /// Why, and what can be done.
    pub message: String,
    /// The wave whose turn it is, from 1.
    pub wave: u32,
    /// How many waves it has.
    pub waves: u32,
    /// Whether the first wave is a canary.
    pub canary: bool,
    /// Most clusters that are changed and not yet healthy at once.
    pub max_unavailable: u32,
    /// It stops when more clusters than this have failed.
    pub max_failures: u32,
    /// Seconds for which a wave must stay healthy.
    pub pause_seconds: u32,
    /// Whether it pauses after each wave.
    pub wait_for_resume: bool,
    /// Seconds for one cluster.
    pub progress_deadline_seconds: u32,
    /// What happens to a cluster that is not connected when its turn comes.
    pub offline: OfflinePolicy,
    /// How many clusters are in each state.
    pub counts: RolloutCounts,
    /// Its clusters, in the order in which their turn comes; only when a single rollout is read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<RolloutCluster>,
    /// When it was created.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// How many clusters of a rollout are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutCounts {
    /// Their turn has not come, or they are not connected.
    pub pending: u32,
    /// They are being changed.
    pub updating: u32,
    /// They are healthy with the change.
    pub succeeded: u32,
    /// They did not become healthy, or refused the change.
    pub failed: u32,
    /// They were left out.
    pub skipped: u32,
}

/// Where a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum RolloutState {
    /// Clusters are changed as their turn comes.
    Running,
    /// No further cluster is changed until it is resumed.
    Paused,
    /// Too many clusters failed: no further cluster is changed until a person decides.
    Stopped,
    /// It was cancelled; clusters that were being changed are followed to their end.
    Cancelling,
    /// It was cancelled.
    Cancelled,
    /// Every cluster was changed, or passed over.
    Completed,
}

/// One cluster of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutCluster {
    /// The cluster's id.
    pub cluster_id: String,
    /// Its name.
    pub cluster_name: String,
    /// Its wave, from 1.
    pub wave: u32,
    /// How far its change is.
    pub state: RolloutClusterState,
    /// Why: one CamelCase word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(example = "ClusterOffline")]
    pub reason: String,
    /// Why, and what the cluster says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Revision of the command that carries the change, once it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// When the change was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun_at: Option<Timestamp>,
    /// When it was healthy, had failed, or was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// How far the change of one cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum RolloutClusterState {
    /// Its turn has not come, or it is not connected.
    Pending,
    /// What is wanted was changed, and it has not reported that the component is healthy.
    Updating,
    /// The component is healthy there, with the change.
    Succeeded,
    /// It did not become healthy, or refused the change.
    Failed,
    /// It was left out, or is not followed any more.
    Skipped,
}

/// One page of rollouts.
pub type RolloutList = List<Rollout>;
