//! All calls to the cluster's API server. No other module of the Operator calls a Kubernetes client.
//!
//! Thin verbs with fixed rules: server-side apply with one field manager and force, creation only when absent,
//! replacement only at a known resourceVersion, deletion only of the exact object that was read, status written only
//! when something changed. Lists and watches skip objects that cannot be decoded. [`Error`] tells what may be retried.

pub mod access;
pub mod cache;
pub mod client;
pub mod dynamic;
pub mod error;
pub mod event;
mod event_series;
pub mod kinds;
pub mod served;
pub mod server;
pub mod status;
pub mod verbs;
pub mod watch;

pub mod metered;
pub mod usage;

pub use error::{Error, Verb};
