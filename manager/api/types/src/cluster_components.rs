//! Components of a cluster: as they are wanted, and as the cluster reports them.

use crate::{clusters::Connection, commands::CommandRef, components::Component, list::List};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A component of a cluster: as it should be, and as the cluster reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterComponent {
    /// `capsule`, `capsule-proxy` or `kubevela`.
    #[schema(example = "capsule")]
    pub name: String,
    /// The cluster.
    pub cluster_id: String,
    /// As it should be.
    pub desired: Component,
    /// Version of the cluster's desired state; every change of it raises it.
    pub generation: String,
    /// As the cluster reports it; absent before its first report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<ComponentObserved>,
}

/// A component as its cluster reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentObserved {
    /// Whether the cluster's heartbeats arrive.
    pub connection: Connection,
    /// The last moment at which this was known to be the state.
    pub as_of: Timestamp,
    /// Revision of the newest command that this state includes.
    pub revision: String,
    /// True when it is installed as the configuration says, or off as it says.
    pub ready: bool,
    /// How it is: `Healthy`, `Progressing`, `Degraded`, `Paused` or `Disabled`; empty when the cluster does not report it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(example = "Healthy")]
    pub health: String,
    /// The version that is to be installed, by the cluster's word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub desired_version: String,
    /// The version that was last installed completely; absent when there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Why it is not ready: one CamelCase word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What is wrong, and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Since when it has not been as configured, RFC 3339; absent while it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unsettled_since: String,
    /// The last error and what to do about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_error: String,
}

/// The components of a cluster.
pub type ComponentList = List<ClusterComponent>;

/// Answer of `PUT /api/v1/clusters/{cluster}/components/{component}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentAccepted {
    /// The component.
    #[serde(flatten)]
    pub component: ClusterComponent,
    /// The commands to the cluster; empty in a dry run.
    pub commands: Vec<CommandRef>,
}
