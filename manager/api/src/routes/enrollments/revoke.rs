//! `DELETE /clusters/{cluster}/enrollments/{enrollment}`.

use super::Named;
use crate::{
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::MutationResponse,
    state::AppState,
    views,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::enrollments::EnrollmentState;
use kubenova_store::enrollment_tokens;

/// Revoke an enrollment token that was not used.
///
/// Whoever shows it from then on is refused. Revoking it again changes nothing. A token that was used is not revoked: the identity that
/// was issued for it does not depend on it any more, so that the cluster would keep its credentials. What takes them away is in the
/// refusal.
#[utoipa::path(delete, path = "/api/v1/clusters/{cluster}/enrollments/{enrollment}", tag = "clusters", operation_id = "revokeEnrollment",
    params(("cluster" = String, Path, description = "Id or name"), ("enrollment" = String, Path, description = "Id"), ChangeParams),
    responses((status = 200, description = "The token; or a dry run", body = EnrollmentState)))]
pub async fn revoke(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<(String, String)>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let named = Named::parse(named);
    ctx.write(&state, params.dry_run, async |tx| {
        let token = named.lock(tx.connection()).await?;
        if token.history.revoke()? {
            enrollment_tokens::revoke(tx.connection(), token.id, &ctx.caller.subject, ctx.now).await?;
            tx.audit(ctx.action, "revoke", &super::target(token.id), None).await?;
        }
        let token = named.find(tx.connection()).await?;
        Ok(MutationResponse::done(&views::enrollment(&token, ctx.now)))
    })
    .await
}

#[cfg(test)]
mod tests {
    use crate::testing::{
        TestApi, Token,
        enrollment::{Installation, UID},
    };
    use kubenova_core::{access::Role, refusal::Reason};
    use kubenova_store::audit_chain;
    use serde_json::json;

    /// The path of the cluster's newest token.
    async fn newest(api: &TestApi, admin: &Token, cluster: &str) -> String {
        let listed = api.get(&format!("/api/v1/clusters/{cluster}/enrollments")).send(admin).await.ok(200);
        format!("/api/v1/clusters/{cluster}/enrollments/{}", listed["items"][0]["id"].as_str().unwrap())
    }

    #[tokio::test]
    async fn a_revoked_token_is_refused_and_revoking_it_again_changes_nothing() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "dc1-a").await;
        let path = newest(&api, &admin, "dc1-a").await;
        let records = async || audit_chain::pending(&mut api.state.store.acquire().await.unwrap()).await.unwrap();
        let before = records().await;
        let reader = api.caller(Role::ReadOnly, None).await;
        api.delete(&path).send(&reader).await.refused(Reason::Forbidden);
        let dry = api.delete(&format!("{path}?dryRun=true")).send(&admin).await.ok(200);
        assert_eq!(dry["state"], "revoked");
        assert_eq!((records().await, &api.get(&path).send(&admin).await.ok(200)["state"]), (before, &json!("open")));

        let revoked = api.delete(&path).send(&admin).await.ok(200);
        assert_eq!(revoked["state"], "revoked");
        assert_eq!(revoked["revokedBy"], TestApi::subject(Role::Admin));
        assert_eq!(api.delete(&path).send(&admin).await.ok(200), revoked);
        assert_eq!(records().await, before + 1);
        api.enroll(&token, &Installation::new(UID).enrollment(&cluster)).await.refused(Reason::EnrollmentTokenRevoked);
        let none = "/api/v1/clusters/dc1-a/enrollments/0198c1d2-0000-7000-8000-000000000000";
        api.delete(none).send(&admin).await.refused(Reason::EnrollmentNotFound);
    }

    #[tokio::test]
    async fn a_used_token_is_not_revoked_and_the_refusal_says_what_to_do() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "dc1-a").await;
        let installation = Installation::new(UID).enrollment(&cluster);
        api.enroll(&token, &installation).await.ok(200);
        let path = newest(&api, &admin, "dc1-a").await;
        let refused = api.delete(&path).send(&admin).await.refused(Reason::EnrollmentCompleted);
        assert!(refused["detail"].as_str().unwrap().contains("take nothing away"), "{refused}");
        assert!(refused["remedy"].as_str().unwrap().contains("/revoke"), "{refused}");
        assert_eq!(api.get(&path).send(&admin).await.ok(200)["state"], "used");
        api.enroll(&token, &installation).await.ok(200);
    }
}
