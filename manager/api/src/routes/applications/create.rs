//! `POST /tenants/{tenant}/apps`, also `/users/{tenant}/apps`: a new application on the tenant's clusters.

use super::{ApplicationParams, accepted, choose_clusters, document};
use crate::{
    body::DocumentBody,
    error::ApiError,
    request_context::{Params, RequestContext},
    routes::tenants,
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::applications::{ApplicationAccepted, ApplicationBody};
use kubenova_core::{
    application::{Application, ApplicationId},
    change::Change,
};
use kubenova_runtime::random;
use kubenova_store::applications;

/// Create an application: the typed form, or a KubeVela Application as JSON or YAML.
#[utoipa::path(post, path = "/api/v1/tenants/{tenant}/apps", tag = "applications", operation_id = "createApplication",
    params(("tenant" = String, Path, description = "Id or name"), ApplicationParams),
    request_body(content((ApplicationBody = "application/json"), (ApplicationBody = "application/yaml"))),
    responses((status = 202, description = "Accepted; the clusters will hear of it", body = ApplicationAccepted)))]
pub async fn create(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path(named): Path<String>,
    Params(params): Params<ApplicationParams>,
    DocumentBody(body): DocumentBody,
) -> Result<Response, ApiError> {
    let mut tx = ctx.write(&state).await?;
    let tenant = tenants::hold(tx.connection(), &ctx, &named).await?;
    let request = document::read(body, params.named(), &tenant)?;
    let clusters = choose_clusters(tx.connection(), &tenant, request.clusters.as_deref()).await?;
    let application = Application {
        id: ApplicationId(random::uuid_v7()),
        tenant_id: tenant.id,
        name: request.name,
        form: request.form,
        labels: request.labels,
        annotations: request.annotations,
        spec: request.spec,
        generation: 1,
        created_at: ctx.now,
        updated_at: ctx.now,
        created_by: ctx.caller.subject.clone(),
    };
    applications::insert(tx.connection(), &application, &clusters).await?;
    let change = Change::Application { tenant: tenant.name.clone(), application: application.clone() };
    let enqueued = tx.enqueue_commands(&clusters, &change).await?;
    tx.audit(ctx.action, "create", &format!("application/{}/{}", tenant.id, application.name), Some(tenant.id)).await?;

    accepted(tx, params.dry_run, &tenant, &application, &enqueued).await
}

/// Create an application (the same as `POST /api/v1/tenants/{tenant}/apps`).
#[utoipa::path(post, path = "/users/{tenant}/apps", tag = "applications", operation_id = "createApplicationAtRoot",
    params(("tenant" = String, Path, description = "Id or name"), ApplicationParams),
    request_body(content((ApplicationBody = "application/json"), (ApplicationBody = "application/yaml"))),
    responses((status = 202, description = "Accepted; the clusters will hear of it", body = ApplicationAccepted)))]
pub async fn create_at_root(
    state: State<AppState>,
    ctx: RequestContext,
    named: Path<String>,
    params: Params<ApplicationParams>,
    body: DocumentBody,
) -> Result<Response, ApiError> {
    create(state, ctx, named, params, body).await
}

/// Create an application (the same as `POST /api/v1/tenants/{tenant}/apps`).
#[utoipa::path(post, path = "/api/v1/users/{tenant}/apps", tag = "applications", operation_id = "createApplicationOfUser",
    params(("tenant" = String, Path, description = "Id or name"), ApplicationParams),
    request_body(content((ApplicationBody = "application/json"), (ApplicationBody = "application/yaml"))),
    responses((status = 202, description = "Accepted; the clusters will hear of it", body = ApplicationAccepted)))]
pub async fn create_of_user(
    state: State<AppState>,
    ctx: RequestContext,
    named: Path<String>,
    params: Params<ApplicationParams>,
    body: DocumentBody,
) -> Result<Response, ApiError> {
    create(state, ctx, named, params, body).await
}
