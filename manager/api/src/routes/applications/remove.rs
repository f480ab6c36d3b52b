//! `DELETE /tenants/{tenant}/apps/{application}`: an explicit wish that it be gone, on every cluster it is on.

use super::found;
use crate::{
    answer::{self, Reply},
    ask::{Ask, ChangeParams, Params},
    error::ApiError,
    routes::tenants,
    show,
    state::AppState,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use kubenova_api_types::applications::ApplicationAccepted;
use kubenova_core::{change::Change, cluster::ClusterId};
use kubenova_store::applications;

/// Remove an application from all its clusters.
#[utoipa::path(delete, path = "/api/v1/tenants/{tenant}/apps/{application}", tag = "applications", operation_id = "deleteApplication",
    params(("tenant" = String, Path, description = "Id or name"), ("application" = String, Path, description = "Name"), ChangeParams),
    responses((status = 202, description = "Accepted; the clusters will hear of it", body = ApplicationAccepted)))]
pub async fn remove(
    State(state): State<AppState>,
    ask: Ask,
    Path((named, name)): Path<(String, String)>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let mut writer = ask.write(&state).await?;
    let tenant = tenants::hold(writer.connection(), &ask, &named).await?;
    let application = found(applications::find_to_change(writer.connection(), tenant.id, &name).await?, &name)?;
    ask.matches(&answer::etag(&application.id, application.generation))?;
    let targets = applications::targets(writer.connection(), &[application.id]).await?;
    let clusters: Vec<ClusterId> = targets.iter().map(|target| target.cluster_id.clone()).collect();
    let change = Change::ApplicationDeleted { tenant: tenant.name.clone(), application: application.clone() };
    let announced = writer.announce(&clusters, &change).await?;
    applications::remove(writer.connection(), application.id).await?;
    writer
        .audit(ask.action, "delete", &format!("application/{}/{}", tenant.id, application.name), Some(tenant.id))
        .await?;

    let body = ApplicationAccepted {
        application: show::application(&tenant, &application, &targets),
        commands: show::announced(&announced),
    };
    Reply::accepted().operations(&announced).commit(writer, params.dry_run, &body, &body).await
}
