//! Requests over HTTPS to the Manager, each on a connection of its own: whom is trusted there, its limits, and the condition that names the fix when it fails.
//!
//! The first request goes to whoever has the CA that the enrollment token pins; later ones to whoever verifies under the CA bundle that
//! the Manager answered with. Other roots do not count.

use super::{
    conditions::JoinError,
    pinned::{Excluded, PinVerifier},
    reach,
};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use kubenova_bus::{
    dial::{Dialer, Socket, Target},
    tls,
};
use kubenova_crds::cluster_config::condition;
use kubenova_operator_core::conditions::ConditionSet;
use kubenova_runtime::{clock, telemetry};
use kubenova_schema::signature::{AcceptedKeys, HEADER, PayloadType, SignatureError};
use serde::{Deserialize, de::DeserializeOwned};
use std::{sync::Arc, time::Duration};

/// Time for TLS and the whole request: with the name, the port and a proxy before it, a reason is shown within 30 s.
const REQUEST_LIMIT: Duration = Duration::from_secs(12);
/// Statuses with which the Manager says no.
const DECISIONS: [u16; 5] = [401, 403, 409, 410, 422];
/// Longest answer read: certificates, JWT and a few keys are below 64 KiB.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// The Manager at one of its endpoints.
pub(super) struct ManagerClient<'a> {
    endpoint: &'a str,
    target: Target,
    dialer: &'a Dialer,
    verifier: Arc<PinVerifier>,
}

/// What is asked of the Manager.
pub(super) struct Asked {
    method: Method,
    path: &'static str,
    headers: Vec<(header::HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Asked {
    pub(super) fn get(path: &'static str) -> Self {
        Self { method: Method::GET, path, headers: Vec::new(), body: Bytes::new() }
    }

    /// Posts JSON.
    pub(super) fn post(path: &'static str, json: Vec<u8>) -> Self {
        let headers = vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        Self { method: Method::POST, path, headers, body: json.into() }
    }

    /// With one more header, whose value is not for logs. What cannot be a header is left out, and the Manager refuses.
    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let (Ok(name), Ok(mut value)) = (name.parse(), HeaderValue::from_str(value)) {
            value.set_sensitive(true);
            self.headers.push((name, value));
        }
        self
    }
}

/// Why there is no answer once a connection is open.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("TLS failed")]
    Tls(#[source] std::io::Error),
    #[error("the request failed")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
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
    /// Trusts the CA whose public key has this hex SHA-256, unless it leads to the excluded Manager.
    pub(super) fn pinned(
        endpoint: &'a str,
        ca_spki_sha256: &str,
        excluded: Option<Excluded>,
        dialer: &'a Dialer,
    ) -> Option<Self> {
        Self::verified_by(endpoint, PinVerifier::new(ca_spki_sha256, excluded), dialer)
    }

    /// Trusts the CAs of this bundle.
    pub(super) fn of_bundle(endpoint: &'a str, bundle_pem: &str, dialer: &'a Dialer) -> Option<Self> {
        Self::verified_by(endpoint, PinVerifier::of_bundle(bundle_pem), dialer)
    }

    /// None when the endpoint is no `https://` URL.
    fn verified_by(endpoint: &'a str, verifier: Arc<PinVerifier>, dialer: &'a Dialer) -> Option<Self> {
        Some(Self { endpoint, target: Target::of_https(endpoint)?, dialer, verifier })
    }

    /// Connects, sends a request and reads the answer; the steps that were made are conditions.
    pub(super) async fn send(&self, asked: Asked, conditions: &mut ConditionSet) -> Result<Reply, JoinError> {
        let stream = reach::connect(self.dialer, &self.target, conditions).await?;
        let replied = tokio::time::timeout(REQUEST_LIMIT, self.request(stream, asked)).await;
        replied.map_err(|_| self.timed_out())?.map_err(|error| self.failed(&error))
    }

    async fn request(&self, stream: Socket, asked: Asked) -> Result<Reply, SendError> {
        let config = rustls::ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::<PinVerifier>::clone(&self.verifier))
            .with_no_client_auth();
        let stream = tls::handshake(config, &self.target.host, stream).await.map_err(SendError::Tls)?;
        let request = self.build(asked)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| SendError::Http(error.into()))?;
        let answered = async {
            let sent_at = clock::now_ms();
            let response = sender.send_request(request).await.map_err(|error| SendError::Http(error.into()))?;
            Reply::read(response, sent_at).await
        };
        tokio::pin!(answered);
        tokio::select! {
            answered = &mut answered => answered,
            // It carries the request, and ends before the answer only by failing; then the request knows why.
            _ended = connection => answered.await,
        }
    }

    fn build(&self, asked: Asked) -> Result<Request<Full<Bytes>>, SendError> {
        let path = url::Url::parse(self.endpoint).map(|url| url.path().trim_end_matches('/').to_owned());
        let path = format!("{}{}", path.unwrap_or_default(), asked.path);
        let mut builder =
            Request::builder().method(asked.method).uri(path).header(header::HOST, self.target.to_string());
        for (name, value) in asked.headers {
            builder = builder.header(name, value);
        }
        builder.body(Full::new(asked.body)).map_err(|error| SendError::Http(error.into()))
    }

    fn timed_out(&self) -> JoinError {
        let (endpoint, seconds) = (self.endpoint, REQUEST_LIMIT.as_secs());
        let message = format!(
            "{endpoint} did not answer within {seconds} s; check for a proxy or firewall that holds the connection"
        );
        JoinError::new(condition::ENDPOINT_REACHABLE, "NoAnswer", message)
    }

    fn failed(&self, error: &SendError) -> JoinError {
        let endpoint = self.endpoint;
        if let Some(JoinError { condition, reason, message }) = self.verifier.refusal() {
            return JoinError::new(condition, reason, format!("{endpoint}: {message}"));
        }
        let cause = telemetry::chain(error);
        match error {
            SendError::Tls(_) => {
                let message = format!(
                    "TLS handshake with {endpoint} failed: {cause}; check that this is the Manager's port for REST and enrollment"
                );
                JoinError::new(condition::TLS_VERIFIED, "HandshakeFailed", message)
            }
            SendError::Http(_) => JoinError::new(
                condition::ENDPOINT_REACHABLE,
                "ConnectionLost",
                format!("lost the connection to {endpoint}: {cause}"),
            ),
        }
    }
}

impl Reply {
    async fn read(response: http::Response<hyper::body::Incoming>, sent_at: i64) -> Result<Self, SendError> {
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let date = text("date").and_then(|text| jiff::fmt::rfc2822::parse(text).ok()).map(|zoned| zoned.timestamp());
        let signature = text(HEADER).map(str::to_owned);
        let (status, middle_ms) = (response.status().as_u16(), i64::midpoint(sent_at, clock::now_ms()));
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(SendError::Http)?;
        Ok(Self { status, body: body.to_bytes().to_vec(), signature, date, middle_ms })
    }

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
