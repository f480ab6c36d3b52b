//! NovaUsageReport: one metering window. While open it holds a checkpoint; once sealed, the bytes that are published.
//!
//! Every write is a PUT with resourceVersion: a conflict means that another Operator owns the window. A sealed report
//! never changes, except for the mark that the Manager has it.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One metering window.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubenova.io",
    version = "v1alpha1",
    kind = "NovaUsageReport",
    plural = "novausagereports",
    shortname = "novau",
    category = "kubenova",
    doc = "Usage of all tenants in one metering window. Its name is the window. Open while it is measured; once sealed it is published until the Manager confirms it, and deleted later.",
    namespaced,
    derive = "PartialEq",
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".spec.state"}"#,
    printcolumn = r#"{"name":"Records","type":"integer","jsonPath":".spec.records"}"#,
    printcolumn = r#"{"name":"Received","type":"string","jsonPath":".spec.receivedAt"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct UsageReportSpec {
    /// The window, `w<start as a Unix time>-<length in seconds>`.
    pub window: String,
    /// Open while it is measured, Sealed once its bytes are final.
    pub state: ReportState,
    /// While open: what was measured so far and the watch positions; opaque, base64 of compressed bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub checkpoint: String,
    /// Once sealed: number of records.
    #[serde(default)]
    #[schemars(with = "i64", range(min = 0))]
    pub records: u32,
    /// Once sealed: base64 of the manifest's protobuf bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub manifest: String,
    /// Once sealed: signature over the manifest, `<public nkey>:<base64>`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub manifest_signature: String,
    /// Once sealed: base64 of the UsageRecords' protobuf bytes, compressed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub payload: String,
    /// When the Manager confirmed that it has these bytes, RFC 3339 UTC. Empty until then.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub received_at: String,
}

/// State of a usage report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReportState {
    /// Being measured.
    #[default]
    Open,
    /// Final bytes.
    Sealed,
}
