//! The Manager's REST API: who calls, what they request, what they are answered.
//!
//! [`router`] is the table of contents; one endpoint a file under `routes/`. A handler reads: caller, transaction, load,
//! core decides, save the state and enqueue its commands, commit, answer. No SQL, no rule and no Kubernetes here.

#[cfg(test)]
mod attacks;
pub mod authenticate;
pub mod body;
mod connection_slots;
pub mod cursor;
pub mod enrollment;
pub mod enrollment_limits;
pub mod enrollment_slots;
pub mod error;
mod http_stream;
pub mod idempotency;
pub mod identity_issuer;
pub mod observations;
pub mod openapi;
pub mod problem;
pub mod renewal;
pub mod request_context;
pub mod request_id;
pub mod response;
pub mod router;
pub mod routes;
pub mod serve;
pub mod shape;
pub mod state;
#[cfg(test)]
mod testing;
pub mod token;
pub mod views;
pub mod write_slots;
mod yaml;
