//! `POST /enrollment/v1`: exchanges a token's secret for an identity.
//!
//! `core/enrollment.rs` decides; here the decision is carried out. What a request asks to be does not matter: certificate
//! and JWT contain what the cluster's record says. Every attempt leaves a row that `GET /clusters/{id}` shows, also a
//! refused one.
//!
//! Before it: `routes/clusters/enroll.rs` created the token. After it: the Operator connects to the broker and says hello
//! (`manager/src/session`). The token is the credential; no client certificate is requested here.

use crate::{
    authenticate::bearer,
    body::JsonBody,
    enrollment_slots::EnrollmentSlots,
    error::ApiError,
    identity_issuer::{ClusterIdentity, IdentityIssuer, check_signing_request},
    token,
};
use axum::{
    Json, Router,
    extract::{ConnectInfo, State},
    http::HeaderMap,
    response::{IntoResponse as _, Response},
    routing::post,
};
use jiff::Timestamp;
use kubenova_core::{
    cluster::ClusterId,
    enrollment::{self, Admission, CandidateRecord, EnrollmentAttempt, Installation, TokenDecision, TokenRecord},
    refusal::{Reason, Refusal},
};
use kubenova_runtime::{clock, random};
use kubenova_schema::enrollment::{EnrollmentAnswer, EnrollmentRequest, PATH};
use kubenova_store::{
    connection::Connection,
    enrollment_attempts::{self, AttemptKind, NewAttempt},
    enrollments::{self, EnrollmentToken, TokenUse},
    identities,
    pool::Store,
};
use kubenova_trust::authority::requested_key_sha256;
use std::{net::SocketAddr, sync::Arc};

/// What the endpoint needs.
#[derive(Debug, Clone)]
pub struct Enrollment {
    /// Postgres.
    pub store: Store,
    /// Issues identities.
    pub issuer: IdentityIssuer,
    /// Places for enrollments and renewals.
    pub slots: EnrollmentSlots,
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

/// A request whose fields were checked.
struct Checked<'a> {
    request: &'a EnrollmentRequest,
    secret_sha256: [u8; 32],
    attempt: EnrollmentAttempt,
}

/// The outcome of an attempt, with the token that it was about.
struct Decided {
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
        let _slot = self.slots.take().await?;
        let now = clock::now();
        let carried_out = self.store.transaction("decide about an enrollment", async |transaction| {
            let decided = self.decide(transaction, &checked, now).await?;
            enrollment_attempts::insert(transaction, &attempted(&checked, &decided, peer, now)).await?;
            Ok::<_, ApiError>(decided)
        });
        let Decided { outcome, .. } = carried_out.await?;
        match &outcome {
            Ok(answer) => tracing::info!(
                cluster.id = %checked.attempt.cluster, incarnation = answer.incarnation, epoch = answer.epoch, peer = %peer.ip(),
                "a cluster was enrolled"
            ),
            Err(refusal) => tracing::warn!(
                cluster.id = %checked.attempt.cluster, reason = %refusal.reason, peer = %peer.ip(), "an enrollment was refused"
            ),
        }
        Ok(outcome?)
    }

    async fn decide(
        &self,
        transaction: &mut Connection,
        checked: &Checked<'_>,
        now: Timestamp,
    ) -> Result<Decided, ApiError> {
        let stored = enrollments::lock_token(transaction, &checked.secret_sha256).await?;
        let token = stored.as_ref().map(|stored| stored.id);
        let decision = enrollment::check_token(stored.as_ref().map(record).as_ref(), &checked.attempt, now);
        let outcome = match (decision, stored) {
            (TokenDecision::Use, Some(stored)) => self.admit(transaction, &stored, checked, now).await?,
            (TokenDecision::Repeat, Some(stored)) => repeated_answer(&stored, now),
            (TokenDecision::Refuse(refusal), _) => Err(refusal),
            (TokenDecision::RefuseStolen(refusal), _) => {
                tracing::error!(
                    cluster.id = %checked.attempt.cluster, token.id = token.map(tracing::field::display),
                    "another installation used an enrollment token that was used before: it may have been stolen"
                );
                Err(refusal)
            }
            (TokenDecision::Use | TokenDecision::Repeat, None) => {
                Err(Refusal::new(Reason::EnrollmentTokenUnknown, "this Manager has no such enrollment token"))
            }
        };
        Ok(Decided { token, outcome })
    }

    /// Issues an identity if this Kubernetes cluster may enroll under the record.
    async fn admit(
        &self,
        transaction: &mut Connection,
        stored: &EnrollmentToken,
        checked: &Checked<'_>,
        now: Timestamp,
    ) -> Result<Result<EnrollmentAnswer, Refusal>, ApiError> {
        let EnrollmentAttempt { cluster, installation } = &checked.attempt;
        let candidate = enrollments::lock_candidate(transaction, cluster, &installation.cluster_uid).await?;
        let record = CandidateRecord {
            state: candidate.state,
            kubernetes_uid: candidate.kubernetes_uid,
            enrolled_as: candidate.uid_of,
        };
        match enrollment::admit(&record, &checked.attempt) {
            Admission::Admit => self.issue(transaction, stored, checked, now).await,
            Admission::Refuse(refusal) => Ok(Err(refusal)),
            Admission::Quarantine(refusal) => {
                enrollments::quarantine(transaction, cluster, now).await?;
                let uid = &installation.cluster_uid;
                tracing::error!(cluster.id = %cluster, uid, "two Kubernetes clusters claim one record; it is quarantined");
                Ok(Err(refusal))
            }
        }
    }

    /// Issues an identity and marks the token as used.
    async fn issue(
        &self,
        transaction: &mut Connection,
        shown: &EnrollmentToken,
        checked: &Checked<'_>,
        now: Timestamp,
    ) -> Result<Result<EnrollmentAnswer, Refusal>, ApiError> {
        let request = checked.request;
        let cluster = &checked.attempt.cluster;
        if identities::contains(transaction, cluster, &request.nkey_public).await? {
            let detail = "this nkey was enrolled before; an enrollment makes new keys";
            return Ok(Err(Refusal::at(Reason::EnrollmentRequestInvalid, "/nkeyPublic", detail)));
        }
        // Before anything is written: a key that is not a user's must not use up an incarnation.
        let user_jwt = match self.issuer.user_jwt(cluster.as_str(), &request.nkey_public, now) {
            Ok(jwt) => jwt,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let enrolled = enrollments::enroll(transaction, cluster, &request.cluster_uid, now).await?;
        let of =
            ClusterIdentity { cluster: cluster.as_str(), incarnation: enrolled.incarnation, epoch: enrolled.epoch };
        let (answer, life) = self.issuer.answer(&of, &request.csr_pem, user_jwt, now)?;
        identities::insert(transaction, cluster, enrolled.incarnation, &request.nkey_public, life).await?;
        let used = TokenUse {
            cluster_uid: request.cluster_uid.clone(),
            keys: checked.attempt.installation.keys.clone(),
            answer: serde_json::to_string(&answer).expect("an answer is plain strings"),
        };
        enrollments::mark_used(transaction, shown.id, &used, now).await?;
        Ok(Ok(answer))
    }
}

