//! `POST /clusters/{cluster}/enrollments`: a new token for a cluster that exists.

use super::ticket::{self, Ticket};
use crate::{
    body::OptionalBody,
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::MutationResponse,
    routes::clusters::found,
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::enrollments::{Enrollment, EnrollmentCreate};
use kubenova_core::{
    cluster::ClusterRef,
    enrollment_token::check_ttl,
    refusal::{Reason, Refusal},
};
use kubenova_store::{clusters, enrollment_tokens, enrollments};

/// Create a further enrollment token for a cluster.
///
/// Earlier tokens stay valid, unless `replaces` is true: then those that could still be used are revoked with the same change, and the
/// answer names them. The cluster keeps its identity until an installation enrolls with the new token.
#[utoipa::path(post, path = "/api/v1/clusters/{cluster}/enrollments", tag = "clusters", operation_id = "createEnrollment",
    params(("cluster" = String, Path, description = "Id or name"), ChangeParams), request_body(content = Option<EnrollmentCreate>),
    responses((status = 201, description = "Created; the answer contains the enrollment token", body = Enrollment)))]
pub async fn create(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
    OptionalBody(body): OptionalBody<EnrollmentCreate>,
) -> Result<Response, ApiError> {
    let named = ClusterRef::parse(&named);
    let ttl = body.ttl_seconds.map(check_ttl).transpose()?.unwrap_or(state.settings.enrollment.token_ttl);
    ctx.write(&state, params.dry_run, async |tx| {
        // Held, so that a token is made before or after a revocation, and not beside it.
        let cluster = found(clusters::lock(tx.connection(), &named).await?, &named)?;
        if !cluster.state.may_enroll() {
            let detail = format!("cluster \"{named}\" is {}", cluster.state.as_str());
            return Err(Refusal::new(Reason::ClusterNotUsable, detail).into());
        }
        let mut revoked = Vec::new();
        if body.replaces {
            revoked =
                enrollment_tokens::revoke_open(tx.connection(), &cluster.id, &ctx.caller.subject, ctx.now).await?;
            for id in &revoked {
                tx.audit(ctx.action, "revoke", &super::target(*id), None).await?;
            }
        }
        let Ticket { kept, mut shown } = ticket::make(&state, &ctx, &cluster.id, ttl);
        shown.revoked = revoked.iter().map(ToString::to_string).collect();
        enrollments::insert(tx.connection(), &kept).await?;
        tx.audit(ctx.action, "enroll", &format!("cluster/{}", cluster.id), None).await?;

        let repeated = Enrollment { token: None, ..shown.clone() };
        Ok(MutationResponse::created(&shown)
            .repeated_as(&repeated)
            .location(format!("/api/v1/clusters/{}/enrollments/{}", cluster.id, kept.id)))
    })
    .await
}

#[cfg(test)]
mod tests {
    use crate::testing::{
        TestApi,
        enrollment::{Installation, UID},
    };
    use jiff::Timestamp;
    use kubenova_core::{access::Role, cluster::ClusterState, refusal::Reason};
    use serde_json::{Value, json};

    #[tokio::test]
    async fn a_further_token_is_shown_once_and_the_first_stays_valid() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let id = api.cluster(&admin, "dc1-a").await;
        let path = "/api/v1/clusters/dc1-a/enrollments";
        let answer = api.post(path).key("k").send(&admin).await;
        assert!(answer.ok(201)["token"].as_str().unwrap().starts_with("kn1."));
        let token = answer.body["id"].as_str().unwrap();
        assert_eq!(answer.header("location"), format!("/api/v1/clusters/{id}/enrollments/{token}"));
        assert_eq!(api.post(path).key("k").send(&admin).await.ok(201)["token"], Value::Null);
        assert_eq!(api.post(&format!("{path}?dryRun=true")).send(&admin).await.ok(200)["token"], Value::Null);
        let cluster = api.get("/api/v1/clusters/dc1-a").send(&admin).await.ok(200);
        let states: Vec<_> = cluster["enrollments"].as_array().unwrap().iter().map(|it| &it["state"]).collect();
        assert_eq!(states, ["open", "open"]);
        api.post("/api/v1/clusters/none/enrollments").send(&admin).await.refused(Reason::ClusterNotFound);
    }

    #[tokio::test]
    async fn a_cluster_that_accepts_no_changes_gets_no_token() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        api.cluster_in_state("dc1-a", ClusterState::Detached).await;
        let refused = api.post("/api/v1/clusters/dc1-a/enrollments").send(&admin).await;
        let detail = refused.refused(Reason::ClusterNotUsable)["detail"].clone();
        assert_eq!(detail, "cluster \"dc1-a\" is detached");
    }

    #[tokio::test]
    async fn a_life_is_chosen_within_limits() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        api.cluster(&admin, "dc1-a").await;
        let path = "/api/v1/clusters/dc1-a/enrollments";
        let create = |ttl: Value| api.post(path).json(&json!({ "ttlSeconds": ttl })).send(&admin);
        let at = |value: &Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
        for seconds in [600, 2_592_000] {
            let id = create(json!(seconds)).await.ok(201)["id"].as_str().unwrap().to_owned();
            let shown = api.get(&format!("{path}/{id}")).send(&admin).await.ok(200);
            let life = at(&shown["expiresAt"]).duration_since(at(&shown["createdAt"]));
            assert_eq!(life.as_secs(), seconds);
        }
        for seconds in [0, 599, 2_592_001] {
            let refused = create(json!(seconds)).await;
            assert_eq!(refused.refusal(), (422, "FIELD_INVALID", "/ttlSeconds"));
            assert!(refused.body["detail"].as_str().unwrap().contains("10 minutes"), "{refused:?}");
        }
        create(json!("72h")).await.refused(Reason::FieldInvalid);
        api.post(path).json(&json!({ "ttl": 600 })).send(&admin).await.refused(Reason::FieldInvalid);
    }

    #[tokio::test]
    async fn a_token_that_replaces_others_revokes_them_with_the_same_change() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, first) = api.cluster_with_token(&admin, "dc1-a").await;
        let (other, others) = api.cluster_with_token(&admin, "dc1-b").await;
        let path = "/api/v1/clusters/dc1-a/enrollments";
        let replacing = json!({ "replaces": true });
        api.post(&format!("{path}?dryRun=true")).json(&replacing).send(&admin).await.is(200);
        let listed = api.get(path).send(&admin).await.ok(200);
        assert_eq!(listed["items"][0]["state"], "open", "a dry run revokes nothing");
        let created = api.post(path).json(&replacing).send(&admin).await.ok(201);
        assert_eq!(created["revoked"], json!([listed["items"][0]["id"]]));
        api.enroll(&first, &Installation::new(UID).enrollment(&cluster)).await.refused(Reason::EnrollmentTokenRevoked);
        let states = api.get(path).send(&admin).await.ok(200)["items"].as_array().unwrap().clone();
        let states: Vec<_> = states.iter().map(|token| (token["state"].clone(), token["revokedBy"].clone())).collect();
        assert_eq!(states, [(json!("open"), Value::Null), (json!("revoked"), json!(TestApi::subject(Role::Admin)))]);
        // That of another cluster is not among them.
        api.enroll(&others, &Installation::new(UID).enrollment(&other)).await.ok(200);
    }
}
