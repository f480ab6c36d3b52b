//! Clusters: create, list, read, change, whether they hold what they were commanded, and whether they are trusted: release from
//! quarantine, revoke, detach, undelete, purge.

pub mod change;
pub mod compare;
pub mod confirm_deletions;
pub mod create;
pub mod detach;
pub mod get;
pub mod list;
pub mod purge;
pub mod release;
pub mod revoke;
pub mod sync;
pub mod undelete;

use crate::{error::ApiError, observations::ClusterObservations, state::AppState};
use jiff::Timestamp;
use kubenova_core::{
    cluster::{Cluster, ClusterRef},
    refusal::{Reason, Refusal},
};
use kubenova_store::{clusters, connection::Connection, identities};

/// The cluster, or the refusal that says there is none.
pub(crate) fn found(cluster: Option<Cluster>, named: &ClusterRef) -> Result<Cluster, Refusal> {
    cluster.ok_or_else(|| Refusal::new(Reason::ClusterNotFound, format!("there is no cluster \"{named}\"")))
}

/// The cluster as it is after a change, with what is observed of it.
pub(crate) async fn shown(
    connection: &mut Connection,
    state: &AppState,
    now: Timestamp,
    named: &ClusterRef,
) -> Result<kubenova_api_types::clusters::Cluster, ApiError> {
    let cluster = found(clusters::find(connection, named).await?, named)?;
    let ids = std::slice::from_ref(&cluster.id);
    let observations = ClusterObservations::read(connection, state, now, ids, &[]).await?;
    let credentials = identities::of_clusters(connection, ids).await?;
    Ok(observations.cluster(&cluster, credentials.get(&cluster.id)))
}

/// The name a second time, so that no other cluster is meant by mistake. `what` completes "the cluster to ...".
pub(crate) fn check_named(cluster: &Cluster, named: &str, what: &str) -> Result<(), Refusal> {
    if named == cluster.name.as_str() {
        return Ok(());
    }
    let detail = format!("cluster is {named:?}; write the name of the cluster to {what}, \"{}\"", cluster.name);
    Err(Refusal::at(Reason::FieldInvalid, "/cluster", detail))
}

/// That the cluster is in another state than this operation is for.
pub(crate) fn wrong_state(cluster: &Cluster, expected: &str) -> Refusal {
    let detail = format!("cluster \"{}\" is {}; {expected}", cluster.name, cluster.state.as_str());
    Refusal::new(Reason::ClusterStateUnfit, detail)
}
