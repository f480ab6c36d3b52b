//! `POST /tenants`: a new tenant, placed on the named clusters.

use super::clusters_to_change;
use crate::{
    body::JsonBody,
    error::ApiError,
    request_context::{ChangeParams, Params, RequestContext},
    response::{self, MutationResponse},
    state::AppState,
    views,
};
use axum::{extract::State, response::Response};
use kubenova_api_types::tenants::{QuotaChange, TenantAccepted, TenantCreate};
use kubenova_core::{
    change::Change,
    cluster::ClusterId,
    refusal::{Reason, Refusal},
    tenant::{PodSecurity, Quota, Tenant, TenantId, TenantName},
};
use kubenova_runtime::random;
use kubenova_store::{placements, tenants};

/// Most clusters in one request.
const CLUSTERS_MAX: usize = 100;

/// Create a tenant, on no cluster yet or on those named.
#[utoipa::path(post, path = "/api/v1/tenants", tag = "tenants", operation_id = "createTenant", params(ChangeParams),
    request_body = TenantCreate,
    responses((status = 201, description = "Created, on no cluster", body = TenantAccepted),
              (status = 202, description = "Accepted; clusters will hear of it", body = TenantAccepted)))]
pub async fn create(
    State(state): State<AppState>,
    ctx: RequestContext,
    Params(params): Params<ChangeParams>,
    JsonBody(body): JsonBody<TenantCreate>,
) -> Result<Response, ApiError> {
    let tenant = requested(&ctx, &body)?;
    if body.clusters.len() > CLUSTERS_MAX {
        return Err(Refusal::at(Reason::FieldInvalid, "/clusters", format!("more than {CLUSTERS_MAX} clusters")).into());
    }

    let mut tx = ctx.write(&state).await?;
    let clusters = clusters_to_change(tx.connection(), &body.clusters, "/clusters").await?;
    let ids: Vec<ClusterId> = clusters.into_iter().map(|cluster| cluster.id).collect();
    tenants::insert(tx.connection(), &tenant).await?;
    placements::insert(tx.connection(), tenant.id, &ids, &tenant.created_by, ctx.now).await?;
    let enqueued = tx.enqueue_commands(&ids, &Change::Tenant(tenant.clone())).await?;
    tx.audit(ctx.action, "create", &format!("tenant/{}", tenant.id), Some(tenant.id)).await?;

    let placed = placements::of_tenants(tx.connection(), &[tenant.id]).await?;
    let body = TenantAccepted { tenant: views::tenant(&tenant, &placed), commands: views::enqueued(&enqueued) };
    let reply = if enqueued.is_empty() { MutationResponse::created() } else { MutationResponse::accepted() };
    reply
        .location(format!("/api/v1/tenants/{}", tenant.id))
        .etag(response::etag(&tenant.id, tenant.generation))
        .operations(&enqueued)
        .commit(tx, params.dry_run, &body, &body)
        .await
}

fn requested(ctx: &RequestContext, body: &TenantCreate) -> Result<Tenant, Refusal> {
    let pod_security = body.pod_security.as_deref().map(|text| {
        PodSecurity::parse(text).ok_or_else(|| {
            Refusal::at(Reason::FieldInvalid, "/podSecurity", format!("{text:?} is neither baseline nor restricted"))
        })
    });
    let tenant = Tenant {
        id: TenantId(random::uuid_v7()),
        name: TenantName::parse(&body.name)?,
        quota: quota(body.quota.clone().unwrap_or_default()),
        pod_security: pod_security.transpose()?.unwrap_or_default(),
        generation: 1,
        created_at: ctx.now,
        updated_at: ctx.now,
        created_by: ctx.caller.subject.clone(),
    };
    tenant.quota.check()?;
    Ok(tenant)
}

fn quota(change: QuotaChange) -> Quota {
    let default = Quota::default();
    Quota {
        cpu: change.cpu.unwrap_or(default.cpu),
        memory: change.memory.unwrap_or(default.memory),
        pods: change.pods.unwrap_or(default.pods),
    }
}
