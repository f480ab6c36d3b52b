//! NovaClusterConfig: what a cluster should have installed, and the story of how it joined. A singleton, `default`.
//!
//! The Operator creates it empty at its first start, so that the join conditions have a place before any command
//! arrives; the Manager's command writes the spec.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The one name this kind may have.
pub const NAME: &str = "default";

/// Conditions, in the order in which a cluster joins. The first one that is False names what to mend.
pub mod condition {
    /// The Manager's name resolves.
    pub const DNS_RESOLVED: &str = "DNSResolved";
    /// A TCP connection to it opens.
    pub const ENDPOINT_REACHABLE: &str = "EndpointReachable";
    /// Its certificate verifies under the CA that the token pins.
    pub const TLS_VERIFIED: &str = "TLSVerified";
    /// The clocks agree well enough.
    pub const CLOCK_IN_SYNC: &str = "ClockInSync";
    /// The token was good.
    pub const TOKEN_ACCEPTED: &str = "TokenAccepted";
    /// Certificate and user JWT are stored.
    pub const IDENTITY_ISSUED: &str = "IdentityIssued";
    /// A session with the Manager over the broker is open.
    pub const BUS_CONNECTED: &str = "BusConnected";
    /// Capsule runs as wanted.
    pub const CAPSULE_READY: &str = "CapsuleReady";
    /// Capsule Proxy runs as wanted.
    pub const CAPSULE_PROXY_READY: &str = "CapsuleProxyReady";
    /// KubeVela runs as wanted.
    pub const KUBEVELA_READY: &str = "KubeVelaReady";
    /// Usage windows are sealed and sent.
    pub const USAGE_REPORTING: &str = "UsageReporting";
    /// All of the above.
    pub const READY: &str = "Ready";

    /// All but `Ready`, in order.
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

/// What the cluster should have.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubenova.io",
    version = "v1alpha1",
    kind = "NovaClusterConfig",
    plural = "novaclusterconfigs",
    shortname = "nova",
    category = "kubenova",
    status = "ClusterConfigStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Connected","type":"string","jsonPath":".status.conditions[?(@.type==\"BusConnected\")].status"}"#,
    printcolumn = r#"{"name":"Components","type":"string","jsonPath":".status.componentsReady"}"#,
    printcolumn = r#"{"name":"Cert-Expires","type":"string","jsonPath":".status.certificateExpires"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.operatorVersion"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Cluster-Id","type":"string","priority":1,"jsonPath":".status.clusterId"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterConfigSpec {
    /// Components to install. Absent until the first command: nothing is installed then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<Components>,
}

/// The three components.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Components {
    /// Tenants' walls.
    #[serde(default)]
    pub capsule: Component,
    /// Tenants' view of the API.
    #[serde(default)]
    pub capsule_proxy: Component,
    /// Applications.
    #[serde(default)]
    pub kubevela: Component,
}

/// One component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// Off means its condition is True with reason `Disabled`; nothing that runs is removed.
    #[serde(default)]
    pub enabled: bool,
    /// Version to install; empty means the version the Operator was built for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Take over an install that is already there.
    #[serde(default)]
    pub adopt: bool,
    /// Replicas of the component's controller. Production wants two of Capsule: one dead Capsule freezes pods.
    #[serde(default = "one")]
    pub replicas: u32,
    /// Capsule Proxy only: the URL that kubeconfigs carry.
    #[serde(default, rename = "publicURL", skip_serializing_if = "String::is_empty")]
    pub public_url: String,
}

impl Default for Component {
    fn default() -> Self {
        Self { enabled: false, version: String::new(), adopt: false, replicas: one(), public_url: String::new() }
    }
}

const fn one() -> u32 {
    1
}

/// What the cluster has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterConfigStatus {
    /// Generation the conditions speak about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// See [`condition`].
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// `2/3`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub components_ready: String,
    /// Versions found.
    #[serde(default)]
    pub components: Vec<ComponentStatus>,
    /// This cluster's id at the Manager.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster_id: String,
    /// Version of the Operator.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub operator_version: String,
    /// End of the client certificate, RFC 3339.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub certificate_expires: String,
}

/// What is known of one component.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// `capsule`, `capsule-proxy` or `kubevela`.
    pub name: String,
    /// Version wanted.
    #[serde(default)]
    pub desired_version: String,
    /// Version applied.
    #[serde(default)]
    pub version: String,
    /// What was applied, for pruning: `<group>/<version>/<kind>/<namespace>/<name>`, sorted.
    #[serde(default)]
    pub inventory: Vec<String>,
}
