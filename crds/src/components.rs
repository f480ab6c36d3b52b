//! What NovaClusterConfig says of components: version, images, placement and values of each, and how Capsule Proxy is
//! reached from outside.
//!
//! Every value has a type, and a list or a map a bound: what the Operator does not know it refuses, in the command as in
//! the object. What the Manager checks as well is in `kubenova_schema::components`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The components KubeNova installs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Components {
    /// Capsule: isolates tenants from each other.
    #[serde(default)]
    pub capsule: Capsule,
    /// Capsule Proxy: shows each tenant only its own part of the Kubernetes API.
    #[serde(default)]
    pub capsule_proxy: CapsuleProxy,
    /// KubeVela: runs applications.
    #[serde(default)]
    pub kubevela: KubeVela,
}

/// Capsule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capsule {
    /// What every component has.
    #[serde(flatten)]
    pub component: Component,
    /// Settings of Capsule.
    #[serde(default, skip_serializing_if = "is_default")]
    pub values: CapsuleValues,
}

/// Capsule Proxy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.endpoint) || !(has(self.endpoint.ingress) || has(self.endpoint.gateway)) || (has(self.publicURL) && self.publicURL != '')",
    "message": "an Ingress or a Gateway is for the host of publicURL: set publicURL too, or leave both out",
}]))]
pub struct CapsuleProxy {
    /// What every component has.
    #[serde(flatten)]
    pub component: Component,
    /// URL under which tenants reach it, `https://<host>[:<port>]`; written into their kubeconfigs. Empty: the condition
    /// `TenantEndpointKnown` is False and no kubeconfig can be issued.
    #[serde(default, rename = "publicURL", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2000), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^(https://[^\\\\s/?#@]+)?$')",
        "message": "publicURL is https://<host>[:<port>] without a path, such as https://tenants.example.com; set it through the Manager",
    }]))]
    pub public_url: String,
    /// How it is reached from outside the cluster.
    #[serde(default, skip_serializing_if = "is_default")]
    pub endpoint: Endpoint,
    /// Settings of Capsule Proxy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub values: CapsuleProxyValues,
}

/// KubeVela.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubeVela {
    /// What every component has.
    #[serde(flatten)]
    pub component: Component,
    /// Settings of KubeVela.
    #[serde(default, skip_serializing_if = "is_default")]
    pub values: KubeVelaValues,
}

/// What every component has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// Whether to install it. Disabling an installed component removes its webhooks and then its controller; CRDs, tenants,
    /// their isolation and their workloads stay. Its condition is then True with reason `Disabled`.
    #[serde(default)]
    pub enabled: bool,
    /// Leave it as it is: nothing is applied, repaired or removed until this is false again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub paused: bool,
    /// Version to install. Empty: the version this Operator was built for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[0-9A-Za-z.+-]*$')",
        "message": "a version has letters, digits, dots, dashes and plus signs, such as 0.14.0; leave it empty for the one that this Operator was built for",
    }]))]
    pub version: String,
    /// Take over an installation that KubeNova did not make, if there is one. Where something would be lost, the condition
    /// says what, and nothing is changed.
    #[serde(default)]
    pub adopt: bool,
    /// Replicas of the component's controller; two and more get a PodDisruptionBudget and are spread over nodes. Use two for
    /// Capsule in production: while no replica of Capsule is available, no pod of a tenant can be created.
    #[serde(default = "one")]
    #[schemars(with = "i32", range(min = 1, max = 5))]
    pub replicas: u32,
    /// Where its images come from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub images: Images,
    /// CPU and memory of its controller. Empty: what its chart asks for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Resources,
    /// On which nodes its pods run.
    #[serde(default, skip_serializing_if = "is_default")]
    pub placement: Placement,
    /// Run its pods in the network of their node. Needed where the API server does not reach pods, as with EKS and an overlay
    /// network; the namespace must then allow it (`podSecurity` in the values of the Operator's chart).
    #[serde(default, skip_serializing_if = "is_default")]
    pub host_network: bool,
}