/// The row that shows an attempt and its outcome; a refusal is committed with it.
fn attempted(checked: &Checked<'_>, decided: &Decided, peer: SocketAddr, now: Timestamp) -> NewAttempt {
    let (outcome, message) = match &decided.outcome {
        Ok(_) => ("accepted".to_owned(), String::new()),
        Err(refusal) => (refusal.reason.to_string(), refusal.detail.clone()),
    };
    NewAttempt {
        id: random::uuid_v7(),
        kind: AttemptKind::Enrollment,
        enrollment_id: decided.token,
        cluster_id: checked.attempt.cluster.clone(),
        at: now,
        outcome,
        message,
        peer: peer.ip().to_string(),
    }
}

/// A stored token as the rules see it.
fn record(stored: &EnrollmentToken) -> TokenRecord {
    let installation =
        |used: &TokenUse| Installation { cluster_uid: used.cluster_uid.clone(), keys: used.keys.clone() };
    TokenRecord {
        cluster: stored.cluster_id.clone(),
        expires_at: stored.expires_at,
        revoked: stored.revoked_at.is_some(),
        used_by: stored.used.as_ref().map(installation),
        connected: stored.connected,
    }
}

/// The answer that was given when the token was used, with the current time.
fn repeated_answer(stored: &EnrollmentToken, now: Timestamp) -> Result<EnrollmentAnswer, Refusal> {
    let answer = stored.used.as_ref().and_then(|used| serde_json::from_str(&used.answer).ok());
    let mut answer: EnrollmentAnswer = answer.ok_or_else(|| {
        Refusal::new(Reason::EnrollmentTokenUsed, "the token was already used, and its answer is no longer stored")
    })?;
    answer.manager_time = clock::rfc3339_ms(now);
    Ok(answer)
}

