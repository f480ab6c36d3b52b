//! `POST /clusters/{cluster}/enrollments/{enrollment}/approve`.

use super::{Named, decide};
use crate::{
    body::JsonBody,
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::enrollments::{EnrollmentApprove, EnrollmentState};
use kubenova_core::enrollment_request::Verdict;

/// Approve the installation that waits with this token.
///
/// The body names the fingerprint that the cluster itself shows: in condition `TokenAccepted` of its NovaClusterConfig, and in the log of
/// its Operator. When it is not that of the installation that waits, nothing is approved. The Operator gets its credentials when it asks
/// again, within a minute. Approving it again changes nothing.
#[utoipa::path(post, path = "/api/v1/clusters/{cluster}/enrollments/{enrollment}/approve", tag = "clusters",
    operation_id = "approveEnrollment",
    params(("cluster" = String, Path, description = "Id or name"), ("enrollment" = String, Path, description = "Id"), ChangeParams),
    request_body = EnrollmentApprove,
    responses((status = 200, description = "The token; or a dry run", body = EnrollmentState)))]
pub async fn approve(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<(String, String)>,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<EnrollmentApprove>,
) -> Result<Response, ApiError> {
    let named = Named::parse(named);
    let fingerprint = Some(body.fingerprint.as_str());
    ctx.write(&state, params.dry_run, async |tx| decide(tx, &ctx, &named, Verdict::Approved, fingerprint, "").await)
        .await
}

#[cfg(test)]
mod tests {
    use crate::testing::{
        TestApi, Token,
        enrollment::{Installation, UID, waiting},
    };
    use kubenova_core::{access::Role, refusal::Reason};
    use serde_json::{Value, json};

    async fn approve(api: &TestApi, admin: &Token, path: &str, fingerprint: &Value) -> crate::testing::TestAnswer {
        api.post(&format!("{path}/approve")).json(&json!({ "fingerprint": fingerprint })).send(admin).await
    }

    #[tokio::test]
    async fn an_installation_waits_is_shown_and_enrolls_once_it_is_approved() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (path, token, body) = waiting(&api, &admin, "dc1-a").await;
        let answer = api.enroll(&token, &body).await.ok(202);
        let shown = api.get(&path).send(&admin).await.ok(200);
        assert_eq!(shown["state"], "pendingApproval");
        let request = &shown["request"];
        assert_eq!(request["fingerprint"], answer["fingerprint"]);
        assert_eq!(answer["approvePath"], format!("{path}/approve"));
        assert_eq!((&request["kubernetesUid"], &request["nodes"]), (&body["clusterUid"], &json!(3)));
        assert_eq!((&request["kubernetesVersion"], &request["peer"]), (&json!("1.34.0"), &json!("127.0.0.1")));
        assert_eq!(shown["attempts"].as_array().unwrap().len(), 1, "asking again is the same attempt: {shown}");
        let cluster = api.get("/api/v1/clusters/dc1-a").send(&admin).await.ok(200);
        assert_eq!((&cluster["state"], &cluster["approval"]), (&json!("pendingBootstrap"), &json!("manual")));
        assert_eq!(cluster.get("credentials"), None);

        let other = json!(format!("sha256:{}", "0".repeat(64)));
        let refused = approve(&api, &admin, &path, &other).await.refused(Reason::EnrollmentFingerprintMismatch);
        assert!(refused["detail"].as_str().unwrap().contains(answer["fingerprint"].as_str().unwrap()), "{refused}");
        api.enroll(&token, &body).await.is(202);
        let reader = api.caller(Role::ReadOnly, None).await;
        approve(&api, &reader, &path, &request["fingerprint"]).await.refused(Reason::Forbidden);
        let approved = approve(&api, &admin, &path, &request["fingerprint"]).await.ok(200);
        assert_eq!(approved["state"], "approved");
        assert_eq!(approved["request"]["decision"]["decidedBy"], TestApi::subject(Role::Admin));
        assert_eq!(approve(&api, &admin, &path, &request["fingerprint"]).await.ok(200), approved, "the same again");
        let enrolled = api.enroll(&token, &body).await.ok(200);
        assert_eq!(enrolled["incarnation"], "1");
        assert_eq!(api.get(&path).send(&admin).await.ok(200)["state"], "used");
    }

    #[tokio::test]
    async fn other_keys_with_the_token_of_one_that_waits_are_a_second_use() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (path, token, body) = waiting(&api, &admin, "dc1-a").await;
        let cluster = body["clusterId"].as_str().unwrap();
        let thief = Installation::new(UID).enrollment(cluster);
        api.enroll(&token, &thief).await.refused(Reason::EnrollmentTokenUsed);
        let shown = api.get(&path).send(&admin).await.ok(200);
        assert_eq!((&shown["state"], &shown["secondUses"]["count"]), (&json!("pendingApproval"), &json!("1")));
        approve(&api, &admin, &path, &shown["request"]["fingerprint"]).await.is(200);
        api.enroll(&token, &thief).await.refused(Reason::EnrollmentTokenUsed);
        api.enroll(&token, &body).await.ok(200);
    }

    #[tokio::test]
    async fn an_approval_counts_within_the_life_of_the_token() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (path, token, body) = waiting(&api, &admin, "dc1-a").await;
        let fingerprint = api.get(&path).send(&admin).await.ok(200)["request"]["fingerprint"].clone();
        approve(&api, &admin, &path, &fingerprint).await.is(200);
        api.database.execute("update enrollments set expires_at = 'epoch'").await;
        api.enroll(&token, &body).await.ok(200);

        let (late, token, body) = waiting(&api, &admin, "dc1-b").await;
        let fingerprint = api.get(&late).send(&admin).await.ok(200)["request"]["fingerprint"].clone();
        api.database.execute("update enrollments set expires_at = 'epoch'").await;
        approve(&api, &admin, &late, &fingerprint).await.refused(Reason::EnrollmentTokenExpired);
        let refused = api.enroll(&token, &body).await.refused(Reason::EnrollmentTokenExpired);
        assert!(refused["detail"].as_str().unwrap().contains("while its enrollment waited"), "{refused}");
    }

    #[tokio::test]
    async fn who_waits_for_nothing_is_not_approved() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "dc1-a").await;
        let id = api.get("/api/v1/clusters/dc1-a/enrollments").send(&admin).await.ok(200)["items"][0]["id"].clone();
        let path = format!("/api/v1/clusters/dc1-a/enrollments/{}", id.as_str().unwrap());
        approve(&api, &admin, &path, &json!("sha256:ab")).await.refused(Reason::EnrollmentNotPending);
        api.enroll(&token, &Installation::new(UID).enrollment(&cluster)).await.ok(200);
        approve(&api, &admin, &path, &json!("sha256:ab")).await.refused(Reason::EnrollmentNotPending);
        let none = "/api/v1/clusters/dc1-a/enrollments/0198c1d2-0000-7000-8000-000000000000";
        approve(&api, &admin, none, &json!("sha256:ab")).await.refused(Reason::EnrollmentNotFound);
    }

    #[tokio::test]
    async fn made_automatic_the_installation_that_waits_is_answered() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (_, token, body) = waiting(&api, &admin, "dc1-a").await;
        let patch = api.request(axum::http::Method::PATCH, "/api/v1/clusters/dc1-a");
        patch.json(&json!({ "approval": "automatic" })).send(&admin).await.is(200);
        api.enroll(&token, &body).await.ok(200);
    }
}
