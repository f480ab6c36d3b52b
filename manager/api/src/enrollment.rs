//! `POST /enrollment/v1`: exchanges a token's secret for an identity.
//!
//! `core/enrollment.rs` decides; here the decision is carried out. What a request asks to be does not matter: certificate
//! and JWT contain what the cluster's record says. Every attempt leaves a row that `GET /clusters/{id}` shows, also a
//! refused one; a second use of a token is raised there, in the audit log and in a metric. Where approval is manual an
//! installation waits (202) until `routes/enrollments/approve.rs` has decided.
//!
//! Before it: `routes/clusters/enroll.rs` created the token. After it: the Operator connects to the broker and says hello
//! (`manager/src/session`). The token is the credential; no client certificate is requested here.

use crate::{
    authenticate::bearer,
    body,
    enrollment_limits::{EnrollmentLimits, PeerAddress},
    error::ApiError,
    identity_issuer::{ClusterIdentity, IdentityIssuer, UserJwt, check_signing_request},
    token,
};
use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use jiff::Timestamp;
use kubenova_core::{
    cluster::{Approval, ClusterId, StateNote},
    enrollment::{self, Admission, CandidateRecord, EnrollmentAttempt, TokenDecision, TokenRecord},
    enrollment_approval,
    enrollment_request::{ApprovalRequest, Installation},
    refusal::{Reason, Refusal},
};
use kubenova_runtime::{clock, random};
use kubenova_schema::{
    enrollment::{EnrollmentAnswer, EnrollmentRequest, PATH, PendingApproval},
    fingerprint::fingerprint,
};
use kubenova_store::{
    audit::{self, ClusterEntry},
    cluster_trust,
    connection::Connection,
    enrollment_approvals,
    enrollment_attempts::{self, AttemptKind, NewAttempt},
    enrollments::{self, EnrollmentToken, TokenUse},
    identities,
    pool::Store,
    revocations::{self, RevocationReason},
};
use kubenova_trust::authority::requested_key_sha256;
use std::{net::IpAddr, sync::Arc};

/// Longest body: a signing request and a few ids.
const BODY_BYTES_MAX: usize = 32 * 1024;

/// What the endpoint needs.
#[derive(Debug, Clone)]
pub struct Enrollment {
    /// Postgres.
    pub store: Store,
    /// Issues identities.
    pub issuer: IdentityIssuer,
    /// How often and how many at once, together with renewals.
    pub limits: EnrollmentLimits,
}

/// The route, to be merged with the others ([`crate::router::router_with`]).
pub fn router(enrollment: Enrollment) -> Router {
    Router::new().route(PATH, post(enroll)).with_state(Arc::new(enrollment))
}

async fn enroll(
    State(enrollment): State<Arc<Enrollment>>,
    PeerAddress(peer): PeerAddress,
    headers: HeaderMap,
    stream: Body,
) -> Response {
    let outcome = enrollment.answer(&headers, stream, peer).await;
    enrollment.limits.count(peer, &outcome);
    match outcome {
        Ok(Answer::Issued(answer)) => Json(answer).into_response(),
        Ok(Answer::Waits { pending, .. }) => (StatusCode::ACCEPTED, Json(pending)).into_response(),
        Err(error) => error.into_response(),
    }
}

/// What an installation is answered that is not refused.
#[derive(Debug)]
enum Answer {
    /// Its identity.
    Issued(Box<EnrollmentAnswer>),
    /// An administrator has to approve it.
    Waits {
        pending: PendingApproval,
        /// It had not asked before.
        first: bool,
    },
}

/// A request whose fields were checked.
struct Checked<'a> {
    request: &'a EnrollmentRequest,
    secret_sha256: [u8; 32],
    attempt: EnrollmentAttempt,
    fingerprint: String,
    peer: IpAddr,
}

impl Checked<'_> {
    fn peer(&self) -> String {
        self.peer.to_string()
    }
}

/// The outcome of an attempt, with the token that it was about.
struct Decided {
    token: Option<uuid::Uuid>,
    outcome: Result<Answer, Refusal>,
    /// What the audit log says about it.
    action: Option<&'static str>,
}

