//! The Manager's REST API: who calls, what they ask, what they are answered.
//!
//! [`router`] is the table of contents; one endpoint a file under `routes/`. A handler reads: caller, transaction, load,
//! core decides, save and announce, commit, answer. No SQL, no rule and no Kubernetes here.

pub mod answer;
pub mod ask;
pub mod body;
pub mod cursor;
pub mod enrollment;
pub mod error;
pub mod heard;
pub mod identify;
pub mod openapi;
pub mod repeat;
pub mod router;
pub mod routes;
pub mod serve;
pub mod show;
pub mod state;
pub mod token;
