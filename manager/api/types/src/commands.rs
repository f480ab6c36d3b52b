//! Commands: the messages that carry changes to clusters, and their progress.

use crate::list::List;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A command that carries out a request in one cluster; its progress is at `/api/v1/commands/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandRef {
    /// Its id.
    pub id: String,
    /// The cluster it is for.
    pub cluster_id: String,
    /// Its number in the cluster's sequence of commands.
    pub revision: String,
}

/// Answer to the request for an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationAccepted {
    /// A cluster that has not begun by then does not begin any more.
    pub not_after: Timestamp,
    /// The operations, one a cluster.
    pub commands: Vec<CommandRef>,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    /// Its id.
    pub id: String,
    /// What the cluster has to do.
    #[schema(example = "apply-application")]
    pub kind: String,
    /// The cluster it is for.
    pub cluster_id: String,
    /// That cluster's name.
    pub cluster_name: String,
    /// The tenant it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// The object that it is about.
    pub target: CommandTarget,
    /// Its number in the cluster's sequence of commands.
    pub revision: String,
    /// Its progress.
    pub state: CommandState,
    /// Up to when it is known what the cluster did about it: the cluster's last heartbeat, or its last report when that came later.
    /// Absent before the cluster's first hello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// Why it is in this state: one CamelCase word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why it is in this state: a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What it waits for: one CamelCase word, explained in `message`; absent when it makes progress.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub waiting_for: String,
    /// When it is sent again at the latest, while it was sent and the cluster has not carried it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Timestamp>,
    /// True when its deadline has passed and the cluster has not reported an outcome.
    pub overdue: bool,
    /// How many times it was sent.
    pub attempts: u32,
    /// Who made the request.
    pub created_by: String,
    /// When the request was made.
    pub created_at: Timestamp,
    /// When it reached its final state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Deadline after which the cluster does not start it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// The hops that it passed, in the order of their times.
    pub hops: Vec<CommandHop>,
}

/// One page of commands.
pub type CommandList = List<Command>;

/// The object that a command is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandTarget {
    /// `cluster-config/default`, `tenant/<id>` or `application/<tenant id>/<name>`; of an operation `operation/<its id>`.
    pub key: String,
    /// The object's generation that it carries; of an operation the one at its request.
    pub generation: String,
    /// The application's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
}

/// A hop of a command on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandHop {
    /// What happened.
    pub name: String,
    /// When.
    pub at: Timestamp,
    /// Whose clock the time is of.
    pub by: HopClock,
    /// The object in the cluster as it was read or written there, `<uid>/<resourceVersion>`. The audit log has it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
}

/// Whose clock a time is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum HopClock {
    /// The Manager's.
    Manager,
    /// The cluster's.
    Cluster,
}

/// The progress of a command. The last six states are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum CommandState {
    /// Stored by the Manager, not sent yet.
    Queued,
    /// Sent to the cluster, perhaps more than once.
    Sent,
    /// Stored in the cluster.
    Acknowledged,
    /// Being carried out.
    Running,
    /// Carried out: the object is ready at this revision.
    Succeeded,
    /// Cannot be carried out, or made no progress within its deadline.
    Failed,
    /// The cluster refused it.
    Refused,
    /// Cancelled before it was sent, or an operation before it began.
    Cancelled,
    /// Replaced by a newer command about the same object.
    Superseded,
    /// Its deadline passed before it was started.
    Expired,
}
