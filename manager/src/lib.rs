//! The Manager: REST and enrollment in, signed commands out, reports in.
//!
//! `settings` and `wiring` build the parts, in the order in which data flows: [`http`] observes requests, [`relay`] sends
//! the commands they wrote, woken by [`outbox_listener`]; [`session`] answers clusters that connect; [`ingest`] stores what
//! they report; [`receipts`] and [`billing`] pass on what is in the ledger; [`audit_log`] links audit records; [`accounts`] tells the broker whom
//! to refuse; [`rollouts`] brings changes of components to many clusters; [`key_changes`] puts rotated keys into use; [`expiry`] deletes old rows. No Kubernetes client is in this crate's
//! dependency graph.

pub mod commands;
pub mod settings;
pub mod wiring;

pub mod http;
pub mod metrics;
pub mod own_identity;

pub mod accounts;
pub mod key_changes;

pub mod outbox_listener;
pub mod relay;
pub mod session;

pub mod ingest;

pub mod billing;
pub mod receipts;

pub mod rollouts;

pub mod audit_log;
pub mod expiry;
