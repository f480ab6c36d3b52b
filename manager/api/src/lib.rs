//! The Manager's REST API: who calls, what they ask, what they are answered.
//!
//! [`router`] is the table of contents; one endpoint a file under `routes/`. A handler reads: caller, transaction, load,
//! core decides, save and announce, commit, answer. No SQL, no rule and no Kubernetes here.

pub mod authenticate;
pub mod body;
pub mod cursor;
pub mod enrollment;
pub mod error;
pub mod idempotency;
pub mod observations;
pub mod openapi;
pub mod request_context;
pub mod response;
pub mod router;
pub mod routes;
pub mod serve;
pub mod shape;
pub mod state;
pub mod token;
pub mod views;
mod yaml;
