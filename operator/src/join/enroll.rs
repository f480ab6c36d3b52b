//! `POST /enrollment/v1`: the one request that carries the token's secret, sent only over a pinned connection.

use super::{conditions::JoinError, identity::Keys, pinned::PinVerifier};
use jiff::Timestamp;
use kubenova_crds::cluster_config::condition;
use kubenova_runtime::{clock, telemetry};
use kubenova_schema::{
    enrollment::{EnrollmentAnswer, EnrollmentRequest, PATH},
    token::EnrollmentToken,
};
use serde::Deserialize;
use std::{sync::Arc, time::Duration};

/// Time for the whole request: with the name and the port before it, a reason is shown within 30 s.
const REQUEST_LIMIT: Duration = Duration::from_secs(12);
/// Longest answer read: certificates, JWT and a few keys are below 64 KiB.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// What the Manager answered, and how its clock differs.
#[derive(Debug)]
pub struct Answered {
    /// The answer, or why there is none.
    pub answer: Result<EnrollmentAnswer, JoinError>,
    /// This cluster's clock minus the Manager's, in milliseconds, when the answer carried a time.
    pub clock_offset_ms: Option<i64>,
}

/// What a refused request says (`application/problem+json`).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    reason: String,
    detail: String,
    title: String,
}

/// Sends the request to one endpoint.
///
/// # Errors
/// When the connection fails; the Manager's own refusal is in the answer.
pub async fn send(endpoint: &str, token: &EnrollmentToken, request: &EnrollmentRequest) -> Result<Answered, JoinError> {
    let verifier = PinVerifier::new(&token.ca_spki_sha256);
    let client = client(&verifier).map_err(|error| {
        JoinError::new(
            condition::TLS_VERIFIED,
            "ClientFailed",
            format!("could not set up TLS: {}", telemetry::chain(&error)),
        )
    })?;
    let url = format!("{}{PATH}", endpoint.trim_end_matches('/'));
    let sent_at = clock::now_ms();
    let response = client.post(&url).bearer_auth(&token.secret).json(request).send().await;
    let response = response.map_err(|error| connection_error(endpoint, &verifier, &error))?;
    let header = response
        .headers()
        .get("date")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| jiff::fmt::rfc2822::parse(text).ok());
    let middle = i64::midpoint(sent_at, clock::now_ms());
    let status = response.status();
    let body = read(response).await.map_err(|error| connection_error(endpoint, &verifier, &error))?;
    let answer = if status.is_success() { decode(&body) } else { Err(refusal(status.as_u16(), &body)) };
    let manager_time = match &answer {
        Ok(answer) => answer.manager_time.parse::<Timestamp>().ok(),
        // Whole seconds: half of one is the middle of what it may mean.
        Err(_) => header.map(|zoned| zoned.timestamp()),
    };
    Ok(Answered { answer, clock_offset_ms: manager_time.map(|at| middle - at.as_millisecond()) })
}

/// What the Manager learns about this cluster.
pub fn request(
    token: &EnrollmentToken,
    keys: &Keys,
    kubernetes_version: &str,
) -> Result<EnrollmentRequest, super::identity::MakeError> {
    Ok(EnrollmentRequest {
        cluster_id: token.cluster_id.clone(),
        cluster_uid: keys.cluster_uid.clone(),
        csr_pem: keys.csr_pem()?,
        nkey_public: keys.nkey_public()?,
        operator_version: env!("CARGO_PKG_VERSION").to_owned(),
        kubernetes_version: kubernetes_version.to_owned(),
        at: clock::rfc3339_ms(clock::now()),
    })
}

fn client(verifier: &Arc<PinVerifier>) -> reqwest::Result<reqwest::Client> {
    let config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::<PinVerifier>::clone(verifier))
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .timeout(REQUEST_LIMIT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
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

fn connection_error(endpoint: &str, verifier: &PinVerifier, error: &reqwest::Error) -> JoinError {
    if let Some(refusal) = verifier.refusal() {
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

fn decode(body: &[u8]) -> Result<EnrollmentAnswer, JoinError> {
    serde_json::from_slice(body).map_err(|error| {
        let message =
            format!("could not read the Manager's answer: {error}; upgrade the older of Manager and Operator");
        JoinError::new(condition::IDENTITY_ISSUED, "AnswerUnreadable", message)
    })
}

fn refusal(status: u16, body: &[u8]) -> JoinError {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let detail = [problem.detail, problem.title]
        .into_iter()
        .find(|text| !text.is_empty())
        .unwrap_or_else(|| format!("HTTP {status}"));
    let reason = if problem.reason.is_empty() { format!("Http{status}") } else { camel_case(&problem.reason) };
    if status >= 500 || status == 429 {
        return JoinError::new(
            condition::IDENTITY_ISSUED,
            reason,
            format!("the Manager could not answer: {detail}; trying again"),
        );
    }
    let remedy = "create a new token (POST /api/v1/clusters/<cluster>/enrollments) and install with it";
    JoinError::new(condition::TOKEN_ACCEPTED, reason, format!("the Manager refused the token: {detail}; {remedy}"))
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
    fn a_refusal_keeps_the_manager_s_reason() {
        let error = refusal(403, br#"{"reason":"TOKEN_EXPIRED","detail":"token ended yesterday"}"#);
        assert_eq!((error.condition, error.reason.as_str()), (condition::TOKEN_ACCEPTED, "TokenExpired"));
        assert!(error.message.contains("token ended yesterday"));
        assert_eq!(refusal(503, b"").condition, condition::IDENTITY_ISSUED);
        assert_eq!(camel_case("clusterQuarantined"), "ClusterQuarantined");
    }
}
