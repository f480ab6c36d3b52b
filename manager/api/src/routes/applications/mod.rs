//! Applications of a tenant.

pub mod create;
pub mod document;
pub mod get;
pub mod list;
mod operation;
pub(crate) mod removal;
pub mod remove;
pub mod replace;
pub mod restart;
pub mod resume;
pub mod status;
pub mod suspend;
pub mod terminate;
#[cfg(test)]
pub(crate) mod testing;
mod view;

use crate::{
    error::ApiError,
    request_context::flag,
    response::{self, MutationResponse},
    views,
};
use jiff::Timestamp;
use kubenova_api_types::applications::ApplicationAccepted;
use kubenova_core::{
    application::{self, Application},
    cluster::{ClusterId, ClusterRef},
    refusal::{Reason, Refusal},
    tenant::{Placement, Tenant},
};
use kubenova_store::{connection::Connection, outbox::EnqueuedCommand, placements};
use view::Surroundings;

/// Query of a change of an application.
#[derive(Debug, Clone, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ApplicationParams {
    /// Check and answer as if, but change nothing. The answer has the header `Dry-Run: true`.
    #[serde(default, deserialize_with = "flag")]
    pub dry_run: bool,
    /// For a bare KubeVela Application: its clusters by id or name, separated by commas.
    pub clusters: Option<String>,
}

impl ApplicationParams {
    /// The clusters that the query names.
    #[must_use]
    pub fn named(&self) -> Option<Vec<String>> {
        let text = self.clusters.as_deref()?;
        Some(text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }
}

/// The answer to a new or changed request.
fn accepted(
    tenant: &Tenant,
    application: &Application,
    surroundings: &Surroundings,
    enqueued: &[EnqueuedCommand],
    now: Timestamp,
) -> MutationResponse {
    let body = ApplicationAccepted {
        application: surroundings.view(tenant, application, now),
        commands: views::enqueued(enqueued),
    };
    let response = if enqueued.is_empty() { MutationResponse::done(&body) } else { MutationResponse::accepted(&body) };
    response
        .location(format!("/api/v1/tenants/{}/apps/{}", tenant.id, application.name))
        .etag(response::etag(&application.id, application.generation))
        .operations(enqueued)
}

/// The application, or the refusal that says there is none.
pub(crate) fn found(application: Option<Application>, named: &str) -> Result<Application, Refusal> {
    application
        .ok_or_else(|| Refusal::new(Reason::ApplicationNotFound, format!("the tenant has no application {named:?}")))
}

/// Refuses a change of an application whose delete was accepted.
pub(crate) fn not_deleting(application: &Application) -> Result<(), Refusal> {
    if application.deleting_since.is_none() {
        return Ok(());
    }
    let detail = format!("the application {:?} is being deleted from its clusters", application.name.as_str());
    Err(Refusal::new(Reason::ApplicationDeleting, detail))
}

/// The clusters that a request names, or the tenant's only one. Names are looked up among the tenant's placements alone,
/// so a caller cannot learn here which other clusters exist.
async fn choose_clusters(
    connection: &mut Connection,
    tenant: &Tenant,
    named: Option<&[String]>,
) -> Result<Vec<ClusterId>, ApiError> {
    let placed = placements::of_tenants(connection, &[tenant.id]).await?;
    let named =
        named.map(|named| named.iter().map(|text| resolve(&placed, text)).collect::<Result<Vec<_>, _>>()).transpose();
    let ids: Vec<ClusterId> = placed.iter().map(|placement| placement.cluster_id.clone()).collect();
    // Which of several things is wrong: no placement at all comes first.
    if ids.is_empty() {
        return Ok(application::choose_clusters(&ids, None)?);
    }
    Ok(application::choose_clusters(&ids, named?.as_deref())?)
}

fn resolve(placed: &[Placement], text: &str) -> Result<ClusterId, Refusal> {
    let reference = ClusterRef::parse(text);
    let is = |placement: &&Placement| match &reference {
        ClusterRef::Id(id) => placement.cluster_id == *id,
        ClusterRef::Name(name) => placement.cluster_name == *name,
    };
    let found = placed.iter().find(is).map(|placement| placement.cluster_id.clone());
    found.ok_or_else(|| {
        Refusal::at(Reason::NotPlaced, "/clusters", format!("the tenant is not on cluster \"{reference}\""))
    })
}
