//! Tenants and their placements.

use crate::{clusters::Observed, commands::CommandRef};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /api/v1/tenants`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TenantCreate {
    /// 1 to 50 lower-case letters, digits and dashes; unique. Namespaces are named after it.
    #[schema(example = "acme", max_length = 50)]
    pub name: String,
    /// Clusters to place it on, by id or name.
    #[serde(default)]
    pub clusters: Vec<String>,
    /// Limits on each cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaChange>,
    /// `baseline` (default) or `restricted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_security: Option<String>,
}

/// Differences from the default quota.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuotaChange {
    /// CPU requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "8")]
    pub cpu: Option<String>,
    /// Memory requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "16Gi")]
    pub memory: Option<String>,
    /// Pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<u32>,
}

/// Limits of a tenant on each of its clusters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// CPU requests.
    pub cpu: String,
    /// Memory requests.
    pub memory: String,
    /// Pods.
    pub pods: u32,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tenant {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its limits on each cluster.
    pub quota: Quota,
    /// `baseline` or `restricted`.
    pub pod_security: String,
    /// Where it is.
    pub placements: Vec<Placement>,
    /// Version of this resource.
    pub generation: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the wish last changed.
    pub updated_at: Timestamp,
    /// Who created it.
    pub created_by: String,
}

/// A tenant on a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// The cluster's id.
    pub cluster_id: String,
    /// Its name.
    pub cluster_name: String,
    /// Since when.
    pub created_at: Timestamp,
    /// What is heard of the tenant from there; only where placements are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Observed>,
}

/// Answer of `POST /api/v1/tenants` and `POST /api/v1/tenants/{tenant}/placements`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantAccepted {
    /// The tenant.
    #[serde(flatten)]
    pub tenant: Tenant,
    /// What clusters were asked.
    pub commands: Vec<CommandRef>,
}

/// Body of `POST /api/v1/tenants/{tenant}/placements`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlacementCreate {
    /// The cluster, by id or name.
    pub cluster: String,
}
