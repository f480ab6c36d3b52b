//! `GET /clusters/{cluster}/enrollments/{enrollment}`.

use super::Named;
use crate::{error::ApiError, request_context::RequestContext, state::AppState, views};
use axum::{
    Json,
    extract::{Path, State},
};
use kubenova_api_types::enrollments::EnrollmentState;

/// Read an enrollment token of a cluster, with the last attempts to use it. Its secret is not stored.
#[utoipa::path(get, path = "/api/v1/clusters/{cluster}/enrollments/{enrollment}", tag = "clusters", operation_id = "getEnrollment",
    params(("cluster" = String, Path, description = "Id or name"), ("enrollment" = String, Path, description = "Id")),
    responses((status = 200, description = "The token", body = EnrollmentState)))]
pub async fn get(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<(String, String)>,
) -> Result<Json<EnrollmentState>, ApiError> {
    let mut connection = state.store.acquire().await?;
    let token = Named::parse(named).find(&mut connection).await?;
    Ok(Json(views::enrollment(&token, ctx.now)))
}

#[cfg(test)]
mod tests {
    use crate::testing::{
        TestApi,
        enrollment::{Installation, UID},
    };
    use kubenova_core::{access::Role, refusal::Reason};
    use serde_json::json;

    #[tokio::test]
    async fn a_token_is_read_with_its_use_and_belongs_to_one_cluster() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "dc1-a").await;
        api.cluster(&admin, "dc1-b").await;
        api.enroll(&token, &Installation::new(UID).enrollment(&cluster)).await.ok(200);
        let listed = api.get("/api/v1/clusters/dc1-a/enrollments").send(&admin).await.ok(200);
        let id = listed["items"][0]["id"].as_str().unwrap();
        let reader = api.caller(Role::ReadOnly, None).await;
        let shown = api.get(&format!("/api/v1/clusters/{cluster}/enrollments/{id}")).send(&reader).await.ok(200);
        assert_eq!(shown, listed["items"][0]);
        assert_eq!((&shown["state"], &shown["usedByUid"]), (&json!("used"), &json!(UID)));
        assert_eq!(shown["createdBy"], TestApi::subject(Role::Admin));
        assert_eq!(shown["attempts"][0]["outcome"], "accepted");
        let of_another = format!("/api/v1/clusters/dc1-b/enrollments/{id}");
        api.get(&of_another).send(&admin).await.refused(Reason::EnrollmentNotFound);
        api.get("/api/v1/clusters/dc1-a/enrollments/none").send(&admin).await.refused(Reason::EnrollmentNotFound);
        let of_none = format!("/api/v1/clusters/none/enrollments/{id}");
        api.get(&of_none).send(&admin).await.refused(Reason::ClusterNotFound);
    }
}
