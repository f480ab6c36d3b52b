//! `POST /enrollment/v1`: a token's secret for an identity.
//!
//! Guarantees: a token works once. The same token with the same kube-system UID and public keys has its answer again
//! until that installation said hello (an answer may be lost); everything else is a second use, refused and raised. What
//! the request asks to be does not matter: certificate and JWT say what the cluster's record says. Every attempt leaves
//! a row that `GET /clusters/{id}` shows, also a refused one.
//!
//! Before it: `routes/clusters/enroll.rs` made the token. After it: the Operator connects to the broker and says hello
//! (`manager/src/session`). No client certificate is asked for here, the token is the credential.

use crate::{body::JsonBody, error::ApiError, token};
use axum::{
    Json, Router,
    extract::{ConnectInfo, State},
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response},
    routing::post,
};
use jiff::{SignedDuration, Timestamp};
use kubenova_core::{
    cluster::{ClusterId, ClusterState},
    refusal::{Reason, Refusal},
};
use kubenova_runtime::{clock, random};
use kubenova_schema::enrollment::{EnrollmentAnswer, EnrollmentRequest, PATH};
use kubenova_store::{
    enrollments::{self, Judgement, NewAttempt, Shown, Use},
    error::failed,
    pool::Store,
    windows,
};
use kubenova_trust::{
    TrustError,
    authority::{Validity, requested_key_sha256},
    keyring::Keyring,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// Longest text of a field; a signing request is about 500 characters, a UID 36.
const FIELD_LENGTH_MAX: usize = 8 * 1024;

/// What the endpoint needs.
#[derive(Debug, Clone)]
pub struct Enrollment {
    /// Postgres.
    pub store: Store,
    /// Certificate authority and broker identities.
    pub keyring: Arc<Keyring>,
    /// `tls://` URLs of the broker, as clusters scope it.
    pub broker_urls: Vec<String>,
    /// Life of a cluster's certificate.
    pub certificate_lifetime: Duration,
    /// Life of a cluster's user JWT.
    pub user_jwt_lifetime: Duration,
}

/// The route, to be merged with the others ([`crate::router::router_with`]).
pub fn router(enrollment: Enrollment) -> Router {
    Router::new().route(PATH, post(enroll)).with_state(Arc::new(enrollment))
}

async fn enroll(
    State(enrollment): State<Arc<Enrollment>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<EnrollmentRequest>,
) -> Response {
    match enrollment.answer(&headers, &request, peer).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => error.into_response(),
    }
}

/// A request whose fields were looked at.
struct Checked<'a> {
    request: &'a EnrollmentRequest,
    cluster: ClusterId,
    secret_sha256: [u8; 32],
    /// Fingerprint of both public keys.
    keys: String,
}

/// What became of an attempt: an answer or a refusal, each with the token it was about.
struct Judged {
    token: Option<uuid::Uuid>,
    outcome: Result<EnrollmentAnswer, Refusal>,
}

impl Enrollment {
    async fn answer(
        &self,
        headers: &HeaderMap,
        request: &EnrollmentRequest,
        peer: SocketAddr,
    ) -> Result<EnrollmentAnswer, ApiError> {
        let checked = check(headers, request)?;
        let now = clock::now();
        let mut transaction = self.store.transaction().await?;
        let Judged { token, outcome } = self.judge(&mut transaction, &checked, now).await?;
        let (word, message) = match &outcome {
            Ok(_) => ("accepted".to_owned(), String::new()),
            Err(refusal) => (refusal.reason.to_string(), refusal.detail.clone()),
        };
        let attempt = NewAttempt {
            id: random::uuid_v7(),
            enrollment_id: token,
            cluster_id: checked.cluster.clone(),
            at: now,
            outcome: word,
            message,
            peer: peer.ip().to_string(),
        };
        enrollments::keep_attempt(&mut transaction, &attempt).await?;
        transaction.commit().await.map_err(failed("commit an enrollment"))?;
        match &outcome {
            Ok(answer) => tracing::info!(
                cluster.id = %checked.cluster, incarnation = answer.incarnation, epoch = answer.epoch, peer = %peer.ip(),
                "a cluster was enrolled"
            ),
            Err(refusal) => tracing::warn!(
                cluster.id = %checked.cluster, reason = %refusal.reason, peer = %peer.ip(), "an enrollment was refused"
            ),
        }
        Ok(outcome?)
    }