impl Default for Component {
    fn default() -> Self {
        Self {
            enabled: false,
            paused: false,
            version: String::new(),
            adopt: false,
            replicas: one(),
            images: Images::default(),
            resources: Resources::default(),
            placement: Placement::default(),
            host_network: false,
        }
    }
}

const fn one() -> u32 {
    1
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Where a component's images come from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// Registry, and folder in it, that takes the place of the upstream registry in every image of the component, such as
    /// `registry.example.com/mirror`. Empty: upstream.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 255), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^([a-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9._-]+)*)?$')",
        "message": "a registry is <host>[:<port>][/<folder>] without https://, such as registry.example.com/mirror",
    }]))]
    pub registry: String,
    /// Secrets of type `kubernetes.io/dockerconfigjson` in the component's namespace, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 253), regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")))]
    pub pull_secrets: Vec<String>,
    /// Digest of the controller's image, `sha256:<64 hexadecimal digits>`; it takes the place of the tag.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 71), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^(sha256:[0-9a-f]{64})?$')",
        "message": "a digest is sha256: and 64 hexadecimal digits in lower case, as the registry shows it; leave it empty to use the tag",
    }]))]
    pub digest: String,
    /// When the kubelet pulls an image: `Always`, `IfNotPresent` or `Never`. Absent: what the chart says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
}

/// When the kubelet pulls an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// When the node has none.
    IfNotPresent,
    /// Not at all: the node must have it.
    Never,
}

/// CPU and memory of a controller.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What is set aside for it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub requests: ResourceAmounts,
    /// What it may use at most.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: ResourceAmounts,
}

/// Amounts of CPU and memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceAmounts {
    /// CPU, such as `500m`. Empty: what the chart says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 20), regex(pattern = r"^([0-9]+(\.[0-9]{1,3})?|[0-9]+m)?$"))]
    pub cpu: String,
    /// Memory, such as `512Mi`. Empty: what the chart says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 20), regex(pattern = r"^([0-9]+(Ki|Mi|Gi|Ti|k|M|G|T)?)?$"))]
    pub memory: String,
}

/// On which nodes a component's pods run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Labels a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints its pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,
    /// What must hold for a node's labels, all of it: the required node affinity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub node_affinity: Vec<NodeRequirement>,
    /// How its replicas are kept on different nodes: the pod anti-affinity.
    #[serde(default, skip_serializing_if = "is_default")]
    pub spread: Spread,
    /// PriorityClass of its pods; it must exist. Empty: what the chart says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253), regex(pattern = r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$"))]
    pub priority_class_name: String,
}

/// A taint that pods tolerate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// Key of the taint. Empty with operator `Exists`: every taint.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 317))]
    pub key: String,
    /// `Equal` or `Exists`.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// Value of the taint, with `Equal`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub value: String,
    /// Effect of the taint. Absent: every effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// How long a `NoExecute` taint is tolerated. Absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub toleration_seconds: Option<i64>,
}

/// How a toleration compares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TolerationOperator {
    /// Key and value are the taint's.
    #[default]
    Equal,
    /// The key is the taint's.
    Exists,
}

/// What a taint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// No new pods.
    NoSchedule,
    /// Rather no new pods.
    PreferNoSchedule,
    /// No pods.
    NoExecute,
}

/// What must hold for a label of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeRequirement {
    /// Key of the label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How it is compared.
    pub operator: NodeOperator,
    /// With what, for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// How a node's label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Spread {
    /// Where there are enough nodes.
    #[default]
    Preferred,
    /// A replica waits until there is another node.
    Required,
    /// Not at all.
    None,
}

/// Settings of Capsule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CapsuleValues {
    /// What it logs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub log_level: LogLevel,
    /// Seconds the API server waits for one of its webhooks. Absent: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 30))]
    pub webhook_timeout_seconds: Option<u32>,
    /// Requests to the API server.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client: ClientLimits,
}

