//! `POST /clusters/{cluster}/enrollments`: a new token for a cluster that exists.

use super::found;
use crate::{
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::MutationResponse,
    state::AppState,
    token,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use data_encoding::BASE64URL_NOPAD;
use kubenova_api_types::clusters::{Enrollment, EnrollmentCommands};
use kubenova_core::{
    cluster::{ClusterId, ClusterRef},
    refusal::{Reason, Refusal},
};
use kubenova_runtime::random;
use kubenova_schema::token::EnrollmentToken;
use kubenova_store::{
    clusters,
    enrollments::{self, NewEnrollment},
};

/// Create a further enrollment token for a cluster. Earlier tokens stay valid.
#[utoipa::path(post, path = "/api/v1/clusters/{cluster}/enrollments", tag = "clusters", operation_id = "createEnrollment",
    params(("cluster" = String, Path, description = "Id or name"), ChangeParams),
    responses((status = 201, description = "Created; the answer contains the enrollment token", body = Enrollment)))]
pub async fn enroll(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let named = ClusterRef::parse(&named);
    ctx.write(&state, params.dry_run, async |tx| {
        let cluster = found(clusters::find(tx.connection(), &named).await?, &named)?;
        if !cluster.state.may_enroll() {
            let detail = format!("cluster \"{named}\" is {}", cluster.state.as_str());
            return Err(Refusal::new(Reason::ClusterNotUsable, detail).into());
        }
        let ticket = ticket(&state, &ctx, &cluster.id);
        enrollments::insert(tx.connection(), &ticket.kept).await?;
        tx.audit(ctx.action, "enroll", &format!("cluster/{}", cluster.id), None).await?;

        let repeated = Enrollment { token: None, ..ticket.shown.clone() };
        Ok(MutationResponse::created(&ticket.shown)
            .repeated_as(&repeated)
            .location(format!("/api/v1/clusters/{}", cluster.id)))
    })
    .await
}

/// A fresh token: what is kept of it, and what is shown once.
pub(super) struct Ticket {
    pub(super) kept: NewEnrollment,
    pub(super) shown: Enrollment,
}

pub(super) fn ticket(state: &AppState, ctx: &RequestContext, cluster: &ClusterId) -> Ticket {
    let settings = &state.settings.enrollment;
    let id = random::uuid_v7();
    let secret = BASE64URL_NOPAD.encode(&random::bytes::<32>());
    let expires_at = ctx.now.checked_add(settings.token_ttl).unwrap_or(ctx.now);
    let kept = NewEnrollment {
        id,
        cluster_id: cluster.clone(),
        secret_sha256: token::sha256(&secret),
        created_at: ctx.now,
        created_by: ctx.caller.subject.clone(),
        expires_at,
    };
    let token = EnrollmentToken {
        cluster_id: cluster.to_string(),
        endpoints: settings.endpoints.clone(),
        ca_spki_sha256: settings.ca_spki_sha256.clone(),
        secret,
    };
    let shown = Enrollment {
        id: id.to_string(),
        token: Some(token.encode()),
        expires_at,
        ca_sha256: settings.ca_spki_sha256.clone(),
        endpoints: settings.endpoints.clone(),
        commands: EnrollmentCommands { helm: helm(&settings.chart) },
    };
    Ticket { kept, shown }
}

/// The token is read from a file: every process of a machine can see command lines.
fn helm(chart: &str) -> String {
    format!(
        "helm upgrade --install kubenova-operator {chart} --namespace kubenova-system --create-namespace \
         --set-file enrollment.token=./kn-token"
    )
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use kubenova_core::{access::Role, cluster::ClusterState, refusal::Reason};
    use serde_json::Value;

    #[tokio::test]
    async fn a_further_token_is_shown_once_and_the_first_stays_valid() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        let id = api.cluster(&admin, "dc1-a").await;
        let path = "/api/v1/clusters/dc1-a/enrollments";
        let answer = api.post(path).key("k").send(&admin).await;
        assert!(answer.ok(201)["token"].as_str().unwrap().starts_with("kn1."));
        assert_eq!(answer.header("location"), format!("/api/v1/clusters/{id}"));
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
}
