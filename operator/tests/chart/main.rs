//! What the chart renders is what the Operator reads, and what sites need: many values, by the real helm.
//!
//! Needs `KUBENOVA_SERVERS`, a folder with `bin/helm` (made by `cargo dev servers`); nothing else.

mod doctor;
mod gitops;
mod monitoring;
mod pods;
mod rendered;
mod settings;
