//! `POST /enrollment/v1`: the one request that carries the token's secret, sent only over a pinned connection.

use super::{
    ClusterFacts,
    conditions::JoinError,
    https::{Asked, ManagerClient, Reply},
    identity::{Identity, Keys, MakeError},
    pinned::Excluded,
};
use jiff::Timestamp;
use kubenova_bus::dial::Dialer;
use kubenova_crds::cluster_config::condition;
use kubenova_operator_core::conditions::ConditionSet;
use kubenova_runtime::clock;
use kubenova_schema::{
    enrollment::{EnrollmentAnswer, EnrollmentRequest, PATH, PendingApproval},
    renewal::NONCE_PATH,
    token::EnrollmentToken,
};

/// Status of an enrollment that waits for an administrator.
const ACCEPTED: u16 = 202;
/// Reason of the condition meanwhile. The token is good: it is shown again.
pub const APPROVAL_PENDING: &str = "ApprovalPending";

/// Message of `TLSVerified`.
pub const PINNED: &str = "the Manager's certificate verifies under the CA pinned by the token";

/// What the Manager answered, and how its clock differs.
#[derive(Debug)]
pub struct Answered {
    /// The answer, or why there is none.
    pub answer: Result<EnrollmentAnswer, JoinError>,
    /// This cluster's clock minus the Manager's, in milliseconds, when the answer carried a time.
    pub clock_offset_ms: Option<i64>,
}

/// What is sent, and how.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Names the Manager and the cluster.
    pub token: &'a EnrollmentToken,
    /// What the request asks for.
    pub keys: &'a Keys,
    /// What the Manager learns.
    pub facts: &'a ClusterFacts,
    /// How it is reached.
    pub dialer: &'a Dialer,
    /// The identity in use, where there is one.
    pub in_use: Option<&'a Identity>,
}

impl Attempt<'_> {
    /// The Manager that must not see the token: this cluster's own, of which the token names another cluster. It would quarantine that
    /// one, because two would claim one record.
    fn excluded(&self) -> Option<Excluded> {
        let identity = self.in_use.filter(|identity| identity.cluster_id() != self.token.cluster_id)?;
        let (own, other) = (identity.cluster_id(), &self.token.cluster_id);
        let message = format!(
            "the token is for cluster {other} of the same Manager and this is cluster {own}; create one with POST \
             /api/v1/clusters/{own}/enrollments"
        );
        let refusal = JoinError::new(condition::TOKEN_ACCEPTED, "OtherCluster", message);
        Some(Excluded { bundle_pem: identity.answer.ca_bundle_pem.clone(), refusal })
    }

    /// What the Manager learns about this cluster.
    ///
    /// # Errors
    /// When a key cannot be used.
    pub fn request(&self) -> Result<EnrollmentRequest, MakeError> {
        let Self { token, keys, facts, .. } = *self;
        Ok(EnrollmentRequest {
            cluster_id: token.cluster_id.clone(),
            cluster_uid: keys.cluster_uid.clone(),
            csr_pem: keys.csr_pem()?,
            nkey_public: keys.nkey_public()?,
            sealing_key: keys.sealing_public(&token.cluster_id)?,
            operator_version: env!("CARGO_PKG_VERSION").to_owned(),
            kubernetes_version: facts.kubernetes_version.clone(),
            nodes: facts.nodes,
            at: clock::rfc3339_ms(clock::now()),
        })
    }
}

/// Sends the request to one endpoint, by the proxy that the dialer knows for it.
///
/// # Errors
/// When the connection fails; the Manager's own refusal is in the answer.
pub async fn send(
    endpoint: &str,
    attempt: &Attempt<'_>,
    request: &EnrollmentRequest,
    conditions: &mut ConditionSet,
) -> Result<Answered, JoinError> {
    let Attempt { token, keys, dialer, .. } = *attempt;
    let manager = ManagerClient::pinned(endpoint, &token.ca_spki_sha256, attempt.excluded(), dialer);
    let manager = manager.ok_or_else(|| not_a_url(endpoint))?;
    let body = serde_json::to_vec(request).expect("strings are JSON");
    let asked = Asked::post(PATH, body).header("authorization", &format!("Bearer {}", token.secret));
    let reply = manager.send(asked, conditions).await?;
    let answer: Result<EnrollmentAnswer, JoinError> = match reply.status() {
        ACCEPTED => Err(match reply.decode::<PendingApproval>() {
            Ok(pending) => waits(&pending, &keys.fingerprint().unwrap_or_else(|| pending.fingerprint.clone())),
            Err(error) => error,
        }),
        _ if reply.is_success() => reply.decode(),
        _ => Err(refusal(&reply)),
    };
    let manager_time = match &answer {
        Ok(answer) => answer.manager_time.parse::<Timestamp>().ok(),
        // Whole seconds: half of one is the middle of what it may mean.
        Err(_) => reply.date,
    };
    Ok(Answered { answer, clock_offset_ms: manager_time.map(|at| reply.middle_ms - at.as_millisecond()) })
}

