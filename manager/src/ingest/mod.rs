//! Reports in: from JetStream to Postgres, each acknowledged only after its commit.
//!
//! Before it: `operator/src/outbound` and `metering`. After it: REST, the ledger, billing.

mod by_cluster;
mod cluster_queues;
pub mod durable;
pub mod outcomes;
pub mod status;
pub mod usage;
