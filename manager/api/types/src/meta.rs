//! Health of the Manager, and the caller's identity.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Answer of `/healthz` and `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Whether the process can serve.
    pub status: HealthStatus,
    /// What the process waits for: a sentence for each part that is not ready.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub waiting_for: BTreeMap<String, String>,
}

/// Answer of `/api/v1/me`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Me {
    /// The caller's name in logs and in the audit log.
    pub subject: String,
    /// The caller's role.
    pub role: Role,
    /// The one tenant the caller is limited to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
}

/// Whether the process can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum HealthStatus {
    /// It can.
    Ok,
    /// Not yet.
    Waiting,
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Everything but tokens of other callers.
    Ops,
    /// Manages one tenant.
    TenantOwner,
    /// Manages the applications of one tenant.
    ProjectDev,
    /// Reads everything, or everything of one tenant.
    ReadOnly,
    /// Reads usage, of one tenant or of all.
    Billing,
}