/// A token with the installation that asked for approval with it, both as they are until the transaction ends.
struct Locked {
    token: EnrollmentToken,
    request: Option<ApprovalRequest>,
}

impl Enrollment {
    async fn answer(&self, headers: &HeaderMap, stream: Body, peer: IpAddr) -> Result<Answer, ApiError> {
        // Before the body is read: whoever floods the endpoint costs a look at a header.
        let secret = secret(headers)?;
        let is_known = async || self.is_known(&token::sha256(&secret)).await;
        let passed = self.limits.pass(peer, is_known).await?;
        let request: EnrollmentRequest = body::read_json(BODY_BYTES_MAX, headers, stream).await?;
        let checked = check(&secret, &request, peer)?;
        let _slot = self.limits.slots.take().await?;
        self.limits.check_shown(&checked.secret_sha256)?;
        self.limits.pass_again(passed, peer, async || self.is_known(&checked.secret_sha256).await).await?;
        let now = clock::now();
        let carried_out = self.store.transaction("decide about an enrollment", async |transaction| {
            let decided = self.decide(transaction, &checked, now).await?;
            record_attempt(transaction, &checked, &decided, now).await?;
            Ok::<_, ApiError>(decided)
        });
        let Decided { outcome, token, .. } = carried_out.await?;
        if token.is_some() {
            self.limits.shown(checked.secret_sha256);
        }
        match &outcome {
            Ok(Answer::Issued(answer)) => tracing::info!(
                cluster.id = %checked.attempt.cluster, incarnation = answer.incarnation, epoch = answer.epoch, peer = %peer,
                "a cluster was enrolled"
            ),
            Ok(Answer::Waits { pending, first: true }) => tracing::info!(
                cluster.id = %checked.attempt.cluster, enrollment.id = pending.enrollment_id, fingerprint = pending.fingerprint,
                peer = %peer, "an installation waits for the approval of an administrator"
            ),
            Ok(Answer::Waits { first: false, .. }) => {}
            Err(refusal) => tracing::warn!(
                cluster.id = %checked.attempt.cluster, reason = %refusal.reason, peer = %peer, "an enrollment was refused"
            ),
        }
        Ok(outcome?)
    }

    /// Whether there is a token with this secret.
    async fn is_known(&self, secret_sha256: &[u8; 32]) -> Result<bool, ApiError> {
        Ok(enrollments::exists(&mut *self.store.acquire().await?, secret_sha256).await?)
    }

    async fn decide(
        &self,
        transaction: &mut Connection,
        checked: &Checked<'_>,
        now: Timestamp,
    ) -> Result<Decided, ApiError> {
        let Some(token) = enrollments::lock_token(transaction, &checked.secret_sha256).await? else {
            let TokenDecision::Refuse(refusal) = enrollment::check_token(None, &checked.attempt, now) else {
                unreachable!("a secret of no token is refused")
            };
            return Ok(Decided { token: None, outcome: Err(refusal), action: None });
        };
        let id = token.id;
        let request = enrollment_approvals::of_tokens(transaction, &[id]).await?.remove(&id);
        let locked = Locked { token, request };
        let decided = |outcome, action| Decided { token: Some(id), outcome, action };
        Ok(match enrollment::check_token(Some(&locked.record()), &checked.attempt, now) {
            TokenDecision::Use => {
                let outcome = self.admit(transaction, &locked, checked, now).await?;
                let action = match &outcome {
                    Ok(Answer::Issued(_)) => Some("enrollment/accepted"),
                    Ok(Answer::Waits { first: true, .. }) => Some("enrollment/approvalRequested"),
                    Ok(Answer::Waits { first: false, .. }) | Err(_) => None,
                };
                decided(outcome, action)
            }
            TokenDecision::Repeat => {
                let answer = repeated_answer(&locked.token, now);
                decided(answer.map(|answer| Answer::Issued(Box::new(answer))), None)
            }
            TokenDecision::Refuse(refusal) => decided(Err(refusal), None),
            TokenDecision::SecondUse(refusal) => {
                enrollments::raise_second_use(transaction, id, &checked.peer(), now).await?;
                tracing::error!(
                    cluster.id = %checked.attempt.cluster, enrollment.id = %id, peer = checked.peer(),
                    fingerprint = checked.fingerprint,
                    "another installation used an enrollment token that was used before: it may have been stolen"
                );
                decided(Err(refusal), Some("enrollment/secondUse"))
            }
        })
    }

