//! What the cluster sends: outcomes of commands, status of objects, a heartbeat.
//!
//! Outcomes and status go to a stream and count only once the server has stored them; the heartbeat is in no stream.
//! From here the data leaves the cluster: the Manager's `ingest` reads it.

pub mod heartbeat;
pub mod outcome_queue;
pub mod outcomes;
pub mod status;
pub mod status_cache;
