//! The bodies of a renewal: an Operator asks for a nonce, and gets a new certificate and user JWT for a request over that nonce
//! which is signed with its nkey.
//!
//! Both signatures stand in the header `Kn-Signature` ([`crate::signature`]) and cover the body's bytes. No certificate is asked for, so
//! that a cluster whose certificate has expired renews the same way. The answer is signed with the Manager's command key: it may name
//! other command keys, and whoever holds a certificate of the same authority, such as the broker, must not be able to.

use crate::enrollment::EnrollmentAnswer;
use serde::{Deserialize, Serialize};

/// `GET`: a nonce.
pub const NONCE_PATH: &str = "/enrollment/v1/nonce";
/// `POST`: a renewal.
pub const PATH: &str = "/enrollment/v1/renew";

/// A nonce that a renewal must contain. Whoever asks gets one; it only bounds for how long a recorded request can be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NonceAnswer {
    /// Opaque text.
    pub nonce: String,
    /// Until when it is accepted, RFC 3339 UTC.
    pub expires_at: String,
}

/// What the Operator sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RenewalRequest {
    /// The cluster's id.
    pub cluster_id: String,
    /// UID of the kube-system namespace.
    pub cluster_uid: String,
    /// Its incarnation, as the last answer named it.
    pub incarnation: String,
    /// Certificate signing request, PEM. Only its public key is used, which may be a new one.
    pub csr_pem: String,
    /// From [`NONCE_PATH`].
    pub nonce: String,
    /// Version of the Operator.
    pub operator_version: String,
}

/// What the Manager answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RenewalAnswer {
    /// That of the request: an answer counts for no other.
    pub nonce: String,
    /// What an enrollment answers, of the same incarnation.
    pub identity: EnrollmentAnswer,
}
