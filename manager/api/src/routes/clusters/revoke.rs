//! `POST /clusters/{cluster}/revoke`: the credentials of a cluster are void from now on, for the cluster and for who stole them.

use super::{check_named, found, shown, wrong_state};
use crate::{
    body::JsonBody,
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::MutationResponse,
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::clusters::{Cluster, ClusterRevoke};
use kubenova_core::{
    cluster::{ClusterRef, ClusterState, StateNote},
    plain_text::is_plain,
    refusal::{Reason, Refusal},
};
use kubenova_store::{cluster_trust, clusters, revocations::RevocationReason};

/// Longest message.
const MESSAGE_LENGTH_MAX: usize = 200;

/// Revoke the credentials of a cluster.
///
/// The revocation is given to every server of the broker; each ends the cluster's connections at once and accepts none of its credentials any more. The
/// cluster is `revoking` until all servers have answered, then `revoked`. Its open enrollment tokens are void. What runs there goes
/// on, what is wanted there is kept and waits: the cluster comes back with a new enrollment token.
#[utoipa::path(post, path = "/api/v1/clusters/{cluster}/revoke", tag = "clusters", operation_id = "revokeCluster",
    params(("cluster" = String, Path, description = "Id or name"), ChangeParams), request_body = ClusterRevoke,
    responses((status = 202, description = "The cluster, now revoking", body = Cluster)))]
pub async fn revoke(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<ClusterRevoke>,
) -> Result<Response, ApiError> {
    let revocation = Revocation {
        verb: "revoke",
        done: "revoked",
        state: ClusterState::Revoking,
        reason: RevocationReason::Revoked,
        unfit: "its credentials were revoked with that",
    };
    revocation.carry_out(&state, &ctx, params.dry_run, &named, &body).await
}

/// An operation that revokes the credentials of a cluster.
pub(super) struct Revocation {
    /// Completes "the cluster to ...".
    pub(super) verb: &'static str,
    /// Completes "the cluster was ...".
    pub(super) done: &'static str,
    /// State of the cluster from then on.
    pub(super) state: ClusterState,
    /// Of the revocation, and of the cluster's state.
    pub(super) reason: RevocationReason,
    /// Completes "the cluster is detached; ...": why that one has nothing to revoke.
    pub(super) unfit: &'static str,
}

impl Revocation {
    /// Carries it out for a cluster that is managed and named twice, and answers with the cluster as it is then.
    pub(super) async fn carry_out(
        &self,
        state: &AppState,
        ctx: &RequestContext,
        dry_run: bool,
        named: &str,
        body: &ClusterRevoke,
    ) -> Result<Response, ApiError> {
        let named = ClusterRef::parse(named);
        ctx.write(state, dry_run, async |tx| {
            let cluster = found(clusters::lock(tx.connection(), &named).await?, &named)?;
            check_named(&cluster, &body.cluster, self.verb)?;
            if matches!(cluster.state, ClusterState::Detached | ClusterState::Purged) {
                return Err(wrong_state(&cluster, self.unfit).into());
            }
            let note = self.note(ctx, &body.message)?;
            let into = (self.state, self.reason);
            cluster_trust::revoke(tx.connection(), &cluster.id, into, &note, &ctx.caller.subject, ctx.now).await?;
            tx.audit(ctx.action, self.verb, &format!("cluster/{}", cluster.id), None).await?;
            let body = shown(tx.connection(), state, ctx.now, &named).await?;
            Ok(MutationResponse::accepted(&body).location(format!("/api/v1/clusters/{}", cluster.id)))
        })
        .await
    }

