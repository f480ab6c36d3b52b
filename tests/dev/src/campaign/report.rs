//! What came out of a campaign, as `docs/benchmarks/campaign-clients.md`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::schemathesis::{Outcome, Run};
use crate::places::Places;
use crate::process;

/// One generated client that was compiled and has called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) language: &'static str,
    /// Compiler or interpreter.
    pub(crate) with: String,
    pub(crate) generator: String,
    /// The line that the client printed.
    pub(crate) printed: String,
}

/// What a campaign did.
#[derive(Debug)]
pub(crate) struct Report {
    commit: String,
    seed: u64,
    pub(crate) schemathesis: Vec<(Run, Outcome)>,
    pub(crate) callers: Vec<Caller>,
}

impl Report {
    /// Of the tree as it is now; nothing has run.
    pub(crate) fn new(places: &Places, seed: u64) -> Self {
        Self { commit: commit(places), seed, schemathesis: Vec::new(), callers: Vec::new() }
    }

    /// Writes it and returns where.
    pub(crate) fn write(&self, places: &Places) -> Result<PathBuf> {
        let path = places.repository.join("docs/benchmarks/campaign-clients.md");
        std::fs::write(&path, self.text()).with_context(|| format!("could not write {}", path.display()))?;
        Ok(path)
    }

    fn text(&self) -> String {
        let version = self.schemathesis.first().map(|(_, outcome)| outcome.schemathesis_version.as_str());
        let mut text = format!(
            "# Clients of the REST API\n\n\
             Written by `cargo dev campaign clients --seed {}` at commit {}.\n\n\
             ## schemathesis {}\n\n\
             All checks, also stateful ones, against the router on a PostgreSQL with objects of each kind. A run that finds \
             anything fails. What is left out, and why, stands in `tests/clients/schemathesis/hooks.py`.\n\n\
             | Caller | Seed | Operations | Requests | Found | Left out |\n| --- | --- | --- | --- | --- | --- |\n",
            self.seed,
            self.commit,
            version.unwrap_or_default(),
        );
        for (run, outcome) in &self.schemathesis {
            let left_out: Vec<String> =
                outcome.left_out.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            text.push_str(&format!(
                "| {} | {} | {} | {} | 0 | {} |\n",
                run.role,
                run.seed,
                outcome.operations.tested,
                outcome.test_cases.generated,
                left_out.join(", ")
            ));
        }
        text.push_str(
            "\n## Generated clients\n\n\
             Generated from `docs/openapi.json`, compiled, and run: each lists clusters, creates a tenant in a dry run and \
             really, reads the problem of a second attempt, and creates an application.\n\n\
             | Language | Generator | Compiled and run with | It printed |\n| --- | --- | --- | --- |\n",
        );
        for Caller { language, with, generator, printed } in &self.callers {
            text.push_str(&format!("| {language} | {generator} | {with} | {printed} |\n"));
        }
        text
    }
}

/// The commit, and whether files were changed since.
pub(crate) fn commit(places: &Places) -> String {
    let git = |args: &[&str]| process::output_of(Command::new("git").args(args).current_dir(&places.repository));
    let changed = git(&["status", "--porcelain"]).is_none_or(|files| !files.is_empty());
    let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    if changed { format!("{commit} with changes") } else { commit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_versions_counts_commit_and_seed() {
        let outcome = serde_json::from_str(
            r#"{ "schemathesis_version": "4.32.5", "stop_reason": "completed", "failures": [], "errors": [],
                 "operations": { "total": 28, "tested": 28 }, "test_cases": { "generated": 2663 }, "filtered": 2 }"#,
        );
        let mut outcome: Outcome = outcome.unwrap();
        outcome.left_out.insert("NOT_PLACED".into(), 2);
        let report = Report {
            commit: "67fdd5a".into(),
            seed: 7,
            schemathesis: vec![(Run { role: "admin", seed: 7 }, outcome)],
            callers: vec![Caller {
                language: "Go",
                with: "go1.26.8 linux/amd64".into(),
                generator: "oapi-codegen 2.8.2".into(),
                printed: "2 clusters".into(),
            }],
        };
        let text = report.text();
        for part in [
            "--seed 7` at commit 67fdd5a.",
            "## schemathesis 4.32.5\n",
            "| admin | 7 | 28 | 2663 | 0 | NOT_PLACED 2 |\n",
            "| Go | oapi-codegen 2.8.2 | go1.26.8 linux/amd64 | 2 clusters |\n",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
