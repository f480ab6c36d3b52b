//! NovaCommand: the inbox record. One per object key and one per operation; it holds the signed bytes of the newest command about
//! that object.
//!
//! Storing it is fence, durability and the point of acknowledgement in one write. The status describes the command
//! named by its own `commandId`; when that differs from the spec's, it belongs to an older command.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Conditions.
pub mod condition {
    /// The command has ended, well or not.
    pub const COMPLETE: &str = "Complete";
    /// The command has ended well. Unknown until it ends.
    pub const SUCCEEDED: &str = "Succeeded";
}

/// The command as received.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubenova.io",
    version = "v1alpha1",
    kind = "NovaCommand",
    plural = "novacommands",
    shortname = "novac",
    category = "kubenova",
    doc = "The newest command from the Manager about one object, as received and verified by the Operator, and how far it got.",
    namespaced,
    status = "CommandStatus",
    derive = "PartialEq",
    validation = Rule::new("!has(oldSelf.status) || oldSelf.status.commandId == '' || !(oldSelf.status.state in ['succeeded', 'failed', 'cancelled', 'expired']) || (has(self.status) && (self.status.commandId != oldSelf.status.commandId || self.status.state == oldSelf.status.state))").message("a command that has ended does not change its outcome; send a new command through the Manager"),
    printcolumn = r#"{"name":"Kind","type":"string","jsonPath":".spec.kind"}"#,
    printcolumn = r#"{"name":"Target","type":"string","jsonPath":".spec.key"}"#,
    printcolumn = r#"{"name":"Revision","type":"integer","jsonPath":".spec.revision"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "self.key == oldSelf.key",
        "message": "the key never changes: a record is about one object; the Operator stores a command about another object in another record",
    },
    {
        "rule": "self.epoch >= oldSelf.epoch && self.revision >= oldSelf.revision",
        "message": "epoch and revision never go down: a newer command about this object is stored; send a new command through the Manager",
    },
]))]
pub struct CommandSpec {
    /// The exact bytes that were signed: a Command as JSON text.
    pub body: String,
    /// Signature over the body, `<key id>:<base64>`.
    pub signature: String,
    /// Id of the command, from the body.
    pub command_id: String,
    /// Epoch of the Manager that signed it, from the body. Commands of a lower epoch are refused.
    pub epoch: i64,
    /// Revision of the command, from the body: rises with every command to this cluster.
    pub revision: i64,
    /// What to do, from the body, such as `apply-tenant`.
    pub kind: String,
    /// What it is about, from the body: `cluster-config/default`, `tenant/<id>`, `application/<tenant id>/<name>` or, for an
    /// operation, `operation/<command id>`.
    pub key: String,
    /// Hex SHA-256 of (kind, key, document).
    pub command_sha256: String,
    /// When this record was stored, RFC 3339 UTC with milliseconds.
    pub stored_at: String,
}

/// How far the command got. A terminal state (succeeded, failed, cancelled, expired) never changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandStatus {
    /// Complete and Succeeded, as `kubectl wait` asks for them; the other fields say the same in more words.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Id of the command this status describes.
    #[serde(default)]
    pub command_id: String,
    /// One of acknowledged, running, succeeded, failed, cancelled, expired.
    #[serde(default)]
    pub state: String,
    /// Cause of the state, one CamelCase word.
    #[serde(default)]
    pub reason: String,
    /// What happened and what to do.
    #[serde(default)]
    pub message: String,
    /// When this state was reached, RFC 3339 UTC with milliseconds.
    #[serde(default)]
    pub at: String,
    /// Steps the command passed and when: stored, started, applied, ready.
    #[serde(default)]
    pub hops: Vec<CommandHop>,
    /// What an operation found when it began: after a crash it tells whether the operation has had its effect. Of the deletion of an
    /// application: what the application had made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub found: String,
    /// The command waits for a person, or for work that takes its time, such as a workflow that is held or a job: no deadline counts
    /// meanwhile.
    #[serde(default, skip_serializing_if = "is_false")]
    pub waits: bool,
    /// Since when the deadline counts, once the command has waited; empty when it counts since the command was stored.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub deadline_from: String,
}

/// A step that the command has passed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandHop {
    /// Name of the step.
    pub name: String,
    /// When it was passed, RFC 3339 UTC with milliseconds.
    pub at: String,
    /// The object as it was read or written there, `<uid>/<resourceVersion>`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub object: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}
