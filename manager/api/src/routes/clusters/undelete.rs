//! `POST /clusters/{cluster}/undelete`: takes a detached cluster back.

use super::{found, shown, wrong_state};
use crate::{
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::MutationResponse,
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::clusters::Cluster;
use kubenova_core::cluster::{ClusterRef, ClusterState};
use kubenova_store::{cluster_trust, clusters};

/// Take a detached cluster back.
///
/// It waits for an enrollment with a new token (`POST /clusters/{cluster}/enrollments`) by the same Kubernetes cluster; then it gets
/// what is wanted there. A purged cluster cannot be taken back.
#[utoipa::path(post, path = "/api/v1/clusters/{cluster}/undelete", tag = "clusters", operation_id = "undeleteCluster",
    params(("cluster" = String, Path, description = "Id or name"), ChangeParams),
    responses((status = 200, description = "The cluster", body = Cluster)))]
pub async fn undelete(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let named = ClusterRef::parse(&named);
    ctx.write(&state, params.dry_run, async |tx| {
        let cluster = found(clusters::lock(tx.connection(), &named).await?, &named)?;
        if cluster.state != ClusterState::Detached {
            return Err(wrong_state(&cluster, "only a detached one is taken back").into());
        }
        cluster_trust::undelete(tx.connection(), &cluster.id, ctx.now).await?;
        tx.audit(ctx.action, "undelete", &format!("cluster/{}", cluster.id), None).await?;
        let body = shown(tx.connection(), &state, ctx.now, &named).await?;
        Ok(MutationResponse::done(&body))
    })
    .await
}