/// Settings of Capsule Proxy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CapsuleProxyValues {
    /// What it logs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub log_level: LogLevel,
    /// Requests to the API server, for all tenants together.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client: ClientLimits,
}

/// Settings of KubeVela.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubeVelaValues {
    /// What it logs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub log_level: LogLevel,
    /// Applications it works on at the same time. Absent: 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 64))]
    pub concurrent_reconciles: Option<u32>,
    /// Revisions it keeps of an application, for rolling back. Absent: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 10, max = 100))]
    pub revision_limit: Option<u32>,
    /// Minutes after which it compares an application with what runs. Absent: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 1440))]
    pub resync_minutes: Option<u32>,
    /// Requests to the API server.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client: ClientLimits,
}

/// What a component logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LogLevel {
    /// What changed, and errors.
    #[default]
    Info,
    /// Everything.
    Debug,
    /// Errors only, where the component can.
    Error,
}

/// How many requests a component may make to the API server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientLimits {
    /// Requests a second. Absent: what KubeNova chose for the component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 10000))]
    pub qps: Option<u32>,
    /// Requests at once above that. Absent: what KubeNova chose for the component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 20000))]
    pub burst: Option<u32>,
}

/// How Capsule Proxy is reached from outside the cluster. It ends TLS itself, so an Ingress or a Gateway must pass TLS
/// through.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Its Service.
    #[serde(default, skip_serializing_if = "is_default")]
    pub service: EndpointService,
    /// An Ingress for the host of `publicURL`, if there is to be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<EndpointIngress>,
    /// A route of a Gateway for the host of `publicURL`, if there is to be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<EndpointGateway>,
    /// Its serving certificate.
    #[serde(default, skip_serializing_if = "is_default")]
    pub certificate: EndpointCertificate,
}

/// The Service of Capsule Proxy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!has(self.nodePort) || (has(self.type) && self.type == 'NodePort')",
        "message": "nodePort is for a Service of type NodePort: set type to NodePort, or leave nodePort out",
    },
    {
        "rule": "!(has(self.loadBalancerClass) || has(self.loadBalancerSourceRanges)) || (has(self.type) && self.type == 'LoadBalancer')",
        "message": "loadBalancerClass and loadBalancerSourceRanges are for a Service of type LoadBalancer: set type to LoadBalancer, or leave them out",
    },
]))]
pub struct EndpointService {
    /// `ClusterIP`, `NodePort` or `LoadBalancer`.
    #[serde(default, rename = "type", skip_serializing_if = "is_default")]
    pub type_: ServiceType,
    /// Port on every node, with `NodePort`. Absent: the cluster chooses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 65535))]
    pub node_port: Option<u32>,
    /// Class of the load balancer, with `LoadBalancer`. Empty: the cluster's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 317))]
    pub load_balancer_class: String,
    /// Networks that may reach the load balancer, as CIDR. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 64)))]
    pub load_balancer_source_ranges: Vec<String>,
    /// Annotations, such as those that a cloud's load balancer reads.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
}

/// Type of a Service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Inside the cluster only.
    #[default]
    ClusterIP,
    /// A port on every node.
    NodePort,
    /// An address of its own.
    LoadBalancer,
}

/// An Ingress for Capsule Proxy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointIngress {
    /// IngressClass. Empty: the cluster's default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub class_name: String,
    /// Annotations; the one that makes the controller pass TLS through is among them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
}

/// A TLSRoute for Capsule Proxy; its Gateway is the site's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointGateway {
    /// Name of the Gateway.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its listener, which must pass TLS through. Empty: every listener that fits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub section_name: String,
}

/// The serving certificate of Capsule Proxy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointCertificate {
    /// Secret of type `kubernetes.io/tls` in its namespace, made by the site, with `ca.crt` when its CA is not a public one.
    /// Empty: the Operator's own authority signs one, and kubeconfigs carry that authority.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253), regex(pattern = r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$"))]
    pub secret_name: String,
}
