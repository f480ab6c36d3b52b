//! What the cluster says: outcomes of commands, status of objects, a pulse.
//!
//! Outcomes and status go to a stream and count only once the server has stored them; the pulse is in no stream. After
//! this file the flow leaves the cluster: the Manager's `ingest` reads it.

pub mod heartbeat;
pub mod outcomes;
pub mod status;
