//! `GET /enrollment/v1/nonce` and `POST /enrollment/v1/renew`: new credentials for who holds the enrolled nkey.
//!
//! `core/renewal.rs` decides; here the decision is carried out. The signature over the body is the credential; no client certificate is
//! asked for, since it may have expired. The answer is signed with the command key ([`kubenova_schema::renewal`]). A renewal that the
//! cluster's key has signed leaves an attempt which `GET /clusters/{id}` shows, accepted or refused. Enrollment itself: `enrollment.rs`.

use crate::{
    body,
    enrollment_limits::{EnrollmentLimits, PeerAddress},
    error::ApiError,
    identity_issuer::{ClusterIdentity, IdentityIssuer, check_signing_request},
    token,
};
use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use kubenova_core::{
    cluster::{ClusterId, StateNote},
    enrollment,
    refusal::{Reason, Refusal},
    renewal::{self, Decision, RenewalAttempt},
};
use kubenova_runtime::{clock, random};
use kubenova_schema::{
    enrollment::EnrollmentAnswer,
    message, mutant,
    renewal::{NONCE_PATH, NonceAnswer, PATH, RenewalAnswer, RenewalRequest},
    signature::{self, HEADER, PayloadType, SignatureError},
};
use kubenova_store::{
    cluster_trust,
    connection::Connection,
    enrollment_attempts::{self, AttemptKind, NewAttempt},
    identities,
    pool::Store,
};
use kubenova_trust::nonce;
use std::{net::IpAddr, sync::Arc};

/// Longest body: a signing request and a few ids.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// What the endpoints need.
#[derive(Debug, Clone)]
pub struct Renewal {
    /// Postgres.
    pub store: Store,
    /// Issues identities.
    pub issuer: IdentityIssuer,
    /// How often and how many at once, together with enrollments.
    pub limits: EnrollmentLimits,
}

/// The routes, to be merged with the others ([`crate::router::router_with`]).
pub fn router(renewal: Renewal) -> Router {
    Router::new().route(NONCE_PATH, get(give_nonce)).route(PATH, post(renew)).with_state(Arc::new(renewal))
}

async fn give_nonce(State(renewal): State<Arc<Renewal>>) -> Json<NonceAnswer> {
    let now = clock::now();
    let expires_at = now.checked_add(nonce::LIFETIME).unwrap_or(now);
    Json(NonceAnswer {
        nonce: renewal.issuer.keyring.get().nonces.issue(now),
        expires_at: clock::rfc3339_ms(expires_at),
    })
}

async fn renew(
    State(renewal): State<Arc<Renewal>>,
    PeerAddress(peer): PeerAddress,
    headers: HeaderMap,
    stream: Body,
) -> Response {
    let outcome = renewal.answer(&headers, stream, peer).await;
    renewal.limits.count(peer, &outcome);
    match outcome {
        Ok(answer) => renewal.signed(&answer),
        Err(error) => error.into_response(),
    }
}

/// A request whose signature fits its body. Whether its key is the cluster's is not known yet.
struct Claim {
    request: RenewalRequest,
    cluster: ClusterId,
    incarnation: i64,
    nkey: String,
}

impl Renewal {
    fn signed(&self, answer: &RenewalAnswer) -> Response {
        let body = serde_json::to_vec(answer).expect("an answer is plain strings");
        let signature = self.issuer.keyring.get().command.sign(PayloadType::RenewalAnswer, &body);
        let headers = [(header::CONTENT_TYPE.as_str(), "application/json".to_owned()), (HEADER, signature)];
        (headers, body).into_response()
    }

