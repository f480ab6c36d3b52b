//! What is kept: all SQL of the Manager, one file a noun, checked against the schema at compile time.
//!
//! Functions take a connection, so that callers decide what is one transaction. A change and its outbox rows commit
//! together ([`write_tx`], [`outbox`]) or do not exist. Not found is `Option`; time and ids come in as arguments.

pub mod access;
pub mod applications;
pub mod audit;
pub mod billing;
pub mod cluster_queue;
pub mod clusters;
pub mod commands;
pub mod dead_letters;
pub mod enrollments;
pub mod error;
pub mod idempotency;
pub mod keys;
pub mod ledger;
pub mod observed;
pub mod outbox;
pub mod outcomes;
pub mod placements;
pub mod pool;
pub mod receipts;
pub mod sessions;
pub mod tenants;
pub mod windows;
pub mod wire;
pub mod write_tx;
