//! What tenants used.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Amounts by meter, as whole numbers in strings: millicore·ms, byte·ms, count·ms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageQuantities {
    /// CPU requests of non-terminal pods, millicore·ms.
    #[schema(example = "3600000000")]
    pub cpu_request_millicore_ms: String,
    /// Memory requests of non-terminal pods, byte·ms.
    pub memory_request_byte_ms: String,
    /// Non-terminal pods, count·ms.
    pub pod_count_ms: String,
    /// Namespaces, count·ms.
    pub namespace_count_ms: String,
    /// Applications, count·ms.
    pub application_count_ms: String,
}

/// What one tenant used on one cluster in one window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageRow {
    /// `<cluster>/<tenant>/<window>/<revision>`: also the id of its billing event.
    pub id: String,
    /// The tenant's id.
    pub tenant_id: String,
    /// Its name as the cluster had it.
    pub tenant_name: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// Its name.
    pub cluster_name: String,
    /// First moment of the window.
    pub window_start: Timestamp,
    /// First moment after it.
    pub window_end: Timestamp,
    /// 0, or more for corrections.
    pub revision: u32,
    /// The amounts.
    #[serde(flatten)]
    pub quantities: UsageQuantities,
    /// Milliseconds of the window that were fully observed.
    pub coverage_ms: String,
    /// `gap`: part of the window was not observed; `skew`: the clocks were more than two seconds apart.
    pub quality: Vec<String>,
    /// The parts of the window that were not observed.
    #[schema(value_type = Vec<UsageGap>)]
    pub gaps: serde_json::Value,
    /// When the Manager stored it.
    pub received_at: Timestamp,
}

/// A part of a window that was not observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageGap {
    /// Why it was not observed.
    pub reason: String,
    /// First moment of it.
    pub start: Timestamp,
    /// First moment after it.
    pub end: Timestamp,
    /// Upper bound of the usage in it by meter, as whole numbers in strings; a meter that is missing has no known bound.
    #[serde(default)]
    pub bound: BTreeMap<String, String>,
}

/// One page of usage, and the sums over all pages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageList {
    /// Rows, oldest window first.
    pub items: Vec<UsageRow>,
    /// Send it as `cursor` with the same filter to read the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Sums over everything the filter selects, not this page alone.
    pub totals: UsageQuantities,
    /// How many rows the filter selects.
    pub rows: String,
    /// How many of them were not fully observed.
    pub rows_with_gaps: String,
    /// The time up to which every cluster concerned has reported; absent when none has reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
}
