//! What is wanted of Capsule, Capsule Proxy and KubeVela. The fields are those of NovaClusterConfig, which a test compares; what may stand
//! in them is checked in core.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Differences of the components.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ComponentsChange {
    /// Capsule, which isolates tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capsule: Option<ComponentChange>,
    /// Capsule Proxy, which limits the API that tenants see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capsule_proxy: Option<ComponentChange>,
    /// KubeVela, which runs applications.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubevela: Option<ComponentChange>,
}

/// One component, or differences of it. An object such as `images` is replaced as a whole; `{}` gives it its defaults again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ComponentChange {
    /// Whether it should run. Switching it off leaves tenants, their isolation and their workloads as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Whether the cluster leaves it as it is: nothing is applied, repaired or removed until this is false again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Its version; empty: the version that the Operator was built for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "1.10.9", max_length = 64, pattern = "^[A-Za-z0-9.+-]*$")]
    pub version: Option<String>,
    /// Whether to take over an installation that is already in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<bool>,
    /// Replicas of its controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 5)]
    pub replicas: Option<u32>,
    /// Capsule Proxy only: the URL under which tenants reach it, which kubeconfigs contain; empty when there is none.
    #[serde(default, rename = "publicURL", skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://proxy.dc1-a.example.com", max_length = 2000, pattern = "^(https://[^\\s/?#@]+)?$")]
    pub public_url: Option<String>,
    /// Capsule Proxy only: how it is reached from outside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Where its images come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Images>,
    /// CPU and memory of its controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// On which nodes its pods run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<ComponentPlacement>,
    /// Whether its pods run in the network of their node, for clusters whose API server does not reach pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_network: Option<bool>,
    /// Settings of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<ComponentValues>,
}

/// Where a component's images come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Images {
    /// Registry, and folder in it, that takes the place of the upstream registry in every image of the component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "registry.example.com/mirror",
        max_length = 255,
        pattern = "^([a-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9._-]+)*)?$"
    )]
    pub registry: Option<String>,
    /// Secrets of type `kubernetes.io/dockerconfigjson` in the component's namespace, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 8)]
    pub pull_secrets: Option<Vec<String>>,
    /// Digest of the controller's image; it takes the place of the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^(sha256:[0-9a-f]{64})?$")]
    pub digest: Option<String>,
    /// When the kubelet pulls an image; absent: what the chart says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
}

/// When the kubelet pulls an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// When the node has none.
    IfNotPresent,
    /// Not at all: the node must have it.
    Never,
}

/// CPU and memory of a controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// What is set aside for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<ResourceAmounts>,
    /// What it may use at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceAmounts>,
}

/// Amounts of CPU and memory; what is absent is as the chart says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourceAmounts {
    /// CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "500m", max_length = 20, pattern = "^([0-9]+([.][0-9]{1,3})?|[0-9]+m)?$")]
    pub cpu: Option<String>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "512Mi", max_length = 20, pattern = "^([0-9]+(Ki|Mi|Gi|Ti|k|M|G|T)?)?$")]
    pub memory: Option<String>,
}

/// On which nodes a component's pods run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ComponentPlacement {
    /// Labels a node must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints its pods tolerate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 16)]
    pub tolerations: Option<Vec<Toleration>>,
    /// What must hold for a node's labels, all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 16)]
    pub node_affinity: Option<Vec<NodeRequirement>>,
    /// How its replicas are kept on different nodes; absent: where there are enough of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
    /// PriorityClass of its pods; it must exist. Absent: what the chart says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 253, pattern = "^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$")]
    pub priority_class_name: Option<String>,
}

/// A taint that pods tolerate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Toleration {
    /// Key of the taint; absent with operator `Exists`: every taint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 317)]
    pub key: Option<String>,
    /// How it compares; absent: `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// Value of the taint, with `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 63)]
    pub value: Option<String>,
    /// Effect of the taint; absent: every effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// How long a `NoExecute` taint is tolerated; absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<u32>,
}

/// How a toleration compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum TolerationOperator {
    /// Key and value are the taint's.
    Equal,
    /// The key is the taint's.
    Exists,
}

/// What a taint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum TaintEffect {
    /// No new pods.
    NoSchedule,
    /// Rather no new pods.
    PreferNoSchedule,
    /// No pods.
    NoExecute,
}

/// What must hold for a label of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeRequirement {
    /// Key of the label.
    #[schema(min_length = 1, max_length = 317)]
    pub key: String,
    /// How it is compared.
    pub operator: NodeOperator,
    /// With what, for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub values: Vec<String>,
}

