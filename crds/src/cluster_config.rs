//! NovaClusterConfig: which components a cluster should have installed, and how far it got in joining. A singleton,
//! `default`.
//!
//! The Operator creates it empty at its first start, so that the join conditions can be written before any command
//! arrives; the Manager's command writes the spec.

use crate::components::Components;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The one name this kind may have.
pub const NAME: &str = "default";

/// Conditions, in the order in which a cluster joins. The first one that is False names what to fix.
pub mod condition {
    /// The Manager's host name resolves.
    pub const DNS_RESOLVED: &str = "DNSResolved";
    /// A TCP connection to the Manager opens.
    pub const ENDPOINT_REACHABLE: &str = "EndpointReachable";
    /// The Manager's certificate verifies under the CA pinned by the enrollment token.
    pub const TLS_VERIFIED: &str = "TLSVerified";
    /// This cluster's clock agrees with the Manager's.
    pub const CLOCK_IN_SYNC: &str = "ClockInSync";
    /// The Manager accepted the enrollment token.
    pub const TOKEN_ACCEPTED: &str = "TokenAccepted";
    /// Client certificate and broker credentials are stored and valid.
    pub const IDENTITY_ISSUED: &str = "IdentityIssued";
    /// A session with the Manager over the broker is open.
    pub const BUS_CONNECTED: &str = "BusConnected";
    /// Capsule is installed as configured, or disabled.
    pub const CAPSULE_READY: &str = "CapsuleReady";
    /// Capsule Proxy is installed as configured, or disabled.
    pub const CAPSULE_PROXY_READY: &str = "CapsuleProxyReady";
    /// KubeVela is installed as configured, or disabled.
    pub const KUBEVELA_READY: &str = "KubeVelaReady";
    /// Usage is measured and stored in the cluster.
    pub const USAGE_REPORTING: &str = "UsageReporting";
    /// All conditions above are True.
    pub const READY: &str = "Ready";
    /// Tenants' kubeconfigs have an address: Capsule Proxy is on and has a public URL. The cluster is Ready without it.
    pub const TENANT_ENDPOINT_KNOWN: &str = "TenantEndpointKnown";
    /// True while a component does not get further by itself; the message names it and what to do. The cluster's own word for
    /// what `kubectl wait` need not wait for any longer.
    pub const STALLED: &str = "Stalled";

    /// All that `Ready` needs, in order.
    pub const JOIN_ORDER: [&str; 11] = [
        DNS_RESOLVED,
        ENDPOINT_REACHABLE,
        TLS_VERIFIED,
        CLOCK_IN_SYNC,
        TOKEN_ACCEPTED,
        IDENTITY_ISSUED,
        BUS_CONNECTED,
        CAPSULE_READY,
        CAPSULE_PROXY_READY,
        KUBEVELA_READY,
        USAGE_REPORTING,
    ];
}

/// Desired state: the components this cluster should have.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubenova.io",
    version = "v1alpha1",
    kind = "NovaClusterConfig",
    plural = "novaclusterconfigs",
    shortname = "nova",
    category = "kubenova",
    doc = "Components of this cluster and how far it got in joining the Manager. There is one, named default; the Manager writes its spec, the Operator its status.",
    status = "ClusterConfigStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name == 'default'").message("there is one, named default; change that one through the Manager, and create no other"),
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Connected","type":"string","jsonPath":".status.conditions[?(@.type==\"BusConnected\")].status"}"#,
    printcolumn = r#"{"name":"Transport","type":"string","jsonPath":".status.transport"}"#,
    printcolumn = r#"{"name":"Components","type":"string","jsonPath":".status.componentsReady"}"#,
    printcolumn = r#"{"name":"Cert-Expires","type":"string","jsonPath":".status.certificateExpires"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.operatorVersion"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#,
    printcolumn = r#"{"name":"Cluster-Id","type":"string","priority":1,"jsonPath":".status.clusterId"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterConfigSpec {
    /// Components to install. Absent until the Manager sends its first command; nothing is installed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<Components>,
}

/// Observed state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterConfigStatus {
    /// Generation of the spec that the conditions describe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready first, with what to fix when it is False; then what it sums up, in the order in which a cluster joins: DNSResolved,
    /// EndpointReachable, TLSVerified, ClockInSync, TokenAccepted, IdentityIssued, BusConnected, CapsuleReady, CapsuleProxyReady,
    /// KubeVelaReady, UsageReporting. Beside them TenantEndpointKnown, and Stalled, which is True while a component does not get further.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Components that are ready, of those enabled, such as `2/3`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub components_ready: String,
    /// State of each component.
    #[serde(default)]
    pub components: Vec<ComponentStatus>,
    /// Id of this cluster at the Manager.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster_id: String,
    /// Version of the running Operator.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub operator_version: String,
    /// When the client certificate expires, RFC 3339.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub certificate_expires: String,
    /// How the broker was reached when the last session was opened: `leaf`, `nats`, `websocket` or `grpc`, and the proxy if one is used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub transport: String,
}

/// Observed state of one component. What was applied for it is in the ConfigMap `kubenova-inventory` beside the Operator.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// `capsule`, `capsule-proxy` or `kubevela`.
    pub name: String,
    /// Version that should be installed.
    #[serde(default)]
    pub desired_version: String,
    /// Version that was last applied completely and became available; empty when there is none.
    #[serde(default)]
    pub version: String,
    /// How it is: `Healthy`, `Progressing` while it is being changed, `Degraded` when it does not get further, `Paused` or
    /// `Disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<ComponentHealth>,
    /// When it was available for the first time, RFC 3339; empty once it is off.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub standing_since: String,
    /// Since when it has not been as configured, RFC 3339; empty while it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unsettled_since: String,
    /// The last error and what to do about it; stays until it is as configured.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_error: String,
}

/// How a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ComponentHealth {
    /// As configured, and available.
    Healthy,
    /// Being changed.
    Progressing,
    /// It does not get further by itself, or is not available.
    Degraded,
    /// Left as it is.
    Paused,
    /// Off.
    Disabled,
}
