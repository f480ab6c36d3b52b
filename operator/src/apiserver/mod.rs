//! The one door to the cluster's API server. No other module of the Operator calls a Kubernetes client.
//!
//! Thin verbs with fixed habits: server-side apply with one field manager and force, creation only when absent,
//! replacement only at a known resourceVersion, deletion only of the exact object that was seen, status written only
//! when something changed. What may be retried, and what may not, is told by [`Error`].

pub mod client;
pub mod dynamic;
pub mod error;
pub mod event;
pub mod kinds;
pub mod server;
pub mod status;
pub mod verbs;
pub mod watch;

pub mod usage;
pub mod watches;

pub use error::{Error, Verb};