    async fn answer(&self, headers: &HeaderMap, stream: Body, peer: IpAddr) -> Result<RenewalAnswer, ApiError> {
        let bytes = body::read_at_most(BODY_BYTES_MAX, headers, stream, body::BODY_TIMEOUT).await?;
        let claim = claim(headers, &bytes)?;
        if !self.issuer.keyring.get().nonces.is_valid(&claim.request.nonce, clock::now()) {
            let detail = "the nonce is not one of this Manager, or was issued more than two minutes ago";
            return Err(Refusal::new(Reason::RenewalNonceInvalid, detail).into());
        }
        let passed = self.limits.pass(peer, async || self.is_known(&claim).await).await?;
        let _slot = self.limits.slots.take().await?;
        let key = token::sha256(&claim.nkey);
        self.limits.check_shown(&key)?;
        self.limits.pass_again(passed, peer, async || self.is_known(&claim).await).await?;
        let outcome = self
            .store
            .transaction("decide about a renewal", async |transaction| {
                let Some(outcome) = self.decide(transaction, &claim).await? else { return Ok(None) };
                let attempt = attempted(&claim, &outcome, peer);
                // How often one key renews is limited, so no flood of refusals keeps a renewal out of what is shown.
                enrollment_attempts::insert(transaction, &attempt, outcome.is_ok()).await?;
                Ok::<_, ApiError>(Some(outcome))
            })
            .await?;
        if outcome.is_some() {
            self.limits.shown(key);
        }
        let (cluster, incarnation) = (&claim.cluster, claim.incarnation);
        match outcome {
            // What anybody can send is no event of this cluster.
            None => {
                tracing::debug!(cluster.id = %cluster, incarnation, peer = %peer, "refused a renewal of an unknown key");
                Err(unverified("no incarnation of this cluster was enrolled with the key that signed the request")
                    .into())
            }
            Some(Ok(identity)) => {
                let expires = &identity.expires_at;
                tracing::info!(cluster.id = %cluster, incarnation, expires, peer = %peer, "renewed a cluster's credentials");
                Ok(RenewalAnswer { nonce: claim.request.nonce, identity })
            }
            Some(Err(refusal)) => {
                let reason = refusal.reason;
                tracing::warn!(
                    cluster.id = %cluster, incarnation, %reason, peer = %peer, "refused to renew a cluster's credentials"
                );
                Err(refusal.into())
            }
        }
    }

    /// Whether the key that signed the request is the enrolled one.
    async fn is_known(&self, claim: &Claim) -> Result<bool, ApiError> {
        let enrolled = identities::nkey(&mut *self.store.acquire().await?, &claim.cluster, claim.incarnation).await?;
        Ok(enrolled.as_ref() == Some(&claim.nkey))
    }

    /// None when the key that signed the request is not that of the incarnation.
    async fn decide(
        &self,
        transaction: &mut Connection,
        claim: &Claim,
    ) -> Result<Option<Result<EnrollmentAnswer, Refusal>>, ApiError> {
        let Claim { request, cluster, incarnation, nkey } = claim;
        // Looked up before anything is locked: anybody may send a request.
        let enrolled = identities::nkey(transaction, cluster, *incarnation).await?;
        if enrolled.as_ref() != Some(nkey) && !mutant::is_on("renewal.any-key") {
            return Ok(None);
        }
        let Some(renewable) = identities::lock(transaction, cluster, *incarnation).await? else { return Ok(None) };
        // After the lock: of two renewals the later one is issued later.
        let now = clock::now();
        let attempt = RenewalAttempt { cluster_uid: request.cluster_uid.clone(), incarnation: *incarnation };
        match renewal::decide(&renewable.record, &attempt, now) {
            Decision::Renew => {
                if let Err(refusal) = self.limits.renew(cluster, *incarnation) {
                    return Ok(Some(Err(refusal)));
                }
            }
            Decision::Refuse(refusal) => return Ok(Some(Err(refusal))),
            Decision::Quarantine(refusal) => {
                let note = StateNote::new("CredentialsCopied", &refusal.detail);
                cluster_trust::quarantine(transaction, cluster, &note, now).await?;
                tracing::error!(
                    cluster.id = %cluster, uid = request.cluster_uid,
                    "two Kubernetes clusters hold the keys of one cluster; it is quarantined"
                );
                return Ok(Some(Err(refusal)));
            }
        }
        let of = ClusterIdentity { cluster: cluster.as_str(), incarnation: *incarnation, epoch: renewable.epoch };
        let issued = self
            .issuer
            .user_jwt(cluster.as_str(), &renewable.nkey_public, now)
            .and_then(|jwt| self.issuer.answer(&of, &request.csr_pem, jwt, now));
        match issued {
            Ok((answer, life)) => {
                identities::renewed(transaction, cluster, *incarnation, life).await?;
                Ok(Some(Ok(answer)))
            }
            Err(refusal) => Ok(Some(Err(refusal))),
        }
    }
}

