//! NovaCommand: the inbox record. One per object key; it holds the signed bytes of the newest order about that object.
//!
//! Storing it is fence, durability and the point of acknowledgement in one write. Status speaks about `commandId` in
//! it; when that differs from the spec's, the status belongs to an older order.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The order as it came.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubenova.io",
    version = "v1alpha1",
    kind = "NovaCommand",
    plural = "novacommands",
    shortname = "novac",
    category = "kubenova",
    namespaced,
    status = "CommandStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Kind","type":"string","jsonPath":".spec.kind"}"#,
    printcolumn = r#"{"name":"Target","type":"string","jsonPath":".spec.key"}"#,
    printcolumn = r#"{"name":"Revision","type":"integer","jsonPath":".spec.revision"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct CommandSpec {
    /// The signed bytes, exactly: JSON text of a Command.
    pub body: String,
    /// Value of the `Kn-Signature` header.
    pub signature: String,
    /// From the body.
    pub command_id: String,
    /// From the body.
    pub epoch: i64,
    /// From the body.
    pub revision: i64,
    /// From the body.
    pub kind: String,
    /// From the body.
    pub key: String,
    /// Hex SHA-256 of (kind, key, document).
    pub command_sha256: String,
    /// When this record was stored, RFC 3339 UTC with milliseconds.
    pub stored_at: String,
}

/// How far the order got. The first terminal state wins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandStatus {
    /// The command this status is about.
    #[serde(default)]
    pub command_id: String,
    /// acknowledged, running, succeeded, failed or refused.
    #[serde(default)]
    pub state: String,
    /// One CamelCase word.
    #[serde(default)]
    pub reason: String,
    /// A sentence with the remedy.
    #[serde(default)]
    pub message: String,
    /// When this state was reached, RFC 3339 UTC with milliseconds.
    #[serde(default)]
    pub at: String,
    /// Stations and their times: verified, stored, applied, ready.
    #[serde(default)]
    pub hops: Vec<CommandHop>,
}

/// One station.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandHop {
    /// Its name.
    pub name: String,
    /// When, RFC 3339 UTC with milliseconds.
    pub at: String,
}
