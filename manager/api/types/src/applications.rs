//! Applications.

use crate::{
    clusters::Observed,
    commands::{Command, CommandRef},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The typed form of an application: one web service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicationForm {
    /// 1 to 50 lower-case letters, digits and dashes; unique in the tenant.
    #[schema(example = "shop", max_length = 50)]
    pub name: String,
    /// Container image.
    #[schema(example = "nginx:1.29")]
    pub image: String,
    /// How many pods; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Port to expose inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// CPU request of each pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "100m")]
    pub cpu: Option<String>,
    /// Memory request of each pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "128Mi")]
    pub memory: Option<String>,
    /// Command in place of the image's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment variables. Never secrets: they are kept as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// User id the container runs as; used where the tenant's pods are `restricted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_user: Option<u32>,
    /// Clusters by id or name; needed when the tenant is on several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<Vec<String>>,
}

/// A KubeVela Application as it is, with the clusters it should run on. A bare Application as body, with `?clusters=`,
/// means the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicationRaw {
    /// `core.oam.dev/v1beta1` Application.
    #[schema(value_type = Object)]
    pub application: serde_json::Value,
    /// Clusters by id or name; needed when the tenant is on several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<Vec<String>>,
}

/// What a body may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum ApplicationBody {
    /// The typed form.
    Form(Box<ApplicationForm>),
    /// A KubeVela Application with its clusters.
    Raw(ApplicationRaw),
}

/// An application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Application {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub tenant_id: String,
    /// That tenant's name.
    pub tenant_name: String,
    /// `typed` or `raw`.
    pub form: String,
    /// The typed form as it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ApplicationForm>)]
    pub typed: Option<serde_json::Value>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// `spec` of the KubeVela Application.
    #[schema(value_type = Object)]
    pub spec: serde_json::Value,
    /// Where it should run.
    pub clusters: Vec<ApplicationCluster>,
    /// Version of this resource.
    pub generation: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the wish last changed.
    pub updated_at: Timestamp,
    /// Who created it.
    pub created_by: String,
}

/// A cluster an application should run on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationCluster {
    /// Its id.
    pub cluster_id: String,
    /// Its name.
    pub cluster_name: String,
}

/// Answer to a change of an application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationAccepted {
    /// The application.
    #[serde(flatten)]
    pub application: Application,
    /// What clusters were asked.
    pub commands: Vec<CommandRef>,
}

/// How an application does, cluster by cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationStatus {
    /// The application's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub tenant_id: String,
    /// Version that is wished.
    pub generation: String,
    /// True when this version is Ready on every cluster.
    pub ready: bool,
    /// Cluster by cluster.
    pub clusters: Vec<ApplicationClusterStatus>,
}

/// How an application does on one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationClusterStatus {
    /// The cluster's id.
    pub cluster_id: String,
    /// Its name.
    pub cluster_name: String,
    /// True when the wished version is Ready there.
    pub ready: bool,
    /// The newest command about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
    /// What is heard of it from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Observed>,
}
