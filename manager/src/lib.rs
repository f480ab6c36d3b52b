//! The Manager: REST and enrollment in, signed commands out, reports in.
//!
//! `settings` and `wiring` build the parts, in the order in which data goes round: [`relay`] sends what people wish,
//! woken by [`outbox_listener`]; [`session`] answers clusters that connect; [`ingest`] takes in what they report; [`receipts`]
//! and [`billing`] tell who must hear of it. No Kubernetes client is in this crate's dependency graph.

pub mod commands;
pub mod settings;
pub mod wiring;

pub mod outbox_listener;
pub mod own_identity;

pub mod relay;
pub mod session;

pub mod ingest;

pub mod billing;
pub mod receipts;
