//! `PUT /tenants/{tenant}/apps/{application}`: the request as a whole, new. Clusters no longer named are told to remove it.

use super::{ApplicationParams, accepted, choose_clusters, document, found};
use crate::{
    body::DocumentBody,
    error::ApiError,
    request_context::{Params, RequestContext},
    response,
    routes::tenants,
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::applications::{ApplicationAccepted, ApplicationBody};
use kubenova_core::{
    application::Application,
    change::Change,
    cluster::ClusterId,
    refusal::{Reason, Refusal},
};
use kubenova_store::applications;

/// Replace an application. Without `clusters` it stays where it is.
#[utoipa::path(put, path = "/api/v1/tenants/{tenant}/apps/{application}", tag = "applications", operation_id = "replaceApplication",
    params(("tenant" = String, Path, description = "Id or name"), ("application" = String, Path, description = "Name"), ApplicationParams),
    request_body(content((ApplicationBody = "application/json"), (ApplicationBody = "application/yaml"))),
    responses((status = 202, description = "Accepted; the clusters will hear of it", body = ApplicationAccepted)))]
pub async fn replace(
    State(state): State<AppState>,
    ctx: RequestContext,
    Path((named, name)): Path<(String, String)>,
    Params(params): Params<ApplicationParams>,
    DocumentBody(body): DocumentBody,
) -> Result<Response, ApiError> {
    let mut tx = ctx.write(&state).await?;
    let tenant = tenants::hold(tx.connection(), &ctx, &named).await?;
    let request = document::read(body, params.named(), &tenant)?;
    let before = found(applications::find_to_change(tx.connection(), tenant.id, &name).await?, &name)?;
    ctx.matches(&response::etag(&before.id, before.generation))?;
    if request.name != before.name {
        let detail = format!("the body names \"{}\", the path \"{}\"; a name cannot change", request.name, before.name);
        return Err(Refusal::at(Reason::FieldInvalid, request.name_pointer, detail).into());
    }
    let were = ids(applications::targets(tx.connection(), &[before.id]).await?);
    let clusters = match &request.clusters {
        None => were.clone(),
        Some(named) => choose_clusters(tx.connection(), &tenant, Some(named)).await?,
    };
    let left: Vec<ClusterId> = were.into_iter().filter(|cluster| !clusters.contains(cluster)).collect();
    let application = Application {
        form: request.form,
        labels: request.labels,
        annotations: request.annotations,
        spec: request.spec,
        generation: before.generation + 1,
        updated_at: ctx.now,
        ..before
    };
    applications::update(tx.connection(), &application, &clusters).await?;
    applications::unplace(tx.connection(), application.id, &left).await?;
    let change = Change::Application { tenant: tenant.name.clone(), application: application.clone() };
    let gone = Change::ApplicationDeleted { tenant: tenant.name.clone(), application: application.clone() };
    let mut enqueued = tx.enqueue_commands(&clusters, &change).await?;
    enqueued.extend(tx.enqueue_commands(&left, &gone).await?);
    tx.audit(ctx.action, "replace", &format!("application/{}/{}", tenant.id, application.name), Some(tenant.id))
        .await?;

    accepted(tx, params.dry_run, &tenant, &application, &enqueued).await
}

fn ids(targets: Vec<applications::Target>) -> Vec<ClusterId> {
    targets.into_iter().map(|target| target.cluster_id).collect()
}
