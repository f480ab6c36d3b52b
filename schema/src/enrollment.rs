//! The bodies of `POST /enrollment/v1`: an Operator sends its public keys and gets an identity.
//!
//! The token's secret travels in `Authorization: Bearer`. The same token with the same cluster UID and public keys gets
//! its answer again until the first `BusConnected` (an answer may be lost); other keys are a second use. Where an
//! administrator approves enrollments, the answer is 202 with [`PendingApproval`] until one has; the Operator asks again
//! with the same keys.

use crate::{sealing::SealingKey, signature::AcceptedKeys};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

/// Path of the SPIFFE ID in the Manager's certificate, `spiffe://<trust domain>/manager`. A cluster shows its token, and asks for renewals,
/// to a server with this one only: the CA also signs for broker and bridge, which may have the same names.
pub const MANAGER_SPIFFE_PATH: &str = "manager";

/// Path of the endpoint.
pub const PATH: &str = "/enrollment/v1";

/// What the Operator sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnrollmentRequest {
    /// From the token.
    pub cluster_id: String,
    /// UID of the kube-system namespace.
    pub cluster_uid: String,
    /// Certificate signing request, PEM. Only its public key is used.
    pub csr_pem: String,
    /// Public user nkey (`U...`), made in the cluster.
    pub nkey_public: String,
    /// The key that clients seal to. Its signature proves that the sender holds the nkey.
    pub sealing_key: SealingKey,
    /// Version of the Operator.
    pub operator_version: String,
    /// Version of the cluster's API server.
    pub kubernetes_version: String,
    /// How many nodes the cluster has; absent when the Operator does not know. It helps who approves to tell clusters
    /// apart, and decides nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
    /// The Operator's clock, RFC 3339 UTC with milliseconds.
    pub at: String,
}

/// What the Manager answers with status 202: an administrator has to approve this enrollment first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingApproval {
    /// Id of the token at the Manager.
    pub enrollment_id: String,
    /// [Fingerprint](crate::fingerprint::fingerprint) of the keys that asked.
    pub fingerprint: String,
    /// Path of the Manager's REST API that approves it.
    pub approve_path: String,
    /// Until when it can be approved, RFC 3339 UTC with milliseconds.
    pub expires_at: String,
    /// The Manager's clock, RFC 3339 UTC with milliseconds.
    pub manager_time: String,
}

/// What the Manager answers. Nothing in it is secret: the private keys never leave the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnrollmentAnswer {
    /// The cluster's id.
    pub cluster_id: String,
    /// Rises with each enrollment; part of the certificate's SPIFFE id.
    pub incarnation: String,
    /// Current epoch.
    pub epoch: u64,
    /// Client certificate and its issuers, PEM, leaf first.
    pub certificate_chain_pem: String,
    /// NATS user JWT.
    pub user_jwt: String,
    /// `tls://` URLs of the broker.
    pub broker_urls: Vec<String>,
    /// URLs at which a leaf node of this cluster connects to the hub, `tls://host:port` or `wss://host[:port]`; none where the hub takes no
    /// leaf nodes.
    #[serde(default)]
    pub leaf_urls: Vec<String>,
    /// CAs of broker and Manager, PEM.
    pub ca_bundle_pem: String,
    /// Accepted command signing keys: key id and base64 public key.
    pub command_keys: Vec<PublicKey>,
    /// Which keys of the Manager it was issued with and names. The Operator repeats it in its hello; when the Manager has others by then,
    /// it asks for a renewal.
    pub key_set_id: String,
    /// `https://` URLs of the Manager, for renewals; their certificate verifies under a CA of the bundle.
    pub endpoints: Vec<String>,
    /// When certificate and JWT were issued, RFC 3339 UTC with milliseconds.
    pub issued_at: String,
    /// When the first of certificate and JWT expires, RFC 3339 UTC with milliseconds.
    pub expires_at: String,
    /// The Manager's clock, RFC 3339 UTC with milliseconds.
    pub manager_time: String,
}

/// An Ed25519 public key with its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublicKey {
    /// First 16 hex digits of the key's SHA-256.
    pub key_id: String,
    /// 32 bytes, base64.
    pub public_key: String,
}

impl AcceptedKeys {
    /// From the keys as enrollment names them; one that cannot be read is dropped.
    #[must_use]
    pub fn of(keys: &[PublicKey]) -> Self {
        Self::new(keys.iter().filter_map(|key| {
            let public = BASE64.decode(key.public_key.as_bytes()).ok()?;
            Some((key.key_id.clone(), public))
        }))
    }
}
