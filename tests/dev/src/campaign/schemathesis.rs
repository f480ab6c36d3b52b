//! schemathesis: thousands of requests made from the OpenAPI document, valid and invalid, whose answers must be ones that
//! the document has. `tests/clients/schemathesis` holds its version, its settings, and what it may ignore with the reason.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::server::Served;
use super::toolchain;
use crate::places::Places;
use crate::progress::Live;

/// Seconds for one request: the server's own limit is 30.
const REQUEST_SECONDS: &str = "40";

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// The role of the caller.
    pub(crate) role: &'static str,
    /// The seed of everything random.
    pub(crate) seed: u64,
}

/// Callers: one that may do everything, and one that sees its own tenant only.
const ROLES: [&str; 2] = ["admin", "tenantOwner"];
/// Seeds for each caller.
const SEEDS: u64 = 2;

impl Run {
    /// All runs of a campaign with this seed.
    pub(crate) fn all(seed: u64) -> Vec<Self> {
        ROLES.iter().flat_map(|role| (0..SEEDS).map(move |more| Self { role, seed: seed.wrapping_add(more) })).collect()
    }

    /// Names its step and logs.
    pub(crate) fn name(&self) -> String {
        format!("schemathesis-{}-{}", self.role, self.seed)
    }
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) schemathesis_version: String,
    stop_reason: String,
    pub(crate) operations: Operations,
    pub(crate) test_cases: Cases,
    failures: Vec<Titled>,
    errors: Vec<Titled>,
    /// Findings that `hooks.py` leaves out, by its reason.
    #[serde(skip)]
    pub(crate) left_out: BTreeMap<String, u64>,
}

fn count_lines(text: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    counts
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Operations {
    total: u64,
    pub(crate) tested: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Cases {
    pub(crate) generated: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Titled {
    title: String,
    count: u64,
}

impl Outcome {
    fn read(text: &str) -> Result<Self> {
        serde_json::from_str(text).context("could not understand the report of schemathesis")
    }

    /// Fails unless every operation was tested to the end and nothing was found.
    fn judge(&self) -> Result<()> {
        let found: Vec<String> =
            self.failures.iter().chain(&self.errors).map(|one| format!("{} ({})", one.title, one.count)).collect();
        ensure!(found.is_empty(), "found: {}", found.join(", "));
        ensure!(self.stop_reason == "completed", "it stopped early: {}", self.stop_reason);
        let Operations { total, tested } = self.operations;
        ensure!(tested == total && total > 0, "{tested} of {total} operations were tested");
        ensure!(self.test_cases.generated > 0, "no request was made");
        Ok(())
    }
}

/// Runs it to its end against a server that nothing else uses.
pub(crate) fn run(
    places: &Places,
    programs: &Path,
    run: &Run,
    served: &Served,
    logs: &Path,
    live: &mut Live<'_>,
) -> Result<Outcome> {
    let folder = places.repository.join("tests/clients/schemathesis");
    let report = logs.join(format!("{}.json", run.name()));
    let left_out = logs.join(format!("{}-left-out.log", run.name()));
    std::fs::write(&left_out, "").with_context(|| format!("could not write {}", left_out.display()))?;
    let mut command = Command::new(programs.join("schemathesis"));
    command
        .arg("--config-file")
        .arg(folder.join("schemathesis.toml"))
        .arg("run")
        .arg(places.repository.join("docs/openapi.json"))
        .args(["--url", &served.url, "--seed", &run.seed.to_string(), "--request-timeout", REQUEST_SECONDS])
        .args(["--header", &format!("Authorization: Bearer {}", served.token(run.role)?)])
        .arg("--report-json-path")
        .arg(&report)
        // It keeps failing examples and a cache in the working folder.
        .current_dir(logs)
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", &folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("KUBENOVA_LEFT_OUT", &left_out);
    let ended = toolchain::run(&mut command, &logs.join(format!("{}.log", run.name())), live);
    let Ok(text) = std::fs::read_to_string(&report) else {
        ended?;
        bail!("schemathesis wrote no report to {}", report.display());
    };
    let mut outcome = Outcome::read(&text)?;
    let reasons =
        std::fs::read_to_string(&left_out).with_context(|| format!("could not read {}", left_out.display()))?;
    outcome.left_out = count_lines(&reasons);
    outcome.judge()?;
    ended?;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"{
        "schemathesis_version": "4.32.5", "command": "st run", "seed": 1, "stop_reason": "completed", "exit_code": 0,
        "operations": { "total": 28, "selected": 28, "tested": 28, "errored": 0, "skipped": 0, "skip_reasons": [] },
        "test_cases": { "generated": 2663, "with_failures": 0, "unique_failures": 0, "without_checks": 0, "errored": 0 },
        "failures": [], "errors": [], "filtered": 2 }"#;

    #[test]
    fn a_run_without_findings_over_all_operations_is_good() {
        let outcome = Outcome::read(REPORT).unwrap();
        outcome.judge().unwrap();
        assert_eq!(outcome.test_cases.generated, 2663);
    }

    #[test]
    fn what_is_left_out_is_counted_by_its_reason() {
        let counts = count_lines("NOT_PLACED\nno such cluster\nNOT_PLACED\n");
        assert_eq!(counts, BTreeMap::from([("NOT_PLACED".into(), 2), ("no such cluster".into(), 1)]));
    }

    #[test]
    fn findings_and_runs_that_did_not_test_everything_are_not() {
        for (from, to, why) in [
            (r#""failures": []"#, r#""failures": [{ "title": "Server error", "count": 3 }]"#, "Server error (3)"),
            (r#""errors": []"#, r#""errors": [{ "title": "Network Error", "count": 1 }]"#, "Network Error (1)"),
            ("\"completed\"", "\"interrupted\"", "interrupted"),
            (r#""tested": 28"#, r#""tested": 27"#, "27 of 28"),
            (r#""generated": 2663"#, r#""generated": 0"#, "no request"),
        ] {
            let error = Outcome::read(&REPORT.replace(from, to)).unwrap().judge().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(Outcome::read("{}").is_err());
    }

    #[test]
    fn each_caller_gets_each_seed() {
        let runs = Run::all(7);
        assert_eq!(runs.len(), 4);
        assert_eq!(
            (runs[0].name(), runs[3].name()),
            ("schemathesis-admin-7".into(), "schemathesis-tenantOwner-8".into())
        );
    }
}
