//! Clusters: create, list, read, change, whether they hold what they were commanded, and purge.

pub mod change;
pub mod compare;
pub mod confirm_deletions;
pub mod create;
pub mod get;
pub mod list;
pub mod purge;
pub mod sync;

use kubenova_core::{
    cluster::{Cluster, ClusterRef},
    refusal::{Reason, Refusal},
};

/// The cluster, or the refusal that says there is none.
pub(crate) fn found(cluster: Option<Cluster>, named: &ClusterRef) -> Result<Cluster, Refusal> {
    cluster.ok_or_else(|| Refusal::new(Reason::ClusterNotFound, format!("there is no cluster \"{named}\"")))
}