fn unverified(detail: &str) -> Refusal {
    Refusal::new(Reason::RenewalUnverified, detail)
}

/// The row that shows a renewal and its outcome. A successful one, too: whoever stole the keys renews like the cluster.
fn attempted(claim: &Claim, outcome: &Result<EnrollmentAnswer, Refusal>, peer: IpAddr) -> NewAttempt {
    let (outcome, message) = match outcome {
        Ok(_) => ("accepted".to_owned(), String::new()),
        Err(refusal) => (refusal.reason.to_string(), refusal.detail.clone()),
    };
    NewAttempt {
        id: random::uuid_v7(),
        kind: AttemptKind::Renewal,
        enrollment_id: None,
        cluster_id: claim.cluster.clone(),
        at: clock::now(),
        outcome,
        message,
        peer: peer.to_string(),
    }
}

fn claim(headers: &HeaderMap, bytes: &[u8]) -> Result<Claim, Refusal> {
    let signature = headers.get(HEADER).and_then(|value| value.to_str().ok());
    let signed = signature
        .ok_or(SignatureError::Missing)
        .and_then(|signature| signature::verify_nkey(PayloadType::Renewal, bytes, signature));
    let nkey = signed.map_err(|error| unverified(&error.to_string()))?.to_owned();
    let malformed = |error| Refusal::new(Reason::BodyMalformed, format!("the body is not a renewal: {error}"));
    message::refuse_duplicate_keys(bytes).map_err(malformed)?;
    let request: RenewalRequest = serde_json::from_slice(bytes).map_err(malformed)?;
    let invalid = |field: &str, detail: &str| Refusal::at(Reason::EnrollmentRequestInvalid, field, detail);
    let cluster = ClusterId::parse(&request.cluster_id)
        .ok_or_else(|| invalid("/clusterId", "clusterId is not the id of a cluster"))?;
    let incarnation =
        request.incarnation.parse().map_err(|_| invalid("/incarnation", "incarnation is not a number"))?;
    enrollment::check_cluster_uid(&request.cluster_uid)?;
    check_signing_request(&request.csr_pem)?;
    Ok(Claim { request, cluster, incarnation, nkey })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{
        TestApi, Token,
        enrollment::{Installation, UID},
    };
    use jiff::Timestamp;
    use serde_json::{Value, json};

    async fn enrolled(api: &TestApi, admin: &Token, name: &str) -> (Installation, String, Value) {
        let (cluster, token) = api.cluster_with_token(admin, name).await;
        let installation = Installation::new(UID);
        let answer = api.enroll(&token, &installation.enrollment(&cluster)).await.ok(200);
        (installation, cluster, answer)
    }

    fn signed(installation: &Installation, body: &Value) -> String {
        installation.sign(PayloadType::Renewal, &body.to_string())
    }

    #[tokio::test]
    async fn the_enrolled_key_gets_new_credentials_and_keeps_its_incarnation() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (installation, cluster, first) = enrolled(&api, &admin, "a").await;
        // Also long after the end of those before.
        api.database
            .execute("update identities set issued_at = 'epoch', expires_at = now() - interval '89 days'")
            .await;
        let body = installation.renewal(&cluster, "1", &api.nonce().await);
        let renewed = api.renew(&body, &signed(&installation, &body)).await.ok(200);
        assert_eq!(renewed["nonce"], body["nonce"]);
        let renewed = &renewed["identity"];
        for same in ["clusterId", "incarnation", "epoch", "commandKeys", "caBundlePem"] {
            assert_eq!(renewed[same], first[same], "{same}");
        }
        for new in ["certificateChainPem", "issuedAt"] {
            assert_ne!(renewed[new], first[new], "{new}");
        }
        let shown = api.get("/api/v1/clusters/a").send(&admin).await.ok(200);
        assert_eq!(shown["credentials"]["incarnation"], "1");
        let at = |value: &Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
        assert_eq!(at(&shown["credentials"]["expiresAt"]), at(&renewed["expiresAt"]));
    }

    #[tokio::test]
    async fn who_does_not_hold_the_key_gets_none_and_leaves_no_trace() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (installation, cluster, _) = enrolled(&api, &admin, "a").await;
        let (thief, nonce) = (Installation::new(UID), api.nonce().await);
        let body = installation.renewal(&cluster, "1", &nonce);
        let another = installation.renewal(&cluster, "1", &nonce);
        for signature in [
            String::new(),
            "x".to_owned(),
            signed(&thief, &body),
            installation.sign(PayloadType::Usage, &body.to_string()),
            signed(&installation, &another),
        ] {
            api.renew(&body, &signature).await.refused(Reason::RenewalUnverified);
        }
        for (cluster, incarnation) in
            [(cluster.as_str(), "2"), (cluster.as_str(), "0"), ("c01aaaaaaaaaaaaaaaaaaaaaaaa", "1")]
        {
            let body = installation.renewal(cluster, incarnation, &nonce);
            api.renew(&body, &signed(&installation, &body)).await.refused(Reason::RenewalUnverified);
        }
        let shown = api.get("/api/v1/clusters/a").send(&admin).await.ok(200);
        assert_eq!(shown["credentials"].get("renewals"), None);
    }

    #[tokio::test]
    async fn a_nonce_of_another_manager_and_a_damaged_request_are_refused() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (installation, cluster, _) = enrolled(&api, &admin, "a").await;
        let body = installation.renewal(&cluster, "1", "bm9uY2U");
        api.renew(&body, &signed(&installation, &body)).await.refused(Reason::RenewalNonceInvalid);
        let good = installation.renewal(&cluster, "1", &api.nonce().await);
        for (field, value, reason) in [
            ("clusterId", json!("a"), Reason::EnrollmentRequestInvalid),
            ("clusterUid", json!("not a uid"), Reason::EnrollmentRequestInvalid),
            ("incarnation", json!("one"), Reason::EnrollmentRequestInvalid),
            ("csrPem", json!("none"), Reason::EnrollmentRequestInvalid),
            ("nonce", json!(1), Reason::BodyMalformed),
            ("csrPem", json!("a".repeat(BODY_BYTES_MAX)), Reason::BodyTooLarge),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            api.renew(&bad, &signed(&installation, &bad)).await.refused(reason);
        }
        api.renew(&good, &signed(&installation, &good)).await.ok(200);
    }

    #[tokio::test]
    async fn what_was_decided_about_a_cluster_is_answered_and_shown() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (installation, cluster, _) = enrolled(&api, &admin, "a").await;
        let asks = async |installation: &Installation| {
            let body = installation.renewal(&cluster, "1", &api.nonce().await);
            api.renew(&body, &signed(installation, &body)).await
        };
        for (sql, reason) in [
            ("update clusters set state = 'revoked'", Reason::CredentialsRevoked),
            ("update clusters set state = 'detached'", Reason::ClusterNotUsable),
            ("update clusters set state = 'enrolled', incarnation = 2", Reason::IncarnationReplaced),
        ] {
            api.database.execute(sql).await;
            asks(&installation).await.refused(reason);
        }
        api.database.execute("update clusters set incarnation = 1").await;
        api.database.execute("update identities set expires_at = now() - interval '91 days'").await;
        asks(&installation).await.refused(Reason::CredentialsTooOld);
        api.database.execute("update identities set expires_at = now()").await;
        let copy = Installation { uid: "0198c1d2-0000-7000-8000-000000000001".to_owned(), ..installation };
        asks(&copy).await.refused(Reason::ClusterUidMismatch);
        let shown = api.get("/api/v1/clusters/a").send(&admin).await.ok(200);
        assert_eq!(shown["state"], "quarantined");
        let renewals = shown["credentials"]["renewals"].as_array().unwrap();
        let outcomes: Vec<&str> = renewals.iter().map(|attempt| attempt["outcome"].as_str().unwrap()).collect();
        assert_eq!(
            outcomes,
            [
                "CLUSTER_UID_MISMATCH",
                "CREDENTIALS_TOO_OLD",
                "INCARNATION_REPLACED",
                "CLUSTER_NOT_USABLE",
                "CREDENTIALS_REVOKED"
            ]
        );
        // Who holds the right cluster renews, quarantined or not.
        let right = Installation { uid: UID.to_owned(), ..copy };
        asks(&right).await.ok(200);
        let shown = api.get("/api/v1/clusters/a").send(&admin).await.ok(200);
        let last = &shown["credentials"]["renewals"][0];
        assert_eq!((&last["outcome"], &last["peer"]), (&json!("accepted"), &json!("127.0.0.1")));
    }

    #[tokio::test]
    async fn a_key_that_renews_again_and_again_is_limited_and_others_are_not() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (often, cluster, _) = enrolled(&api, &admin, "a").await;
        let renew = async |installation: &Installation, cluster: &str| {
            let body = installation.renewal(cluster, "1", &api.nonce().await);
            api.renew(&body, &signed(installation, &body)).await
        };
        let mut renewed = 0;
        let limited = loop {
            let answer = renew(&often, &cluster).await;
            if answer.status == axum::http::StatusCode::TOO_MANY_REQUESTS {
                break answer;
            }
            answer.ok(200);
            renewed += 1;
            assert!(renewed < 100, "a key may renew for ever");
        };
        let problem = limited.refused(Reason::TooManyRequests);
        assert!(problem["detail"].as_str().unwrap().contains("stay valid") && renewed >= 10, "{renewed}: {problem}");
        let (cluster, token) = api.cluster_with_token(&admin, "b").await;
        let other = Installation::new("0198c1d2-0000-7000-8000-000000000002");
        api.enroll(&token, &other.enrollment(&cluster)).await.ok(200);
        renew(&other, &cluster).await.ok(200);
    }

    #[tokio::test]
    async fn a_good_renewal_gets_through_a_flood_from_its_own_address() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (installation, cluster, _) = enrolled(&api, &admin, "a").await;
        let (thief, nonce) = (Installation::new(UID), api.nonce().await);
        let forged = thief.renewal(&cluster, "1", &nonce);
        let mut limited = false;
        for _ in 0..200 {
            let answer = api.renew(&forged, &signed(&thief, &forged)).await;
            limited = answer.status == axum::http::StatusCode::TOO_MANY_REQUESTS;
            if limited {
                break;
            }
            answer.refused(Reason::RenewalUnverified);
        }
        assert!(limited, "forged renewals are limited");
        let body = installation.renewal(&cluster, "1", &nonce);
        api.renew(&body, &signed(&installation, &body)).await.ok(200);
    }

    #[tokio::test]
    async fn forged_renewals_that_come_together_count_for_each_other() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (installation, cluster, _) = enrolled(&api, &admin, "a").await;
        let (thief, nonce) = (Installation::new(UID), api.nonce().await);
        let forged = thief.renewal(&cluster, "1", &nonce);
        let signature = signed(&thief, &forged);
        let answers = futures::future::join_all((0..200).map(|_| api.renew(&forged, &signature))).await;
        let refused_for = |reason: Reason| answers.iter().filter(|it| it.body["reason"] == reason.as_str()).count();
        let (decided, limited) = (refused_for(Reason::RenewalUnverified), refused_for(Reason::TooManyRequests));
        assert!(decided < 120 && limited > 0, "{decided} were decided, {limited} limited");
        let body = installation.renewal(&cluster, "1", &nonce);
        api.renew(&body, &signed(&installation, &body)).await.ok(200);
    }
}