fn check<'a>(headers: &HeaderMap, request: &'a EnrollmentRequest) -> Result<Checked<'a>, Refusal> {
    let secret = bearer(headers).ok().filter(|secret| !secret.is_empty()).ok_or_else(|| {
        let detail = "the request has no Authorization: Bearer header with the secret of the enrollment token";
        Refusal::new(Reason::EnrollmentTokenUnknown, detail)
    })?;
    let invalid = |field: &str, detail: &str| Refusal::at(Reason::EnrollmentRequestInvalid, field, detail);
    let cluster = ClusterId::parse(&request.cluster_id)
        .ok_or_else(|| invalid("/clusterId", "clusterId is not the id of a cluster"))?;
    enrollment::check_cluster_uid(&request.cluster_uid)?;
    check_signing_request(&request.csr_pem)?;
    let certificate_key =
        requested_key_sha256(&request.csr_pem).map_err(|error| invalid("/csrPem", &error.to_string()))?;
    let keys = format!("{certificate_key}:{}", request.nkey_public);
    let installation = Installation { cluster_uid: request.cluster_uid.clone(), keys };
    Ok(Checked { request, secret_sha256: token::sha256(secret), attempt: EnrollmentAttempt { cluster, installation } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity_issuer::SIGNING_REQUEST_LENGTH_MAX;
    use crate::testing::{
        TestApi,
        enrollment::{Installation, UID},
    };
    use serde_json::{Value, json};

    /// A request of one installation; each call makes new keys.
    fn request(cluster: &str, uid: &str) -> Value {
        Installation::new(uid).enrollment(cluster)
    }

    #[tokio::test]
    async fn a_token_works_once_and_repeats_its_answer_to_the_same_installation() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "dc1-a").await;
        let body = request(&cluster, UID);
        let first = api.enroll(&token, &body).await.ok(200);
        assert_eq!(
            (&first["clusterId"], &first["incarnation"], &first["epoch"]),
            (&json!(cluster), &json!("1"), &json!(1))
        );
        let again = api.enroll(&token, &body).await.ok(200);
        assert_eq!(again["certificateChainPem"], first["certificateChainPem"]);
        api.enroll(&token, &request(&cluster, UID)).await.refused(Reason::EnrollmentTokenUsed);

        let shown = api.get("/api/v1/clusters/dc1-a").send(&admin).await.ok(200);
        assert_eq!((&shown["state"], &shown["kubernetesUid"]), (&json!("enrolled"), &json!(UID)));
        let outcomes = shown["enrollments"][0]["attempts"].as_array().unwrap().iter().map(|it| &it["outcome"]);
        assert_eq!(outcomes.collect::<Vec<_>>(), ["ENROLLMENT_TOKEN_USED", "accepted", "accepted"]);
    }

    #[tokio::test]
    async fn requests_without_a_valid_token_are_refused() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "dc1-a").await;
        let (other, _) = api.cluster_with_token(&admin, "dc1-b").await;
        let body = request(&cluster, UID);
        for token in [TestApi::anonymous(), TestApi::token("unknown")] {
            api.enroll(&token, &body).await.refused(Reason::EnrollmentTokenUnknown);
        }
        api.enroll(&token, &request(&other, UID)).await.refused(Reason::EnrollmentTokenUnknown);
        api.enroll(&token, &body).await.ok(200);
    }

    #[tokio::test]
    async fn what_cannot_be_certified_does_not_use_up_the_token() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "dc1-a").await;
        let good = request(&cluster, UID);
        let server_key = nkeys::KeyPair::new_server().public_key();
        for (field, value) in [
            ("clusterId", json!("dc1-a")),
            ("clusterUid", json!("not a uid")),
            ("csrPem", json!("not a request")),
            ("csrPem", json!("a".repeat(SIGNING_REQUEST_LENGTH_MAX + 1))),
            ("nkeyPublic", json!(server_key)),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            api.enroll(&token, &bad).await.refused(Reason::EnrollmentRequestInvalid);
        }
        api.enroll(&token, &good).await.ok(200);
    }

    #[tokio::test]
    async fn two_kubernetes_clusters_never_share_a_record() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "dc1-a").await;
        api.enroll(&token, &request(&cluster, UID)).await.ok(200);
        let (other, other_token) = api.cluster_with_token(&admin, "dc1-b").await;
        api.enroll(&other_token, &request(&other, UID)).await.refused(Reason::ClusterUidMismatch);
        let shown = api.get("/api/v1/clusters/dc1-b").send(&admin).await.ok(200);
        assert_eq!(shown["state"], "quarantined");
    }

    #[tokio::test]
    async fn tokens_that_are_expired_or_revoked_are_refused_and_shown_as_such() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        for (name, sql, reason, state) in [
            ("a", "update enrollments set expires_at = 'epoch'", Reason::EnrollmentTokenExpired, "expired"),
            ("b", "update enrollments set revoked_at = now()", Reason::EnrollmentTokenRevoked, "revoked"),
        ] {
            let (cluster, token) = api.cluster_with_token(&admin, name).await;
            api.database.execute(sql).await;
            api.enroll(&token, &request(&cluster, UID)).await.refused(reason);
            let shown = api.get(&format!("/api/v1/clusters/{name}")).send(&admin).await.ok(200);
            assert_eq!(
                (&shown["state"], &shown["enrollments"][0]["state"]),
                (&json!("pendingBootstrap"), &json!(state))
            );
            assert_eq!(shown["enrollments"][0]["attempts"][0]["outcome"], reason.as_str());
        }
    }

    #[tokio::test]
    async fn a_cluster_that_accepts_no_changes_is_not_enrolled() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "dc1-a").await;
        api.database.execute("update clusters set state = 'detached'").await;
        api.enroll(&token, &request(&cluster, UID)).await.refused(Reason::ClusterNotUsable);
    }
}