    /// Who did it, when, and why.
    fn note(&self, ctx: &RequestContext, message: &str) -> Result<StateNote, Refusal> {
        if !is_plain(message, MESSAGE_LENGTH_MAX) {
            let detail = format!("message is longer than {MESSAGE_LENGTH_MAX} characters or has control characters");
            return Err(Refusal::at(Reason::FieldInvalid, "/message", detail));
        }
        let because = if message.is_empty() { String::new() } else { format!(": {message}") };
        let text = format!("{} by {} at {:.0}{because}", self.done, ctx.caller.subject, ctx.now);
        Ok(StateNote::new(self.reason.as_str(), text))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{
        TestApi,
        enrollment::{Installation, UID},
    };
    use kubenova_core::{access::Role, refusal::Reason};
    use kubenova_schema::signature::PayloadType;
    use kubenova_store::revocations;
    use serde_json::{Value, json};

    const REVOKE: &str = "/api/v1/clusters/a/revoke";

    #[tokio::test]
    async fn a_revoked_cluster_is_refused_everywhere_until_it_enrolls_with_a_new_token() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "a").await;
        let installation = Installation::new(UID);
        let enrollment = installation.enrollment(&cluster);
        api.enroll(&token, &enrollment).await.ok(200);
        let body = json!({ "cluster": "a", "message": "stolen" });
        assert_eq!(
            api.post(&format!("{REVOKE}?dryRun=true")).json(&body).send(&admin).await.ok(200)["state"],
            "revoking"
        );
        let revoked = api.post(REVOKE).json(&body).send(&admin).await.ok(202);
        assert_eq!((&revoked["state"], &revoked["stateReason"]), (&json!("revoking"), &json!("Revoked")));
        assert!(revoked["stateMessage"].as_str().unwrap().ends_with(": stolen"), "{revoked}");
        let shown = api.get("/api/v1/clusters/a").send(&admin).await.ok(200);
        let revocation = &shown["credentials"]["revocation"];
        assert_eq!((&revocation["reason"], revocation.get("effectiveAt")), (&json!("Revoked"), None));
        assert_eq!(shown["enrollments"][0]["state"], "revoked");

        let renewal = installation.renewal(&cluster, "1", &api.nonce().await);
        let signature = installation.sign(PayloadType::Renewal, &renewal.to_string());
        api.renew(&renewal, &signature).await.refused(Reason::CredentialsRevoked);
        // The answer of its enrollment is not given again either.
        api.enroll(&token, &enrollment).await.refused(Reason::EnrollmentTokenRevoked);
        let enrollments = "/api/v1/clusters/a/enrollments";
        api.post(enrollments).send(&admin).await.refused(Reason::ClusterNotUsable);

        // As the Manager does once every server of the broker has it.
        api.database.execute("update clusters set state = 'revoked'").await;
        let token = api.further_token(&admin, "a").await;
        let again = Installation::new(UID);
        let answer = api.enroll(&token, &again.enrollment(&cluster)).await.ok(200);
        assert_eq!(answer["incarnation"], "2");
        assert_eq!(api.get("/api/v1/clusters/a").send(&admin).await.ok(200)["state"], "enrolled");
    }

    #[tokio::test]
    async fn who_means_another_cluster_or_writes_too_much_is_refused() {
        let api = TestApi::start().await;
        let admin = api.caller(Role::Admin, None).await;
        api.cluster(&admin, "a").await;
        let post = async |body: Value| api.post(REVOKE).json(&body).send(&admin).await;
        assert_eq!(post(json!({ "cluster": "b" })).await.refusal(), (422, "FIELD_INVALID", "/cluster"));
        let long = json!({ "cluster": "a", "message": "x".repeat(201) });
        assert_eq!(post(long).await.refusal(), (422, "FIELD_INVALID", "/message"));
        for state in ["detached", "purged"] {
            let sql = if state == "purged" {
                "update clusters set state = 'purged'"
            } else {
                "update clusters set state = 'detached'"
            };
            api.database.execute(sql).await;
            post(json!({ "cluster": "a" })).await.refused(Reason::ClusterStateUnfit);
        }
    }

    #[tokio::test]
    async fn an_enrollment_revokes_the_incarnations_before_it() {
        let (api, admin) = TestApi::start_with_enrollment().await;
        let (cluster, token) = api.cluster_with_token(&admin, "a").await;
        let first = Installation::new(UID);
        api.enroll(&token, &first.enrollment(&cluster)).await.ok(200);
        let count = async || revocations::in_force(&mut api.state.store.acquire().await.unwrap()).await.unwrap().len();
        assert_eq!(count().await, 0);
        let token = api.further_token(&admin, "a").await;
        api.enroll(&token, &Installation::new(UID).enrollment(&cluster)).await.ok(200);
        assert_eq!(count().await, 1);
        let shown = api.get("/api/v1/clusters/a").send(&admin).await.ok(200);
        assert_eq!(shown["credentials"].get("revocation"), None, "those in use are good");
    }
}