    /// Issues an identity if this Kubernetes cluster may enroll under the record.
    async fn admit(
        &self,
        transaction: &mut Connection,
        locked: &Locked,
        checked: &Checked<'_>,
        now: Timestamp,
    ) -> Result<Result<Answer, Refusal>, ApiError> {
        let EnrollmentAttempt { cluster, installation } = &checked.attempt;
        let candidate = enrollments::lock_candidate(transaction, cluster, &installation.cluster_uid).await?;
        let record = CandidateRecord {
            name: candidate.name,
            state: candidate.state,
            kubernetes_uid: candidate.kubernetes_uid,
            enrolled_as: candidate.uid_of,
            quarantined_at: candidate.quarantined_at,
            token_created_at: locked.token.created_at,
        };
        match enrollment::admit(&record, &checked.attempt) {
            Admission::Admit => self.issue_approved(transaction, locked, candidate.approval, checked, now).await,
            Admission::Refuse(refusal) => Ok(Err(refusal)),
            Admission::Quarantine { refusal, message } => {
                let note = StateNote::new("ClusterUidMismatch", &message);
                cluster_trust::quarantine(transaction, cluster, &note, now).await?;
                let uid = &installation.cluster_uid;
                tracing::error!(cluster.id = %cluster, uid, "two Kubernetes clusters claim one record; it is quarantined");
                Ok(Err(refusal))
            }
        }
    }

    /// Issues an identity, unless the installation has to wait for an administrator.
    async fn issue_approved(
        &self,
        transaction: &mut Connection,
        locked: &Locked,
        approval: Approval,
        checked: &Checked<'_>,
        now: Timestamp,
    ) -> Result<Result<Answer, Refusal>, ApiError> {
        let (request, cluster) = (checked.request, &checked.attempt.cluster);
        if identities::is_taken(transaction, &request.nkey_public).await? {
            let detail = "this nkey was enrolled before; an enrollment makes new keys";
            return Ok(Err(Refusal::at(Reason::EnrollmentRequestInvalid, "/nkeyPublic", detail)));
        }
        // Before anything is written: a key that is not a user's must not use up an incarnation, nor an administrator's time.
        let user_jwt = match self.issuer.user_jwt(cluster.as_str(), &request.nkey_public, now) {
            Ok(jwt) => jwt,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if enrollment_approval::waits(approval, locked.request.as_ref()) {
            return Ok(Ok(wait(transaction, locked, checked, now).await?));
        }
        let answer = self.issue(transaction, &locked.token, checked, user_jwt, now).await?;
        Ok(answer.map(|answer| Answer::Issued(Box::new(answer))))
    }

    /// Issues an identity and marks the token as used.
    async fn issue(
        &self,
        transaction: &mut Connection,
        shown: &EnrollmentToken,
        checked: &Checked<'_>,
        user_jwt: UserJwt,
        now: Timestamp,
    ) -> Result<Result<EnrollmentAnswer, Refusal>, ApiError> {
        let (request, cluster) = (checked.request, &checked.attempt.cluster);
        let enrolled = enrollments::enroll(transaction, cluster, &request.cluster_uid, now).await?;
        let of =
            ClusterIdentity { cluster: cluster.as_str(), incarnation: enrolled.incarnation, epoch: enrolled.epoch };
        let (answer, life) = self.issuer.answer(&of, &request.csr_pem, user_jwt, now)?;
        let (nkey, sealing_key) = (&request.nkey_public, Some(&request.sealing_key));
        identities::insert(transaction, cluster, enrolled.incarnation, nkey, sealing_key, life).await?;
        // Whoever holds the keys of an earlier incarnation is refused by the broker, too.
        let (spared, reason) = (Some(enrolled.incarnation), RevocationReason::Replaced);
        revocations::insert_of_cluster(transaction, cluster, spared, reason, now).await?;
        let used = TokenUse {
            cluster_uid: request.cluster_uid.clone(),
            keys: checked.attempt.installation.keys.clone(),
            answer: serde_json::to_string(&answer).expect("an answer is plain strings"),
        };
        enrollments::mark_used(transaction, shown.id, &used, now).await?;
        Ok(Ok(answer))
    }
}

/// Records that the installation asks for approval, and what it is answered meanwhile.
async fn wait(
    transaction: &mut Connection,
    locked: &Locked,
    checked: &Checked<'_>,
    now: Timestamp,
) -> Result<Answer, ApiError> {
    let request = ApprovalRequest {
        installation: checked.attempt.installation.clone(),
        fingerprint: checked.fingerprint.clone(),
        operator_version: shown(&checked.request.operator_version),
        kubernetes_version: shown(&checked.request.kubernetes_version),
        nodes: checked.request.nodes.and_then(|nodes| i32::try_from(nodes).ok()),
        peer: checked.peer(),
        requested_at: now,
        last_requested_at: now,
        decision: None,
    };
    let EnrollmentToken { id, expires_at, .. } = &locked.token;
    enrollment_approvals::ask(transaction, *id, &request).await?;
    let pending = PendingApproval {
        enrollment_id: id.to_string(),
        fingerprint: request.fingerprint,
        approve_path: format!("/api/v1/clusters/{}/enrollments/{id}/approve", checked.attempt.cluster),
        expires_at: clock::rfc3339_ms(*expires_at),
        manager_time: clock::rfc3339_ms(now),
    };
    Ok(Answer::Waits { pending, first: locked.request.is_none() })
}

/// A text that an installation says of itself, as administrators may see it.
fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}

