//! Tenants and their placements.

pub mod create;
pub mod get;
pub mod list;
pub mod place;
pub mod placements;

use crate::{error::ApiError, request_context::RequestContext};
use kubenova_core::{
    cluster::{Cluster, ClusterRef},
    refusal::{Reason, Refusal},
    tenant::{Tenant, TenantRef},
};
use kubenova_store::{clusters, connection::Connection, tenants};

/// The tenant when it exists for this caller.
pub(crate) async fn find(connection: &mut Connection, ctx: &RequestContext, named: &str) -> Result<Tenant, ApiError> {
    Ok(ctx.own(tenants::find(connection, &TenantRef::parse(named)).await?, named)?)
}

/// The same, held until the transaction ends.
pub(crate) async fn hold(connection: &mut Connection, ctx: &RequestContext, named: &str) -> Result<Tenant, ApiError> {
    Ok(ctx.own(tenants::find_for_share(connection, &TenantRef::parse(named)).await?, named)?)
}

/// The clusters with these ids or names, each once; all of them must exist and take changes.
async fn clusters_to_change(
    connection: &mut Connection,
    named: &[String],
    field: &str,
) -> Result<Vec<Cluster>, ApiError> {
    let wanted: Vec<ClusterRef> = named.iter().map(|text| ClusterRef::parse(text)).collect();
    let found = clusters::find_all(connection, &wanted).await?;
    let is = |cluster: &Cluster, wanted: &ClusterRef| match wanted {
        ClusterRef::Id(id) => cluster.id == *id,
        ClusterRef::Name(name) => cluster.name.as_str() == name,
    };
    if let Some(missing) = wanted.iter().find(|wanted| !found.iter().any(|cluster| is(cluster, wanted))) {
        let detail = format!("there is no cluster \"{missing}\"; list the clusters with GET /api/v1/clusters");
        return Err(Refusal::at(Reason::FieldInvalid, field, detail).into());
    }
    if let Some(closed) = found.iter().find(|cluster| !cluster.state.takes_changes()) {
        let detail = format!("cluster \"{}\" is {}", closed.name, closed.state.as_str());
        return Err(Refusal::at(Reason::ClusterNotUsable, field, detail).into());
    }
    Ok(found)
}
