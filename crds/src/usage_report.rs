//! NovaUsageReport: one metering window. Open it holds the checkpoint; sealed it holds the bytes that are published.
//!
//! Every write is a PUT with resourceVersion: a conflict means that another Operator owns the window. A sealed report
//! never changes, except for the mark that the Manager has it.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One window. Its object's name is the window's text.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubenova.io",
    version = "v1alpha1",
    kind = "NovaUsageReport",
    plural = "novausagereports",
    shortname = "novau",
    category = "kubenova",
    namespaced,
    derive = "PartialEq",
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".spec.state"}"#,
    printcolumn = r#"{"name":"Records","type":"integer","jsonPath":".spec.records"}"#,
    printcolumn = r#"{"name":"Received","type":"string","jsonPath":".spec.receivedAt"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct UsageReportSpec {
    /// `w<unix start>-<seconds>`.
    pub window: String,
    /// Open or Sealed.
    pub state: ReportState,
    /// While open: accumulators and watch positions, opaque, base64 of compressed bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub checkpoint: String,
    /// Once sealed: number of records.
    #[serde(default)]
    pub records: u32,
    /// Once sealed: base64 of the manifest's protobuf bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub manifest: String,
    /// Once sealed: `<nkey public>:<base64>` over the manifest.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub manifest_signature: String,
    /// Once sealed: base64 of the UsageRecords' protobuf bytes, compressed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub payload: String,
    /// When the Manager's receipt for these bytes arrived, RFC 3339 UTC.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub received_at: String,
}

/// Life of a report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReportState {
    /// Being measured.
    #[default]
    Open,
    /// Final bytes.
    Sealed,
}