    /// Decides, in the order a person would: is it our token, is it fresh, is it this cluster.
    async fn judge(
        &self,
        transaction: &mut Judgement,
        checked: &Checked<'_>,
        now: Timestamp,
    ) -> Result<Judged, ApiError> {
        let Some(shown) = enrollments::shown(transaction, &checked.secret_sha256).await? else {
            let refusal = Refusal::new(Reason::EnrollmentTokenUnknown, "nobody made this enrollment token here");
            return Ok(Judged { token: None, outcome: Err(refusal) });
        };
        let token = Some(shown.id);
        if shown.cluster_id != checked.cluster {
            let refusal =
                Refusal::new(Reason::EnrollmentTokenUnknown, "the token is for another cluster than the request");
            return Ok(Judged { token, outcome: Err(refusal) });
        }
        if let Some(used) = &shown.used {
            return Ok(Judged { token, outcome: again(&shown, used, checked, now) });
        }
        if shown.revoked_at.is_some() {
            return Ok(Judged {
                token,
                outcome: Err(Refusal::new(Reason::EnrollmentTokenRevoked, "the token was taken back")),
            });
        }
        if shown.expires_at <= now {
            let detail = format!("the token expired at {}", shown.expires_at);
            return Ok(Judged { token, outcome: Err(Refusal::new(Reason::EnrollmentTokenExpired, detail)) });
        }
        let outcome = match admissible(transaction, checked, now).await? {
            Ok(()) => self.issue(transaction, &shown, checked, now).await?,
            Err(refusal) => Err(refusal),
        };
        Ok(Judged { token, outcome })
    }

    /// The identity, and the one use of the token.
    async fn issue(
        &self,
        transaction: &mut Judgement,
        shown: &Shown,
        checked: &Checked<'_>,
        now: Timestamp,
    ) -> Result<Result<EnrollmentAnswer, Refusal>, ApiError> {
        let request = checked.request;
        let cluster = checked.cluster.as_str();
        let valid_for = |lifetime| Validity { now, lifetime };
        // Before anything is written: a key that is no user's must not use up an incarnation.
        let minted = self.keyring.nkeys.cluster_user(cluster, &request.nkey_public, valid_for(self.user_jwt_lifetime));
        let user_jwt = match minted {
            Ok(jwt) => jwt,
            Err(error) => return Ok(Err(not_certifiable(&error))),
        };
        let enrolled = enrollments::enroll(transaction, &checked.cluster, &request.cluster_uid, now).await?;
        let incarnation = enrolled.incarnation.to_string();
        let authority = &self.keyring.authority;
        let certificate_chain_pem = authority
            .cluster(&request.csr_pem, cluster, &incarnation, valid_for(self.certificate_lifetime))
            .map_err(|error| not_certifiable(&error))?;
        windows::remember_key(transaction, &checked.cluster, &request.nkey_public, now).await?;
        let shorter = self.certificate_lifetime.min(self.user_jwt_lifetime);
        let ends = SignedDuration::try_from(shorter).ok().and_then(|life| now.checked_add(life).ok()).unwrap_or(now);
        let answer = EnrollmentAnswer {
            cluster_id: cluster.to_owned(),
            incarnation,
            epoch: u64::try_from(enrolled.epoch).unwrap_or_default(),
            certificate_chain_pem,
            user_jwt,
            broker_urls: self.broker_urls.clone(),
            ca_bundle_pem: authority.bundle_pem().to_owned(),
            command_keys: self.keyring.command_public.clone(),
            expires_at: clock::rfc3339_ms(ends),
            manager_time: clock::rfc3339_ms(now),
        };
        let used = Use {
            cluster_uid: request.cluster_uid.clone(),
            keys: checked.keys.clone(),
            answer: serde_json::to_string(&answer).unwrap_or_default(),
        };
        enrollments::mark_used(transaction, shown.id, &used, now).await?;
        Ok(Ok(answer))
    }
}