/// Leaves the row that shows an attempt and its outcome, and its audit record; a refusal is committed with them. Asking again for approval
/// is the same attempt. The audit record is written with the row, which is bounded: a flood of second uses must fill no disk.
async fn record_attempt(
    transaction: &mut Connection,
    checked: &Checked<'_>,
    decided: &Decided,
    now: Timestamp,
) -> Result<(), ApiError> {
    if matches!(decided.outcome, Ok(Answer::Waits { first: false, .. })) {
        return Ok(());
    }
    let attempt = attempted(checked, decided, now);
    // What is granted, or waits for approval, happens once a token: no flood of refusals keeps it out of the records.
    let always = decided.outcome.is_ok() && decided.action.is_some();
    let is_new = enrollment_attempts::insert(transaction, &attempt, always).await?;
    if let (true, Some(action), Some(token)) = (is_new, decided.action, decided.token) {
        let entry = ClusterEntry {
            at: now,
            cluster: &checked.attempt.cluster,
            action,
            target: format!("enrollment/{token}"),
            detail: format!(
                "keys {}, Kubernetes cluster {}, from {}",
                checked.fingerprint,
                checked.attempt.installation.cluster_uid,
                checked.peer()
            ),
        };
        audit::insert_of_cluster(transaction, &entry).await?;
    }
    Ok(())
}

/// The row that shows an attempt and its outcome.
fn attempted(checked: &Checked<'_>, decided: &Decided, now: Timestamp) -> NewAttempt {
    let (outcome, message) = match &decided.outcome {
        Ok(Answer::Issued(_)) => ("accepted".to_owned(), String::new()),
        Ok(Answer::Waits { pending, .. }) => {
            ("pendingApproval".to_owned(), format!("keys {} wait for an administrator", pending.fingerprint))
        }
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
        peer: checked.peer(),
    }
}

