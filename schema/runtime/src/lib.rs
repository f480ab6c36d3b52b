//! What both processes share in habit: clock, randomness, backoff, shutdown, logs, probes, failpoints.
//!
//! The only place of the project that reads a clock or randomness; everything else is handed the value.

pub mod backoff;
pub mod clock;
pub mod failpoint;
pub mod probe;
pub mod random;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