/// The answer to a token that was used: the same again for the same installation until it connected.
fn again(shown: &Shown, used: &Use, checked: &Checked<'_>, now: Timestamp) -> Result<EnrollmentAnswer, Refusal> {
    let same = used.cluster_uid == checked.request.cluster_uid && used.keys == checked.keys;
    if !same {
        tracing::error!(
            cluster.id = %checked.cluster, token.id = %shown.id,
            "an enrollment token was shown a second time with other keys or by another cluster: it may have been stolen"
        );
        return Err(Refusal::new(Reason::EnrollmentTokenUsed, "the token was used by another installation already"));
    }
    if shown.connected {
        let detail = "the token was used by this installation, and it has connected since";
        return Err(Refusal::new(Reason::EnrollmentTokenUsed, detail));
    }
    let mut answer: EnrollmentAnswer = serde_json::from_str(&used.answer).map_err(|_| {
        Refusal::new(Reason::EnrollmentTokenUsed, "the token was used, and its answer is not kept any more")
    })?;
    answer.manager_time = clock::rfc3339_ms(now);
    Ok(answer)
}

/// May this Kubernetes cluster be this record? The second `Result` is the refusal; a clone quarantines the record.
async fn admissible(
    transaction: &mut Judgement,
    checked: &Checked<'_>,
    now: Timestamp,
) -> Result<Result<(), Refusal>, ApiError> {
    let uid = &checked.request.cluster_uid;
    let candidate = enrollments::candidate(transaction, &checked.cluster, uid).await?;
    if matches!(candidate.state, ClusterState::Revoking | ClusterState::Revoked | ClusterState::Detached) {
        let detail = format!("cluster {} is {}", checked.cluster, candidate.state.as_str());
        return Ok(Err(Refusal::new(Reason::ClusterNotUsable, detail)));
    }
    let detail = if let Some(other) = &candidate.uid_of {
        format!("this Kubernetes cluster is enrolled as {other}; {} is quarantined", checked.cluster)
    } else if candidate.kubernetes_uid.as_ref().is_some_and(|known| known != uid) {
        format!("another Kubernetes cluster is enrolled as {}; the record is quarantined", checked.cluster)
    } else {
        return Ok(Ok(()));
    };
    enrollments::quarantine(transaction, &checked.cluster, now).await?;
    tracing::error!(cluster.id = %checked.cluster, uid, "two Kubernetes clusters claim one record; it is quarantined");
    Ok(Err(Refusal::new(Reason::ClusterUidMismatch, detail)))
}

fn not_certifiable(error: &TrustError) -> Refusal {
    match error {
        TrustError::SigningRequest(_) | TrustError::NotAUserKey | TrustError::UserName(_) => {
            Refusal::new(Reason::EnrollmentRequestInvalid, error.to_string())
        }
        other => {
            tracing::error!(error = %kubenova_runtime::telemetry::chain(other), "could not issue an identity");
            Refusal::new(Reason::Internal, "the identity could not be issued; the token was not used up")
        }
    }
}

fn check<'a>(headers: &HeaderMap, request: &'a EnrollmentRequest) -> Result<Checked<'a>, Refusal> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let secret = bearer.and_then(|text| text.strip_prefix("Bearer ")).map(str::trim).filter(|text| !text.is_empty());
    let secret = secret.ok_or_else(|| {
        Refusal::new(
            Reason::EnrollmentTokenUnknown,
            "the request carries no Authorization: Bearer with the token's secret",
        )
    })?;
    let invalid = |field: &str, detail: &str| Refusal::at(Reason::EnrollmentRequestInvalid, field, detail);
    let cluster = ClusterId::parse(&request.cluster_id)
        .ok_or_else(|| invalid("/clusterId", "clusterId is not a cluster's id"))?;
    let uid = &request.cluster_uid;
    if uid.is_empty() || uid.len() > 64 || !uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(invalid("/clusterUid", "clusterUid is not the UID of a namespace"));
    }
    if request.csr_pem.len() > FIELD_LENGTH_MAX {
        return Err(invalid("/csrPem", "csrPem is too long"));
    }
    let certificate_key =
        requested_key_sha256(&request.csr_pem).map_err(|error| invalid("/csrPem", &error.to_string()))?;
    Ok(Checked {
        cluster,
        secret_sha256: token::sha256(secret),
        keys: format!("{certificate_key}:{}", request.nkey_public),
        request,
    })
}
