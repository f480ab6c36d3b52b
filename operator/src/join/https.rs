//! One request over HTTPS to the Manager: whom is trusted there, its limits, and the condition that names the fix when it fails.
//!
//! The first request goes to whoever has the CA that the enrollment token pins; later ones to whoever verifies under the CA bundle that
//! the Manager answered with. Other roots do not count.

use super::{conditions::JoinError, pinned::PinVerifier};
use jiff::Timestamp;
use kubenova_crds::cluster_config::condition;
use kubenova_runtime::{clock, telemetry};
use kubenova_schema::signature::{AcceptedKeys, HEADER, PayloadType, SignatureError};
use reqwest::RequestBuilder;
use serde::{Deserialize, de::DeserializeOwned};
use std::{sync::Arc, time::Duration};

/// Time for the whole request: with the name and the port before it, a reason is shown within 30 s.
const REQUEST_LIMIT: Duration = Duration::from_secs(12);
/// Statuses with which the Manager says no.
const DECISIONS: [u16; 5] = [401, 403, 409, 410, 422];
/// Longest answer read: certificates, JWT and a few keys are below 64 KiB.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// The Manager at one of its endpoints.
pub(super) struct ManagerClient<'a> {
    endpoint: &'a str,
    client: reqwest::Client,
    verifier: Arc<PinVerifier>,
}

/// What the Manager answered.
pub(super) struct Reply {
    status: u16,
    body: Vec<u8>,
    signature: Option<String>,
    /// The time in its header, in whole seconds.
    pub(super) date: Option<Timestamp>,
    /// This cluster's clock in the middle of the request, in milliseconds.
    pub(super) middle_ms: i64,
}

/// What a refused request says (`application/problem+json`).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    reason: String,
    detail: String,
    title: String,
    remedy: String,
    retryable: bool,
}

/// Why the Manager answered with an error.
pub(super) struct Refusal {
    /// As conditions want it.
    pub(super) reason: String,
    pub(super) detail: String,
    /// What to do about it, in the Manager's words; may be empty.
    pub(super) remedy: String,
    /// The Manager decided so. Anything else, such as the page of a proxy, may pass.
    pub(super) is_decided: bool,
}

impl<'a> ManagerClient<'a> {
    /// Trusts the CA whose public key has this hex SHA-256.
    pub(super) fn pinned(endpoint: &'a str, ca_spki_sha256: &str) -> Result<Self, JoinError> {
        Self::verified_by(endpoint, PinVerifier::new(ca_spki_sha256))
    }

    /// Trusts the CAs of this bundle.
    pub(super) fn of_bundle(endpoint: &'a str, bundle_pem: &str) -> Result<Self, JoinError> {
        Self::verified_by(endpoint, PinVerifier::of_bundle(bundle_pem))
    }

    fn verified_by(endpoint: &'a str, verifier: Arc<PinVerifier>) -> Result<Self, JoinError> {
        let config = rustls::ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::<PinVerifier>::clone(&verifier))
            .with_no_client_auth();
        Ok(Self { endpoint, client: client(config)?, verifier })
    }

    pub(super) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    pub(super) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.endpoint.trim_end_matches('/'))
    }

    /// Sends a request and reads the answer.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Reply, JoinError> {
        let sent_at = clock::now_ms();
        let response = request.send().await.map_err(|error| self.failed(&error))?;
        let date = response
            .headers()
            .get("date")
            .and_then(|value| value.to_str().ok())
            .and_then(|text| jiff::fmt::rfc2822::parse(text).ok());
        let middle_ms = i64::midpoint(sent_at, clock::now_ms());
        let status = response.status().as_u16();
        let signature = response.headers().get(HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = read(response).await.map_err(|error| self.failed(&error))?;
        Ok(Reply { status, body, signature, date: date.map(|zoned| zoned.timestamp()), middle_ms })
    }

    fn failed(&self, error: &reqwest::Error) -> JoinError {
        let endpoint = self.endpoint;
        if let Some(refusal) = self.verifier.refusal() {
            return JoinError::new(condition::TLS_VERIFIED, refusal.reason, format!("{endpoint}: {}", refusal.message));
        }
        let cause = telemetry::chain(error);
        if error.is_timeout() {
            let message = format!(
                "{endpoint} did not answer within {} s: {cause}; check for a proxy or firewall that holds the connection",
                REQUEST_LIMIT.as_secs()
            );
            return JoinError::new(condition::ENDPOINT_REACHABLE, "NoAnswer", message);
        }
        if error.is_connect() {
            let message = format!(
                "TLS handshake with {endpoint} failed: {cause}; check that this is the Manager's port for REST and enrollment"
            );
            return JoinError::new(condition::TLS_VERIFIED, "HandshakeFailed", message);
        }
        JoinError::new(
            condition::ENDPOINT_REACHABLE,
            "ConnectionLost",
            format!("lost the connection to {endpoint}: {cause}"),
        )
    }
}