impl Locked {
    /// The token as the rules see it.
    fn record(&self) -> TokenRecord {
        let Self { token, request } = self;
        let installation =
            |used: &TokenUse| Installation { cluster_uid: used.cluster_uid.clone(), keys: used.keys.clone() };
        TokenRecord {
            cluster: token.cluster_id.clone(),
            expires_at: token.expires_at,
            revoked: token.revoked_at.is_some(),
            used_by: token.used.as_ref().map(installation),
            connected: token.connected,
            request: request.clone(),
        }
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

fn secret(headers: &HeaderMap) -> Result<String, Refusal> {
    bearer(headers).ok().filter(|secret| !secret.is_empty()).ok_or_else(|| {
        let detail = "the request has no Authorization: Bearer header with the secret of the enrollment token";
        Refusal::new(Reason::EnrollmentTokenUnknown, detail)
    })
}

fn check<'a>(secret: &str, request: &'a EnrollmentRequest, peer: IpAddr) -> Result<Checked<'a>, Refusal> {
    let invalid = |field: &str, detail: &str| Refusal::at(Reason::EnrollmentRequestInvalid, field, detail);
    let cluster = ClusterId::parse(&request.cluster_id)
        .ok_or_else(|| invalid("/clusterId", "clusterId is not the id of a cluster"))?;
    enrollment::check_cluster_uid(&request.cluster_uid)?;
    check_signing_request(&request.csr_pem)?;
    let (sealing_key, nkey) = (&request.sealing_key, &request.nkey_public);
    sealing_key
        .verify(&request.cluster_id, &request.cluster_uid, nkey)
        .map_err(|error| invalid("/sealingKey", &error.to_string()))?;
    let certificate_key =
        requested_key_sha256(&request.csr_pem).map_err(|error| invalid("/csrPem", &error.to_string()))?;
    let keys = format!("{certificate_key}:{}", request.nkey_public);
    let fingerprint = fingerprint(&certificate_key, &request.nkey_public);
    let installation = Installation { cluster_uid: request.cluster_uid.clone(), keys };
    let attempt = EnrollmentAttempt { cluster, installation };
    Ok(Checked { request, secret_sha256: token::sha256(secret), attempt, fingerprint, peer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity_issuer::SIGNING_REQUEST_LENGTH_MAX;
    use crate::testing::{
        TestApi,
        enrollment::{Installation, UID},
    };
    use kubenova_store::audit_chain;
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
    async fn a_second_use_is_raised_until_the_cluster_enrolled_with_another_token() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "dc1-a").await;
        let cluster_path = format!("/api/v1/clusters/{cluster}");
        api.enroll(&token, &request(&cluster, UID)).await.ok(200);
        let raised = async |path: &str| api.get(path).send(&admin).await.ok(200)["secondUses"].clone();
        assert_eq!(raised(&cluster_path).await, Value::Null);
        for _ in 0..2 {
            api.enroll(&token, &request(&cluster, UID)).await.refused(Reason::EnrollmentTokenUsed);
        }
        let shown = raised(&cluster_path).await;
        assert_eq!((&shown["count"], &shown["lastPeer"]), (&json!("2"), &json!("127.0.0.1")));
        let list = api.get("/api/v1/clusters").send(&admin).await.ok(200);
        assert_eq!(list["items"][0]["secondUses"], shown);
        let of_token = format!("{cluster_path}/enrollments/{}", shown["enrollmentId"].as_str().unwrap());
        assert_eq!(raised(&of_token).await, shown);
        let next = api.further_token(&admin, &cluster).await;
        api.enroll(&next, &request(&cluster, UID)).await.ok(200);
        assert_eq!(
            raised(&cluster_path).await,
            Value::Null,
            "the right installation is enrolled with a token of its own"
        );
        assert_eq!(raised(&of_token).await, shown);
    }