/// How a node's label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum NodeOperator {
    /// It is one of the values.
    In,
    /// It is none of the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

/// How replicas are kept on different nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Spread {
    /// Where there are enough nodes.
    Preferred,
    /// A replica waits until there is another node.
    Required,
    /// Not at all.
    None,
}

/// Settings of a component. Some belong to one component only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ComponentValues {
    /// What it logs; absent: `Info`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
    /// Requests to the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientLimits>,
    /// Capsule only: seconds the API server waits for one of its webhooks; absent: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 30)]
    pub webhook_timeout_seconds: Option<u32>,
    /// KubeVela only: applications it works on at the same time; absent: 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 64)]
    pub concurrent_reconciles: Option<u32>,
    /// KubeVela only: revisions it keeps of an application, for rolling back; absent: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 10, maximum = 100)]
    pub revision_limit: Option<u32>,
    /// KubeVela only: minutes after which it compares an application with what runs; absent: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1440)]
    pub resync_minutes: Option<u32>,
}

/// What a component logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum LogLevel {
    /// What changed, and errors.
    Info,
    /// Everything.
    Debug,
    /// Errors only, where the component can.
    Error,
}

/// How many requests a component may make to the API server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientLimits {
    /// Requests a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub qps: Option<u32>,
    /// Requests at once above that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 20_000)]
    pub burst: Option<u32>,
}

/// How Capsule Proxy is reached from outside the cluster. It ends TLS itself, so an Ingress or a Gateway must pass TLS through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Its Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<EndpointService>,
    /// An Ingress for the host of `publicURL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<EndpointIngress>,
    /// A route of a Gateway for the host of `publicURL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<EndpointGateway>,
    /// Its serving certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<EndpointCertificate>,
}

/// The Service of Capsule Proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointService {
    /// Its type; absent: `ClusterIP`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ServiceType>,
    /// Port on every node, with `NodePort`; absent: the cluster chooses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65_535)]
    pub node_port: Option<u32>,
    /// Class of the load balancer, with `LoadBalancer`; absent: the cluster's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 317)]
    pub load_balancer_class: Option<String>,
    /// Networks that may reach the load balancer, as CIDR; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 64)]
    pub load_balancer_source_ranges: Option<Vec<String>>,
    /// Annotations, such as those that a cloud's load balancer reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Type of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ServiceType {
    /// Inside the cluster only.
    ClusterIP,
    /// A port on every node.
    NodePort,
    /// An address of its own.
    LoadBalancer,
}

/// An Ingress for Capsule Proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointIngress {
    /// IngressClass; absent: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 253)]
    pub class_name: Option<String>,
    /// Annotations; the one that makes the controller pass TLS through is among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A TLSRoute for Capsule Proxy; its Gateway is the site's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointGateway {
    /// Name of the Gateway.
    #[schema(min_length = 1, max_length = 253)]
    pub name: String,
    /// Its namespace.
    #[schema(min_length = 1, max_length = 63)]
    pub namespace: String,
    /// Its listener, which must pass TLS through; absent: every listener that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 253)]
    pub section_name: Option<String>,
}

/// The serving certificate of Capsule Proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointCertificate {
    /// Secret of type `kubernetes.io/tls` in its namespace, made by the site; absent: the Operator's own authority signs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 253, pattern = "^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$")]
    pub secret_name: Option<String>,
}

/// The components that should be installed in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Components {
    /// Capsule, which isolates tenants.
    pub capsule: Component,
    /// Capsule Proxy, which limits the API that tenants see.
    pub capsule_proxy: Component,
    /// KubeVela, which runs applications.
    pub kubevela: Component,
}

/// One component as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// Whether it should run.
    pub enabled: bool,
    /// Whether the cluster leaves it as it is.
    #[serde(default, skip_serializing_if = "is_false")]
    pub paused: bool,
    /// Its version; absent: the version that the Operator was built for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Whether to take over an installation that is already in the cluster.
    pub adopt: bool,
    /// Replicas of its controller.
    pub replicas: u32,
    /// Capsule Proxy only: the URL that kubeconfigs carry.
    #[serde(default, rename = "publicURL", skip_serializing_if = "String::is_empty")]
    pub public_url: String,
    /// Capsule Proxy only: how it is reached from outside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Where its images come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Images>,
    /// CPU and memory of its controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// On which nodes its pods run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<ComponentPlacement>,
    /// Whether its pods run in the network of their node.
    #[serde(default, skip_serializing_if = "is_false")]
    pub host_network: bool,
    /// Settings of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<ComponentValues>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}
