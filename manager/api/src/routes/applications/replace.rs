//! `PUT /tenants/{tenant}/apps/{application}`: the wish as a whole, new. Clusters no longer named are told to remove it.

use super::{ApplicationParams, accepted, choose_clusters, document, found};
use crate::{
    answer,
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
    ask: Ask,
    Path((named, name)): Path<(String, String)>,
    Params(params): Params<ApplicationParams>,
    DocumentBody(body): DocumentBody,
) -> Result<Response, ApiError> {
    let mut writer = ask.write(&state).await?;
    let tenant = tenants::hold(writer.connection(), &ask, &named).await?;
    let wish = document::read(body, params.named(), &tenant)?;
    let before = found(applications::find_to_change(writer.connection(), tenant.id, &name).await?, &name)?;
    ask.matches(&answer::etag(&before.id, before.generation))?;
    if wish.accepted.name != before.name {
        let detail =
            format!("the body names \"{}\", the path \"{}\"; a name cannot change", wish.accepted.name, before.name);
        return Err(Refusal::at(Reason::FieldInvalid, "/name", detail).into());
    }
    let were = ids(applications::targets(writer.connection(), &[before.id]).await?);
    let clusters = match &wish.clusters {
        None => were.clone(),
        Some(named) => choose_clusters(writer.connection(), &tenant, Some(named)).await?,
    };
    let left: Vec<ClusterId> = were.into_iter().filter(|cluster| !clusters.contains(cluster)).collect();
    let application = Application {
        form: wish.form,
        labels: wish.accepted.labels,
        annotations: wish.accepted.annotations,
        spec: wish.spec,
        generation: before.generation + 1,
        updated_at: ask.now,
        ..before
    };
    applications::update(writer.connection(), &application, &clusters).await?;
    applications::unplace(writer.connection(), application.id, &left).await?;
    let change = Change::Application { tenant: tenant.name.clone(), application: application.clone() };
    let gone = Change::ApplicationDeleted { tenant: tenant.name.clone(), application: application.clone() };
    let mut announced = writer.announce(&clusters, &change).await?;
    announced.extend(writer.announce(&left, &gone).await?);
    writer
        .audit(ask.action, "replace", &format!("application/{}/{}", tenant.id, application.name), Some(tenant.id))
        .await?;

    accepted(writer, params.dry_run, &tenant, &application, &announced).await
}

fn ids(targets: Vec<applications::Target>) -> Vec<ClusterId> {
    targets.into_iter().map(|target| target.cluster_id).collect()
}
