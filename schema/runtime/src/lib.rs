//! What both processes share: clock, randomness, shutdown, periodic work and retries, logs, metrics, probes,
//! files and their limit, sockets to listen on, peers by address, failpoints.
//!
//! The only place of the project that reads a clock or randomness; everything else is handed the value.

pub mod clock;
pub mod random;

pub mod shutdown;
pub mod signal;

pub mod backoff;
mod failures;
pub mod periodic;
pub mod retry;

mod log_filter;
pub mod metrics;
pub mod panic_log;
pub mod probe;
pub mod telemetry;

pub mod failpoint;
pub mod file;
pub mod listen;
pub mod open_files;
pub mod peer;
pub mod tls;
