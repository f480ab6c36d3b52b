//! `POST /enrollment/v1`: the one request that carries the token's secret, sent only over a pinned connection.

use super::{
    conditions::JoinError,
    https::{Asked, ManagerClient, Reply},
    identity::{Keys, MakeError},
};
use jiff::Timestamp;
use kubenova_bus::dial::Dialer;
use kubenova_crds::cluster_config::condition;
use kubenova_operator_core::conditions::ConditionSet;
use kubenova_runtime::clock;
use kubenova_schema::{
    enrollment::{EnrollmentAnswer, EnrollmentRequest, PATH},
    token::EnrollmentToken,
};

/// What the Manager answered, and how its clock differs.
#[derive(Debug)]
pub struct Answered {
    /// The answer, or why there is none.
    pub answer: Result<EnrollmentAnswer, JoinError>,
    /// This cluster's clock minus the Manager's, in milliseconds, when the answer carried a time.
    pub clock_offset_ms: Option<i64>,
}

/// Sends the request to one endpoint, by the proxy that the dialer knows for it.
///
/// # Errors
/// When the connection fails; the Manager's own refusal is in the answer.
pub async fn send(
    endpoint: &str,
    token: &EnrollmentToken,
    request: &EnrollmentRequest,
    dialer: &Dialer,
    conditions: &mut ConditionSet,
) -> Result<Answered, JoinError> {
    let manager = ManagerClient::pinned(endpoint, &token.ca_spki_sha256, dialer).ok_or_else(|| {
        let message = format!("\"{endpoint}\" in the token is not an https:// URL; create a new token");
        JoinError::new(condition::TOKEN_ACCEPTED, "TokenUnreadable", message)
    })?;
    let body = serde_json::to_vec(request).expect("strings are JSON");
    let asked = Asked::post(PATH, body).header("authorization", &format!("Bearer {}", token.secret));
    let reply = manager.send(asked, conditions).await?;
    let answer: Result<EnrollmentAnswer, JoinError> =
        if reply.is_success() { reply.decode() } else { Err(refusal(&reply)) };
    let manager_time = match &answer {
        Ok(answer) => answer.manager_time.parse::<Timestamp>().ok(),
        // Whole seconds: half of one is the middle of what it may mean.
        Err(_) => reply.date,
    };
    Ok(Answered { answer, clock_offset_ms: manager_time.map(|at| reply.middle_ms - at.as_millisecond()) })
}

/// What the Manager learns about this cluster.
pub fn request(token: &EnrollmentToken, keys: &Keys, kubernetes_version: &str) -> Result<EnrollmentRequest, MakeError> {
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

fn refusal(reply: &Reply) -> JoinError {
    let refusal = reply.refusal();
    let (reason, detail) = (refusal.reason, refusal.detail);
    if !refusal.is_decided {
        let message = format!("the Manager could not answer: {detail}; trying again");
        return JoinError::new(condition::IDENTITY_ISSUED, reason, message);
    }
    let remedy = "create a new token (POST /api/v1/clusters/<cluster>/enrollments) and install with it";
    JoinError::new(condition::TOKEN_ACCEPTED, reason, format!("the Manager refused the token: {detail}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_refused_by_a_decision_and_not_by_a_fault() {
        let error = refusal(&Reply::of(403, r#"{"reason":"TOKEN_EXPIRED","detail":"token ended yesterday"}"#));
        assert_eq!((error.condition, error.reason.as_str()), (condition::TOKEN_ACCEPTED, "TokenExpired"));
        assert!(error.message.contains("token ended yesterday"));
        assert_eq!(refusal(&Reply::of(503, "")).condition, condition::IDENTITY_ISSUED);
    }
}
