//! The Operator: one process in each cluster that dials out, keeps what was ordered in the cluster's own API server, and
//! makes the cluster look like it.
//!
//! Modules in the order in which things happen: only the holder of the Lease works ([`lease`]); the cluster joins
//! ([`join`]) and opens a session ([`session`]); orders come in ([`inbound`]), are carried out ([`controllers`]), and
//! are answered for ([`outbound`]); usage is measured ([`metering`]). Every call to the API server goes through
//! [`apiserver`].

pub mod apiserver;
pub mod context;
pub mod controllers;
pub mod inbound;
pub mod join;
pub mod lease;
pub mod metering;
pub mod outbound;
pub mod session;
pub mod settings;
pub mod wiring;