impl Reply {
    pub(super) const fn status(&self) -> u16 {
        self.status
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body of an answer.
    pub(super) fn decode<T: DeserializeOwned>(&self) -> Result<T, JoinError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let message =
                format!("could not read the Manager's answer: {error}; upgrade the older of Manager and Operator");
            JoinError::new(condition::IDENTITY_ISSUED, "AnswerUnreadable", message)
        })
    }

    /// Whether the body was signed with one of these keys.
    pub(super) fn verify(&self, payload_type: PayloadType, keys: &AcceptedKeys) -> Result<(), SignatureError> {
        keys.verify(payload_type, &self.body, self.signature.as_deref())
    }

    /// Why this is no success.
    pub(super) fn refusal(&self) -> Refusal {
        let problem: Problem = serde_json::from_slice(&self.body).unwrap_or_default();
        let detail = [problem.detail, problem.title].into_iter().find(|text| !text.is_empty());
        let reason =
            if problem.reason.is_empty() { format!("Http{}", self.status) } else { camel_case(&problem.reason) };
        let is_decided = DECISIONS.contains(&self.status) && !problem.reason.is_empty() && !problem.retryable;
        Refusal {
            reason,
            detail: detail.unwrap_or_else(|| format!("HTTP {}", self.status)),
            remedy: problem.remedy,
            is_decided,
        }
    }

    #[cfg(test)]
    pub(super) fn signed(body: &str, signature: Option<String>) -> Self {
        Self { signature, ..Self::of(200, body) }
    }

    #[cfg(test)]
    pub(super) fn of(status: u16, body: &str) -> Self {
        Self { status, body: body.as_bytes().to_vec(), signature: None, date: None, middle_ms: 0 }
    }
}

fn client(config: rustls::ClientConfig) -> Result<reqwest::Client, JoinError> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .timeout(REQUEST_LIMIT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| {
            let message = format!("could not set up TLS: {}", telemetry::chain(&error));
            JoinError::new(condition::TLS_VERIFIED, "ClientFailed", message)
        })
}

async fn read(mut response: reqwest::Response) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// `TOKEN_EXPIRED` and `tokenExpired` become `TokenExpired`, as conditions want reasons.
fn camel_case(reason: &str) -> String {
    let upper_case = !reason.chars().any(char::is_lowercase);
    let mut text = String::new();
    for word in reason.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        let (first, rest) = word.split_at(1);
        text.push_str(&first.to_ascii_uppercase());
        text.push_str(&if upper_case { rest.to_ascii_lowercase() } else { rest.to_owned() });
    }
    if text.is_empty() { "Refused".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_manager_decides() {
        for (status, body) in [
            (403, "<html>forbidden by the proxy</html>"),
            (404, r#"{"reason":"ROUTE_NOT_FOUND"}"#),
            (408, r#"{"reason":"REQUEST_TIMEOUT","retryable":true}"#),
            (409, r#"{"reason":"IDEMPOTENCY_KEY_IN_USE","retryable":true}"#),
        ] {
            assert!(!Reply::of(status, body).refusal().is_decided, "{status} {body}");
        }
    }

    #[test]
    fn a_refusal_keeps_the_manager_s_reason() {
        let refusal = Reply::of(403, r#"{"reason":"TOKEN_EXPIRED","detail":"token ended yesterday"}"#).refusal();
        assert_eq!((refusal.reason.as_str(), refusal.detail.as_str()), ("TokenExpired", "token ended yesterday"));
        assert!(refusal.is_decided);
        let refusal = Reply::of(503, "").refusal();
        assert_eq!((refusal.reason.as_str(), refusal.detail.as_str()), ("Http503", "HTTP 503"));
        assert!(!refusal.is_decided);
        assert_eq!(camel_case("clusterQuarantined"), "ClusterQuarantined");
    }
}
