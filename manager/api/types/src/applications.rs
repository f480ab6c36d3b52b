//! Applications.

use crate::{
    clusters::Observed,
    commands::{Command, CommandRef, CommandState},
    list::List,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The typed form of an application: one web service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicationForm {
    /// Name, unique in the tenant: lower-case letters, digits and dashes, beginning with a letter, not ending with a dash.
    #[schema(example = "shop", min_length = 1, max_length = 50, pattern = "^[a-z]([-a-z0-9]*[a-z0-9])?$")]
    pub name: String,
    /// Container image.
    #[schema(example = "nginx:1.29", min_length = 1, max_length = 1024, pattern = "^[!-~]+$")]
    pub image: String,
    /// How many pods; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1000)]
    pub replicas: Option<u32>,
    /// Port to expose inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65535)]
    pub port: Option<u16>,
    /// CPU request of each pod, a Kubernetes quantity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "100m", max_length = 15, pattern = "^[0-9]+([.][0-9]+)?([numkMGTP]|[KMGTPE]i)?$")]
    pub cpu: Option<String>,
    /// Memory request of each pod, a Kubernetes quantity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "128Mi", max_length = 15, pattern = "^[0-9]+([.][0-9]+)?([numkMGTP]|[KMGTPE]i)?$")]
    pub memory: Option<String>,
    /// Command in place of the image's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment variables; names are visible ASCII without `=`. Do not put secrets here: the values are stored and
    /// shown as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// User id the container runs as; used where the tenant's pods are `restricted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub run_as_user: Option<u32>,
    /// Clusters by id or name; required when the tenant is on several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1)]
    pub clusters: Option<Vec<String>>,
}

/// A KubeVela Application with the clusters it should run on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicationRaw {
    /// The Application.
    #[schema(value_type = KubeVelaApplication)]
    pub application: serde_json::Value,
    /// Clusters by id or name; required when the tenant is on several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1)]
    pub clusters: Option<Vec<String>>,
}

/// A KubeVela Application as `kubectl` reads and prints it. What the API server, KubeVela and KubeNova write into one
/// (`status`, `metadata.uid`, their labels, annotations and finalizer with their own values) is accepted and ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeVelaApplication {
    /// `core.oam.dev/v1beta1`.
    #[schema(pattern = "^core[.]oam[.]dev/v1beta1$", example = "core.oam.dev/v1beta1")]
    pub api_version: String,
    /// `Application`.
    #[schema(pattern = "^Application$", example = "Application")]
    pub kind: String,
    /// Name, labels and annotations.
    pub metadata: KubeVelaMetadata,
    /// Components, policies and workflow.
    pub spec: KubeVelaSpec,
    /// Ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<serde_json::Value>,
}

/// Metadata of a KubeVela Application. What the API server and KubeVela write is accepted, so that an Application that
/// `kubectl` prints can be sent back, and ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeVelaMetadata {
    /// Name, unique in the tenant.
    #[schema(example = "shop", min_length = 1, max_length = 50, pattern = "^[a-z]([-a-z0-9]*[a-z0-9])?$")]
    pub name: String,
    /// `<tenant>-apps`, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels as Kubernetes allows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations as Kubernetes allows them, 252 KiB in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// KubeVela's own finalizer, or nothing; ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finalizers: Option<Vec<KubeVelaFinalizer>>,
    /// Ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<serde_json::Value>,
    /// Ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<serde_json::Value>,
    /// Ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<serde_json::Value>,
    /// Ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<serde_json::Value>,
    /// Ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<serde_json::Value>,
    /// Ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_grace_period_seconds: Option<serde_json::Value>,
    /// Ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_fields: Option<serde_json::Value>,
    /// Ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_link: Option<serde_json::Value>,
}

/// The finalizer by which KubeVela removes what an application made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum KubeVelaFinalizer {
    /// The only one.
    #[serde(rename = "app.oam.dev/resource-tracker-finalizer")]
    ResourceTracker,
}

