//! All SQL of the Manager, one file a noun, checked against the schema at compile time.
//!
//! Functions take a connection, so that callers decide what is one transaction ([`pool::Store::transaction`]). A change and its
//! commands commit together ([`pool::Store::write`], [`outbox`]) or do not exist. Every function fails when Postgres does not answer;
//! doc comments name the other failures only. Not found is `Option`; time and ids come in as arguments.

pub mod access;
pub mod account_jwts;
pub mod application_removal;
pub mod applications;
pub mod audit;
pub mod audit_chain;
pub mod billing;
pub mod cluster_purge;
pub mod cluster_queue;
pub mod cluster_reports;
pub mod cluster_trust;
pub mod clusters;
pub mod command_cancel;
pub mod command_retention;
pub mod commands;
pub mod connection;
pub mod dead_letters;
pub mod deletion_confirmations;
pub mod diverged_records;
pub mod divergences;
pub mod enrollment_approvals;
pub mod enrollment_attempts;
pub mod enrollment_tokens;
pub mod enrollments;
pub mod error;
pub mod gauges;
pub mod idempotency;
pub mod identities;
pub mod keys;
pub mod ledger;
pub mod listing_exchange;
pub mod listings;
pub mod migrations;
pub mod observed;
pub mod operations;
pub mod outbox;
pub mod outbox_listener;
pub mod outbox_notification;
pub mod outcomes;
pub mod placements;
pub mod pool;
pub mod receipts;
pub mod recovery;
pub mod revocations;
pub mod rollouts;
pub mod sessions;
pub mod tenants;
mod transaction;
pub mod unclaimed_usage;
pub mod usage_conflicts;
pub mod windows;
pub mod wire;
pub mod write_tx;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod line;
