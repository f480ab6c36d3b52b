//! `POST /clusters/{cluster}/enrollments/{enrollment}/reject`.

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
use kubenova_api_types::enrollments::{EnrollmentReject, EnrollmentState};
use kubenova_core::{enrollment_approval::check_reason, enrollment_request::Verdict};

/// Reject the installation that waits with this token.
///
/// Its Operator shows the reason. The token is of no use any more: for another attempt create a new one.
#[utoipa::path(post, path = "/api/v1/clusters/{cluster}/enrollments/{enrollment}/reject", tag = "clusters",
    operation_id = "rejectEnrollment",
    params(("cluster" = String, Path, description = "Id or name"), ("enrollment" = String, Path, description = "Id"), ChangeParams),
    request_body = EnrollmentReject,
    responses((status = 200, description = "The token; or a dry run", body = EnrollmentState)))]
pub async fn reject(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<(String, String)>,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<EnrollmentReject>,
) -> Result<Response, ApiError> {
    let named = Named::parse(named);
    check_reason(&body.reason)?;
    ctx.write(&state, params.dry_run, async |tx| decide(tx, &ctx, &named, Verdict::Rejected, None, &body.reason).await)
        .await
}

#[cfg(test)]
mod tests {
    use crate::testing::{TestApi, enrollment::waiting};
    use kubenova_core::refusal::Reason;
    use serde_json::json;

    #[tokio::test]
    async fn a_rejected_installation_is_told_why_and_stays_rejected() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (path, token, body) = waiting(&api, &admin, "dc1-a").await;
        let reject = |reason: &str| api.post(&format!("{path}/reject")).json(&json!({ "reason": reason })).send(&admin);
        for bad in ["", "a\nb", &"a".repeat(501)] {
            assert_eq!(reject(bad).await.refusal(), (422, "FIELD_INVALID", "/reason"));
        }
        let rejected = reject("not ordered by us").await.ok(200);
        assert_eq!(
            (&rejected["state"], &rejected["request"]["decision"]["reason"]),
            (&json!("rejected"), &json!("not ordered by us"))
        );
        assert_eq!(reject("not ordered by us").await.ok(200), rejected);
        let refused = api.enroll(&token, &body).await.refused(Reason::EnrollmentRejected);
        assert!(refused["detail"].as_str().unwrap().ends_with("not ordered by us"), "{refused}");
        let approve =
            api.post(&format!("{path}/approve")).json(&json!({ "fingerprint": rejected["request"]["fingerprint"] }));
        approve.send(&admin).await.refused(Reason::EnrollmentNotPending);
        let patch = api.request(axum::http::Method::PATCH, "/api/v1/clusters/dc1-a");
        patch.json(&json!({ "approval": "automatic" })).send(&admin).await.is(200);
        api.enroll(&token, &body).await.refused(Reason::EnrollmentRejected);
    }
}
