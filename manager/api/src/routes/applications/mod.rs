//! Applications of a tenant.

pub mod create;
pub mod document;
pub mod get;
pub mod list;
pub mod remove;
pub mod replace;
pub mod status;

use crate::error::ApiError;
use kubenova_core::{
    application::{self, Application},
    cluster::{ClusterId, ClusterRef},
    refusal::{Reason, Refusal},
    tenant::{Placement, Tenant},
};
use kubenova_store::{placements, pool::Connection};

/// The application, or the refusal that says there is none.
pub(crate) fn found(application: Option<Application>, named: &str) -> Result<Application, Refusal> {
    application
        .ok_or_else(|| Refusal::new(Reason::ApplicationNotFound, format!("the tenant has no application {named:?}")))
}

/// The clusters that a request names, or the tenant's only one. Names are looked up among the tenant's placements alone,
/// so nobody learns here which other clusters exist.
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