    #[tokio::test]
    async fn enrollments_and_second_uses_are_records_of_the_audit_log() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "dc1-a").await;
        let records = async || audit_chain::pending(&mut api.state.store.acquire().await.unwrap()).await.unwrap();
        let before = records().await;
        let first = request(&cluster, UID);
        for (body, written) in [(&first, 1), (&first, 1), (&request(&cluster, UID), 2)] {
            api.enroll(&token, body).await;
            assert_eq!(records().await, before + written, "the same installation again is the same use");
        }
    }

    #[tokio::test]
    async fn of_uses_at_once_with_different_keys_exactly_one_wins() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "dc1-a").await;
        let bodies: Vec<Value> = (0..20).map(|_| request(&cluster, UID)).collect();
        let answers = futures::future::join_all(bodies.iter().map(|body| api.enroll(&token, body))).await;
        let won = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
        assert_eq!(won, 1, "{answers:?}");
        for answer in answers.iter().filter(|answer| answer.status != StatusCode::OK) {
            answer.refused(Reason::EnrollmentTokenUsed);
        }
        let shown = api.get("/api/v1/clusters/dc1-a").send(&admin).await.ok(200);
        assert_eq!((&shown["credentials"]["incarnation"], &shown["secondUses"]["count"]), (&json!("1"), &json!("19")));
    }

    #[tokio::test]
    async fn the_same_kubernetes_cluster_reattaches_and_ends_a_quarantine() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "dc1-a").await;
        api.enroll(&token, &request(&cluster, UID)).await.ok(200);
        let path = format!("/api/v1/clusters/{cluster}");
        let next = async || api.further_token(&admin, &cluster).await;
        let again = api.enroll(&next().await, &request(&cluster, UID)).await.ok(200);
        assert_eq!((&again["incarnation"], &again["epoch"]), (&json!("2"), &json!(2)));

        let other = "0198c1d2-0000-7000-8000-000000000001";
        let right = next().await;
        let refused = api.enroll(&right, &request(&cluster, other)).await.refused(Reason::ClusterUidMismatch);
        assert!(refused["detail"].as_str().unwrap().contains("quarantined"), "{refused}");
        let shown = api.get(&path).send(&admin).await.ok(200);
        assert_eq!((&shown["state"], &shown["kubernetesUid"]), (&json!("quarantined"), &json!(UID)));
        assert_eq!(shown["enrollments"][0]["attempts"][0]["outcome"], "CLUSTER_UID_MISMATCH");
        api.enroll(&right, &request(&cluster, other)).await.refused(Reason::ClusterUidMismatch);
        // It may lie about anywhere: an administrator ends the quarantine, with a token that is created after it began.
        api.enroll(&right, &request(&cluster, UID)).await.refused(Reason::EnrollmentTokenRevoked);
        let right = api.enroll(&next().await, &request(&cluster, UID)).await.ok(200);
        assert_eq!((&right["incarnation"], &right["epoch"]), (&json!("3"), &json!(3)));
        assert_eq!(api.get(&path).send(&admin).await.ok(200)["state"], "enrolled");
    }

    #[tokio::test]
    async fn a_flood_is_answered_429_and_a_good_token_gets_through_from_the_same_address() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "dc1-a").await;
        let guess = TestApi::token("unknown");
        let body = request(&cluster, UID);
        let mut limited = None;
        for _ in 0..200 {
            let answer = api.enroll(&guess, &body).await;
            if answer.status == StatusCode::TOO_MANY_REQUESTS {
                limited = Some(answer);
                break;
            }
            answer.refused(Reason::EnrollmentTokenUnknown);
        }
        let limited = limited.expect("guesses are limited");
        limited.refused(Reason::TooManyRequests);
        let seconds: u64 = limited.header(axum::http::header::RETRY_AFTER).parse().unwrap();
        assert!((1..=60).contains(&seconds), "{limited:?}");
        api.enroll(&token, &body).await.ok(200);
        api.enroll(&guess, &body).await.refused(Reason::TooManyRequests);
        api.enroll(&TestApi::anonymous(), &body).await.refused(Reason::EnrollmentTokenUnknown);
    }

    #[tokio::test]
    async fn guesses_that_come_together_count_for_each_other() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "dc1-a").await;
        let (guess, body) = (TestApi::token("unknown"), request(&cluster, UID));
        // All of them come while the address has its whole budget, and then wait for a slot.
        let answers = futures::future::join_all((0..200).map(|_| api.enroll(&guess, &body))).await;
        let refused_for = |reason: Reason| answers.iter().filter(|it| it.body["reason"] == reason.as_str()).count();
        let (decided, limited) = (refused_for(Reason::EnrollmentTokenUnknown), refused_for(Reason::TooManyRequests));
        // The budget of 60, those that had a slot when it was used up, and what came back of it meanwhile.
        assert!(decided < 120 && limited > 0, "{decided} were decided, {limited} limited");
        api.enroll(&token, &body).await.ok(200);
    }

    #[tokio::test]
    async fn a_body_that_announces_itself_as_too_long_is_not_read() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (_, token) = api.cluster_with_token(&admin, "dc1-a").await;
        // Its body never arrives: reading it would end with 408.
        let post = api.post(PATH).header("content-length", BODY_BYTES_MAX + 1).endless_body();
        post.send(&token).await.refused(Reason::BodyTooLarge);
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
