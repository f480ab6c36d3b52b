//! How Postgres carries out what a read asks for: the plan of the slowest statement, with rows and buffers, from the server's own log.

use anyhow::{Context as _, Result};
use kubenova_scenarios::platform::Platform;

/// As often as a prepared statement has plans of its own for its parameters, and a few times more: the log then shows the plan
/// that stays.
const TIMES: u64 = 8;
/// Longest statement whose plan is not of interest, in milliseconds.
const FAST_MS: u64 = 1;

/// The plan of the slowest statement of a read.
pub(crate) async fn slowest(platform: &mut Platform, path: &str) -> Result<String> {
    for setting in [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_analyze = on",
        "auto_explain.log_buffers = on",
        &format!("auto_explain.log_min_duration = {FAST_MS}"),
    ] {
        platform.postgres.query("kubenova", &format!("alter database kubenova set {setting}"))?;
    }
    // Settings of a database are for connections that begin after them.
    platform.restart_manager().await?;
    let log = platform.postgres.process().log_path();
    let before = std::fs::read_to_string(&log).context("could not read the log of Postgres")?.len();
    for _ in 0..TIMES {
        platform.rest.get(path).await?.expect(200)?;
    }
    let log = std::fs::read_to_string(&log)?;
    let entries = log.get(before..).unwrap_or_default().split("LOG:  duration: ").skip(1);
    let milliseconds = |entry: &&str| -> f64 {
        entry.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
    };
    let slowest = entries
        .filter(|entry| entry.contains("from commands"))
        .max_by(|a, b| milliseconds(a).total_cmp(&milliseconds(b)));
    Ok(slowest
        .map_or_else(|| format!("no statement about commands took {FAST_MS} ms"), |entry| entry.trim().to_owned()))
}