/// Spec of a KubeVela Application; fields that are not listed are passed on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KubeVelaSpec {
    /// What runs.
    #[schema(min_items = 1)]
    pub components: Vec<KubeVelaComponent>,
    /// The fields that are not listed.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// A component; fields that are not listed are passed on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KubeVelaComponent {
    /// Its name in the application.
    #[schema(example = "web", min_length = 1)]
    pub name: String,
    /// Its definition: `cron-task`, `daemon`, `k8s-objects`, `statefulset`, `task`, `webservice` or `worker`.
    #[serde(rename = "type")]
    #[schema(example = "webservice", min_length = 1)]
    pub kind: String,
    /// Parameters of the definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, serde_json::Value>>)]
    pub properties: Option<serde_json::Value>,
    /// What is added to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traits: Option<Vec<KubeVelaTrait>>,
    /// The fields that are not listed.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// A trait of a component; fields that are not listed are passed on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KubeVelaTrait {
    /// Its definition, for example `scaler`.
    #[serde(rename = "type")]
    #[schema(example = "scaler", min_length = 1)]
    pub kind: String,
    /// Parameters of the definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, serde_json::Value>>)]
    pub properties: Option<serde_json::Value>,
    /// The fields that are not listed.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// What a body may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum ApplicationBody {
    /// The typed form.
    Form(Box<ApplicationForm>),
    /// A KubeVela Application with its clusters.
    Raw(ApplicationRaw),
    /// A KubeVela Application; its clusters stand in the query parameter `clusters`.
    Bare(Box<KubeVelaApplication>),
}

/// An application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Application {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Id of the tenant it belongs to.
    pub tenant_id: String,
    /// Name of that tenant.
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
    #[schema(value_type = KubeVelaSpec)]
    pub spec: serde_json::Value,
    /// `active`; `deleting` from the moment a delete was accepted until every cluster reported that nothing of it is
    /// left; `deleted` only in the answer to a delete that had nothing to wait for.
    pub state: ApplicationState,
    /// When its delete was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleting_since: Option<Timestamp>,
    /// Where it should run, and where it still has to be removed.
    pub clusters: Vec<ApplicationCluster>,
    /// Version of this resource.
    pub generation: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the desired state last changed.
    pub updated_at: Timestamp,
    /// Who created it.
    pub created_by: String,
}

/// One page of applications.
pub type ApplicationList = List<Application>;

/// Whether an application is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum ApplicationState {
    /// It should run.
    Active,
    /// It should be removed, and clusters have not all reported that it is.
    Deleting,
    /// It is gone.
    Deleted,
}

/// A cluster of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationCluster {
    /// The cluster's id.
    pub cluster_id: String,
    /// The cluster's name.
    pub cluster_name: String,
    /// `deleting` when the application has to be removed from this cluster.
    pub state: ApplicationState,
    /// The removal, while the state is `deleting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<Removal>,
}

/// How far the removal of an application from a cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Removal {
    /// The delete command; see `/api/v1/commands/{id}`.
    pub command_id: String,
    /// State of that command. After `failed`, `refused` or `expired` a further DELETE of the application tries again.
    pub state: CommandState,
    /// Up to when that is known, as in the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// One CamelCase word why it is there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A sentence why it is there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What it waits for: one CamelCase word, explained in `message`; absent when it makes progress.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub waiting_for: String,
    /// When the command is sent again at the latest, once it was sent and the cluster has not carried it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Timestamp>,
}

/// Answer to a change of an application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationAccepted {
    /// The application.
    #[serde(flatten)]
    pub application: Application,
    /// The commands that clusters are sent because of this request; empty when it changed nothing.
    pub commands: Vec<CommandRef>,
}

/// Which clusters of an application an operation is for, and until when they may begin it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicationOperation {
    /// Clusters by id or name; all on which the application should run when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1)]
    pub clusters: Option<Vec<String>>,
    /// Seconds until the operation expires on a cluster that has not begun it; 600 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 10, maximum = 86400)]
    pub deadline_seconds: Option<u32>,
}

/// How an application does, cluster by cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationStatus {
    /// The application's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Id of the tenant it belongs to.
    pub tenant_id: String,
    /// Version of the desired state.
    pub generation: String,
    /// `active` or `deleting`.
    pub state: ApplicationState,
    /// True when this version is Ready on every cluster it should run on; never while it is being deleted.
    pub ready: bool,
    /// Up to when that is known: the oldest of its clusters. Absent while one of them has not reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// Cluster by cluster.
    pub clusters: Vec<ApplicationClusterStatus>,
}

/// How an application does on one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationClusterStatus {
    /// The cluster's id.
    pub cluster_id: String,
    /// The cluster's name.
    pub cluster_name: String,
    /// `deleting` when the application has to be removed from this cluster.
    pub state: ApplicationState,
    /// True while it runs there as it is wanted now and its tenant is ready; else the condition `Ready` of what was observed
    /// says what keeps it, and `Stalled` is there once it takes too long.
    pub ready: bool,
    /// Up to when that is known: the cluster's last heartbeat, or its last report when that came later. Absent before the cluster's
    /// first hello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// The newest command about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
    /// What the cluster last reported about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Observed>,
}
