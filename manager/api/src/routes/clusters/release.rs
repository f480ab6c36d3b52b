//! `POST /clusters/{cluster}/release`: a person trusts a quarantined cluster again.

use super::{found, shown, wrong_state};
use crate::{
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::MutationResponse,
    routes::enrollments,
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::clusters::Cluster;
use kubenova_core::cluster::{ClusterRef, ClusterState};
use kubenova_store::{cluster_trust, clusters, enrollment_tokens};

/// Release a cluster from quarantine.
///
/// It is sent commands again from its next hello on, under the credentials that it has: first stop the copy, or whoever else claimed
/// its record. If a copy may still hold the credentials, revoke them instead and enroll the right one again. Tokens of it that were not
/// used are revoked: whoever claimed its record may have one.
#[utoipa::path(post, path = "/api/v1/clusters/{cluster}/release", tag = "clusters", operation_id = "releaseCluster",
    params(("cluster" = String, Path, description = "Id or name"), ChangeParams),
    responses((status = 200, description = "The cluster", body = Cluster)))]
pub async fn release(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let named = ClusterRef::parse(&named);
    ctx.write(&state, params.dry_run, async |tx| {
        let cluster = found(clusters::lock(tx.connection(), &named).await?, &named)?;
        if cluster.state != ClusterState::Quarantined {
            return Err(wrong_state(&cluster, "only a quarantined one is released").into());
        }
        cluster_trust::release(tx.connection(), &cluster.id, ctx.now).await?;
        let revoked =
            enrollment_tokens::revoke_open(tx.connection(), &cluster.id, &ctx.caller.subject, ctx.now).await?;
        for id in revoked {
            tx.audit(ctx.action, "revoke", &enrollments::target(id), None).await?;
        }
        tx.audit(ctx.action, "release", &format!("cluster/{}", cluster.id), None).await?;
        let body = shown(tx.connection(), &state, ctx.now, &named).await?;
        Ok(MutationResponse::done(&body))
    })
    .await
}

#[cfg(test)]
mod tests {
    use crate::testing::TestApi;
    use kubenova_core::{access::Role, refusal::Reason};

    #[tokio::test]
    async fn a_person_ends_a_quarantine_and_nothing_else() {
        let api = TestApi::start().await;
        let ops = api.caller(Role::Ops, None).await;
        api.cluster(&ops, "a").await;
        let path = "/api/v1/clusters/a/release";
        api.post(path).send(&ops).await.refused(Reason::ClusterStateUnfit);
        api.database
            .execute(
                "update clusters set state = 'quarantined', state_reason = 'CredentialsCopied', state_message = 'm'",
            )
            .await;
        let shown = api.get("/api/v1/clusters/a").send(&ops).await.ok(200);
        assert_eq!(
            (shown["stateReason"].as_str(), shown["stateMessage"].as_str()),
            (Some("CredentialsCopied"), Some("m"))
        );
        assert_eq!(api.post(&format!("{path}?dryRun=true")).send(&ops).await.ok(200)["state"], "pendingBootstrap");
        let enrollments = async || api.get("/api/v1/clusters/a/enrollments").send(&ops).await.ok(200);
        assert_eq!(enrollments().await["items"][0]["state"], "open");
        let released = api.post(path).send(&ops).await.ok(200);
        assert_eq!(enrollments().await["items"][0]["state"], "revoked", "whoever claimed the record may have it");
        assert_eq!((&released["state"], released.get("stateReason")), (&"pendingBootstrap".into(), None));
        api.post("/api/v1/clusters/none/release").send(&ops).await.refused(Reason::ClusterNotFound);
    }
}
