//! Commands: what was asked of a cluster, and how far it got.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A command that a request caused; follow it at `/api/v1/commands/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandRef {
    /// Its id.
    pub id: String,
    /// The cluster it is for.
    pub cluster_id: String,
    /// Its place in the cluster's order.
    pub revision: String,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    /// Its id.
    pub id: String,
    /// What it asks.
    #[schema(example = "apply-application")]
    pub kind: String,
    /// The cluster it is for.
    pub cluster_id: String,
    /// That cluster's name.
    pub cluster_name: String,
    /// The tenant it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// What it is about.
    pub target: CommandTarget,
    /// Its place in the cluster's order.
    pub revision: String,
    /// `queued`, `sent`, `acknowledged`, `running`, then `succeeded`, `failed`, `refused`, `cancelled`, `superseded` or
    /// `expired`. Tolerate new ones.
    pub state: String,
    /// One CamelCase word why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A sentence why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub waiting_for: String,
    /// When it is sent again at the latest, while it was sent and the cluster has not carried it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Timestamp>,
    /// True once its deadline passed and the cluster has not said how it ended.
    pub overdue: bool,
    /// How often it was sent.
    pub attempts: u32,
    /// Who asked.
    pub created_by: String,
    /// When it was asked.
    pub created_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// The stations it passed, in order.
    pub hops: Vec<CommandHop>,
}

/// What a command is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandTarget {
    /// `cluster-config/default`, `tenant/<id>` or `application/<tenant id>/<name>`.
    pub key: String,
    /// The resource's generation that it carries.
    pub generation: String,
    /// The application's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
}

/// A station of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandHop {
    /// What happened.
    pub name: String,
    /// When, RFC 3339.
    pub at: String,
    /// Whose clock says so: `manager` or `cluster`.
    pub by: String,
}
