//! NovaUsageReport: one metering window. While open it holds a checkpoint; once sealed, the bytes that are published.
//!
//! The spec only names the window, and everything that was measured is status. Every write is a PUT of the status with
//! resourceVersion: a conflict means that another Operator owns the window. A sealed report never changes, except for the
//! mark that the Manager has it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Conditions.
pub mod condition {
    /// The window is over and its bytes are final.
    pub const SEALED: &str = "Sealed";
    /// The Manager confirmed that it has the bytes.
    pub const RECEIVED: &str = "Received";
}

/// Which window it is.
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
    status = "UsageReportStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name == self.spec.window").message("the name of a usage report is its window; only the Operator writes these, so create none by hand"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.manifest) || (has(self.status) && has(self.status.manifest) && self.status.manifest == oldSelf.status.manifest && has(self.status.manifestSignature) == has(oldSelf.status.manifestSignature) && (!has(self.status.manifestSignature) || self.status.manifestSignature == oldSelf.status.manifestSignature) && has(self.status.payload) == has(oldSelf.status.payload) && (!has(self.status.payload) || self.status.payload == oldSelf.status.payload) && self.status.records == oldSelf.status.records)").message("a sealed usage report never changes, since bills are made from it; a correction is made at the Manager"),
    printcolumn = r#"{"name":"Sealed","type":"string","jsonPath":".status.conditions[?(@.type==\"Sealed\")].status"}"#,
    printcolumn = r#"{"name":"Received","type":"string","jsonPath":".status.conditions[?(@.type==\"Received\")].status"}"#,
    printcolumn = r#"{"name":"Records","type":"integer","jsonPath":".status.records"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Received-At","type":"string","priority":1,"jsonPath":".status.receivedAt"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct UsageReportSpec {
    /// The window, `w<start as a Unix time>-<length in seconds>`. Never changes.
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = [
        {
            "rule": "self.matches('^w[0-9]+-[1-9][0-9]*$')",
            "message": "a window is w<start as a Unix time>-<length in seconds>, such as w1800000000-3600; only the Operator writes usage reports, so create none by hand",
        },
        {
            "rule": "self == oldSelf",
            "message": "the window of a usage report never changes; every window has a report of its own, which the Operator makes",
        },
    ]))]
    pub window: String,
}

/// What was measured, and who has it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageReportStatus {
    /// Sealed once the bytes are final, Received once the Manager has them.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// While open: what was measured so far and the watch positions; opaque, base64 of compressed bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub checkpoint: String,
    /// Once sealed: number of records.
    #[serde(default)]
    #[schemars(with = "i64", range(min = 0, max = 4_294_967_295_i64))]
    pub records: u32,
    /// Once sealed: base64 of the manifest's protobuf bytes. A report that has one is sealed.
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

impl UsageReportStatus {
    /// Whether the bytes are final.
    #[must_use]
    pub const fn is_sealed(&self) -> bool {
        !self.manifest.is_empty()
    }
}
