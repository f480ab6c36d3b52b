//! `POST /tenants/{tenant}/apps`, also `/users/{tenant}/apps`: a new application on the tenant's clusters.

use super::{ApplicationParams, accepted, choose_clusters, document};
use crate::{
    ask::{Ask, Params},
    body::DocumentBody,
    error::ApiError,
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
    ask: Ask,
    Path(named): Path<String>,
    Params(params): Params<ApplicationParams>,
    DocumentBody(body): DocumentBody,
) -> Result<Response, ApiError> {
    let mut writer = ask.write(&state).await?;
    let tenant = tenants::hold(writer.connection(), &ask, &named).await?;
    let wish = document::read(body, params.named(), &tenant)?;
    let clusters = choose_clusters(writer.connection(), &tenant, wish.clusters.as_deref()).await?;
    let application = Application {
        id: ApplicationId(random::uuid_v7()),
        tenant_id: tenant.id,
        name: wish.accepted.name,
        form: wish.form,
        labels: wish.accepted.labels,
        annotations: wish.accepted.annotations,
        spec: wish.spec,
        generation: 1,
        created_at: ask.now,
        updated_at: ask.now,
        created_by: ask.caller.subject.clone(),
    };
    applications::insert(writer.connection(), &application, &clusters).await?;
    let change = Change::Application { tenant: tenant.name.clone(), application: application.clone() };
    let announced = writer.announce(&clusters, &change).await?;
    writer
        .audit(ask.action, "create", &format!("application/{}/{}", tenant.id, application.name), Some(tenant.id))
        .await?;

    accepted(writer, params.dry_run, &tenant, &application, &announced).await
}

/// Create an application (the same as `POST /api/v1/tenants/{tenant}/apps`).
#[utoipa::path(post, path = "/users/{tenant}/apps", tag = "applications", operation_id = "createApplicationAtRoot",
    params(("tenant" = String, Path, description = "Id or name"), ApplicationParams),
    request_body(content((ApplicationBody = "application/json"), (ApplicationBody = "application/yaml"))),
    responses((status = 202, description = "Accepted; the clusters will hear of it", body = ApplicationAccepted)))]
pub async fn create_at_root(
    state: State<AppState>,
    ask: Ask,
    named: Path<String>,
    params: Params<ApplicationParams>,
    body: DocumentBody,
) -> Result<Response, ApiError> {
    create(state, ask, named, params, body).await
}

/// Create an application (the same as `POST /api/v1/tenants/{tenant}/apps`).
#[utoipa::path(post, path = "/api/v1/users/{tenant}/apps", tag = "applications", operation_id = "createApplicationOfUser",
    params(("tenant" = String, Path, description = "Id or name"), ApplicationParams),
    request_body(content((ApplicationBody = "application/json"), (ApplicationBody = "application/yaml"))),
    responses((status = 202, description = "Accepted; the clusters will hear of it", body = ApplicationAccepted)))]
pub async fn create_of_user(
    state: State<AppState>,
    ask: Ask,
    named: Path<String>,
    params: Params<ApplicationParams>,
    body: DocumentBody,
) -> Result<Response, ApiError> {
    create(state, ask, named, params, body).await
}