/// Whether the endpoint is the Manager that the token names, without showing the token; how much this clock is ahead of its own, in
/// milliseconds, when the answer carried a time.
///
/// # Errors
/// When it cannot be reached, or is another server.
pub async fn look(
    endpoint: &str,
    token: &EnrollmentToken,
    dialer: &Dialer,
    conditions: &mut ConditionSet,
) -> Result<Option<i64>, JoinError> {
    let manager =
        ManagerClient::pinned(endpoint, &token.ca_spki_sha256, None, dialer).ok_or_else(|| not_a_url(endpoint))?;
    let reply = manager.send(Asked::get(NONCE_PATH), conditions).await?;
    conditions.set_true(condition::TLS_VERIFIED, "Pinned", PINNED);
    Ok(reply.date.map(|at| reply.middle_ms - at.as_millisecond()))
}

fn not_a_url(endpoint: &str) -> JoinError {
    let message = format!("\"{endpoint}\" in the token is not an https:// URL; create a new token");
    JoinError::new(condition::TOKEN_ACCEPTED, "TokenUnreadable", message)
}

/// An administrator has to approve first. The fingerprint is made of the keys themselves, not of what the Manager says: whoever compares
/// it compares these keys.
fn waits(pending: &PendingApproval, own: &str) -> JoinError {
    let message = format!(
        "an administrator has to approve this enrollment: compare fingerprint {own} with the one that the Manager shows, and approve it \
         with POST {} and body {{\"fingerprint\":\"{own}\"}} until {}; asking again",
        pending.approve_path, pending.expires_at
    );
    JoinError::new(condition::TOKEN_ACCEPTED, APPROVAL_PENDING, message)
}

fn refusal(reply: &Reply) -> JoinError {
    let refusal = reply.refusal();
    let (reason, detail) = (refusal.reason, refusal.detail);
    if !refusal.is_decided {
        let message = format!("the Manager could not answer: {detail}; trying again");
        return JoinError::new(condition::IDENTITY_ISSUED, reason, message);
    }
    let remedy = match reason.as_str() {
        // Another token of the same cluster would have the Manager quarantine it again.
        "ClusterUidMismatch" => {
            "install with a token of the cluster that this Kubernetes cluster is enrolled as, or of a new one (POST /api/v1/clusters)"
        }
        "EnrollmentRejected" => {
            "ask the administrator who rejected it, then create a new token (POST /api/v1/clusters/<cluster>/enrollments)"
        }
        "ClusterNotUsable" => "see the cluster's state at GET /api/v1/clusters/<cluster>, then create a new token",
        _ => "create a new token (POST /api/v1/clusters/<cluster>/enrollments) and install with it",
    };
    JoinError::new(condition::TOKEN_ACCEPTED, reason, format!("the Manager refused the token: {detail}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_shows_its_own_fingerprint_and_how_to_approve_it() {
        let keys = Keys::make("kn1.x", "uid").unwrap();
        let (own, pending) = (
            keys.fingerprint().unwrap(),
            PendingApproval {
                enrollment_id: "e".into(),
                fingerprint: "sha256:of-others".into(),
                approve_path: "/api/v1/clusters/c/enrollments/e/approve".into(),
                expires_at: "2030-01-01T00:00:00.000Z".into(),
                manager_time: String::new(),
            },
        );
        let error = waits(&pending, &own);
        assert_eq!((error.condition, error.reason.as_str()), (condition::TOKEN_ACCEPTED, APPROVAL_PENDING));
        for part in [own.as_str(), pending.approve_path.as_str(), "2030-01-01"] {
            assert!(error.message.contains(part), "{part}: {}", error.message);
        }
        assert!(!error.message.contains("of-others"));
        assert_eq!(keys.fingerprint(), Some(own), "the same keys, the same fingerprint");
    }

    #[test]
    fn a_token_is_refused_by_a_decision_and_not_by_a_fault() {
        let error = refusal(&Reply::of(403, r#"{"reason":"TOKEN_EXPIRED","detail":"token ended yesterday"}"#));
        assert_eq!((error.condition, error.reason.as_str()), (condition::TOKEN_ACCEPTED, "TokenExpired"));
        assert!(error.message.contains("token ended yesterday") && error.message.contains("/enrollments"));
        let of_another = refusal(&Reply::of(409, r#"{"reason":"CLUSTER_UID_MISMATCH","detail":"of alpha"}"#));
        assert!(!of_another.message.contains("/enrollments"), "{}", of_another.message);
        assert_eq!(refusal(&Reply::of(503, "")).condition, condition::IDENTITY_ISSUED);
    }
}
