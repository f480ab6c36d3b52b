//! Attacks on the Manager by who reports to it, each with its case of the matrix (`tests/attacks`): clusters whose keys were stolen or
//! whose owner cheats, and whoever has what stands between. The broker and the database are real.
//!
//! Needs `KUBENOVA_SERVERS`, a folder with `bin/nats-server` (made by `cargo dev servers`), and an installed PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

mod hellos;
mod reports;

use std::time::Duration;

/// Longest that anything may take here; only a failing test waits so long.
const ANSWER_MAX: Duration = Duration::from_secs(25);
/// Pause between two looks at a state that is awaited.
const LOOK: Duration = Duration::from_millis(20);
/// Two clusters.
const A: &str = "c0123456789abcdefghjkmnpqrs";
const B: &str = "c1123456789abcdefghjkmnpqrs";
