//! The Operator: one process in each cluster that connects outward, stores commands in the cluster's own API server, and
//! makes the cluster look like them.
//!
//! Modules in flow order: only the holder of the Lease works ([`lease`]); the cluster joins ([`join`]), gives its leaf node
//! what it needs ([`leaf`]) and opens a session ([`session`]); commands are stored ([`inbound`]), carried out ([`controllers`]) and reported ([`outbound`]); usage is
//! measured ([`metering`]). An administrator may leave again ([`leave`]). Every call to the API server goes through [`apiserver`].
//! A process of its own says what is wrong ([`doctor`]).

pub mod apiserver;
pub mod context;
pub mod controllers;
pub mod doctor;
pub mod inbound;
pub mod join;
pub mod leaf;
pub mod lease;
pub mod leave;
pub mod manager_clock;
pub mod metering;
pub mod metrics;
pub mod outbound;
pub mod session;
pub mod settings;
pub mod trace;
pub mod wiring;
