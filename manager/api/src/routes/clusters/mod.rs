//! Clusters: create, list, read, and a new enrollment token.

pub mod create;
pub mod enroll;
pub mod get;
pub mod list;

use kubenova_core::{
    cluster::{Cluster, ClusterRef},
    refusal::{Reason, Refusal},
};

/// The cluster, or the refusal that says there is none.
pub(crate) fn found(cluster: Option<Cluster>, named: &ClusterRef) -> Result<Cluster, Refusal> {
    cluster.ok_or_else(|| Refusal::new(Reason::ClusterNotFound, format!("there is no cluster \"{named}\"")))
}
