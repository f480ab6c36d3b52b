//! Tenants and their placements.

use crate::{clusters::Observed, commands::CommandRef, list::List};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /api/v1/tenants`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TenantCreate {
    /// 1 to 50 lower-case letters, digits and dashes; unique. Namespaces are named after it.
    #[schema(example = "acme", min_length = 1, max_length = 50, pattern = "^[a-z]([a-z0-9-]*[a-z0-9])?$")]
    pub name: String,
    /// Clusters to place it on, by id or name.
    #[serde(default)]
    #[schema(max_items = 100)]
    pub clusters: Vec<String>,
    /// Limits on each cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaChange>,
    /// Pod security level of its namespaces; `baseline` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_security: Option<PodSecurity>,
}

/// Differences from the default quota.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuotaChange {
    /// Sum of the CPU requests of its pods, a Kubernetes quantity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "8", max_length = 15, pattern = "^[0-9]+([.][0-9]+)?([numkMGTP]|[KMGTPE]i)?$")]
    pub cpu: Option<String>,
    /// Sum of the memory requests of its pods, a Kubernetes quantity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "16Gi", max_length = 15, pattern = "^[0-9]+([.][0-9]+)?([numkMGTP]|[KMGTPE]i)?$")]
    pub memory: Option<String>,
    /// Number of its pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 100_000)]
    pub pods: Option<u32>,
}

/// Level of the Kubernetes pod security standards that is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum PodSecurity {
    /// Known privilege escalations are refused.
    Baseline,
    /// The strictest level.
    Restricted,
}

/// Limits of a tenant on each of its clusters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// Sum of the CPU requests of its pods, a Kubernetes quantity.
    pub cpu: String,
    /// Sum of the memory requests of its pods, a Kubernetes quantity.
    pub memory: String,
    /// Number of its pods.
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
    /// Pod security level of its namespaces.
    pub pod_security: PodSecurity,
    /// The clusters that it is placed on.
    pub placements: Vec<Placement>,
    /// Version of this object; every change of the desired state raises it.
    pub generation: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the desired state last changed.
    pub updated_at: Timestamp,
    /// Who created it.
    pub created_by: String,
}

/// One page of tenants.
pub type TenantList = List<Tenant>;

/// A tenant's placement on a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// The cluster's id.
    pub cluster_id: String,
    /// Its name.
    pub cluster_name: String,
    /// When it was placed there.
    pub created_at: Timestamp,
    /// The observed state of the tenant there; only when placements are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Observed>,
}

/// The placements of a tenant.
pub type PlacementList = List<Placement>;

/// Answer of `POST /api/v1/tenants` and `POST /api/v1/tenants/{tenant}/placements`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantAccepted {
    /// The tenant.
    #[serde(flatten)]
    pub tenant: Tenant,
    /// The commands to clusters; empty in a dry run.
    pub commands: Vec<CommandRef>,
}

/// Body of `POST /api/v1/tenants/{tenant}/placements`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlacementCreate {
    /// The cluster, by id or name.
    #[schema(min_length = 1, max_length = 50, pattern = "^[a-z0-9-]+$")]
    pub cluster: String,
}
