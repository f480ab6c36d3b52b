//! What came out of a campaign, as a page.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use kubenova_scenarios::oracle::{Finding, Wrong};
use kubenova_scenarios::quiescence::QUIET;

use crate::round::Row;
use crate::usage::Usage;

/// Everything that the page says.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) commit: String,
    pub(crate) command: String,
    /// Simulated ones, beside the real one.
    pub(crate) clusters: usize,
    pub(crate) rows: Vec<Row>,
    pub(crate) hits: BTreeMap<String, u64>,
    /// Changes of applications that the independent watch saw.
    pub(crate) observed: u64,
    /// The Operator wrote nothing any more when everything had ended.
    pub(crate) is_quiet: bool,
    pub(crate) usage: Option<Usage>,
    pub(crate) took: Duration,
    /// What ended the campaign early.
    pub(crate) failure: Option<String>,
}

impl Report {
    /// Whether nothing was found, and everything ran.
    pub(crate) fn is_clean(&self) -> bool {
        let is_billed_once = self.usage.as_ref().is_some_and(|usage| usage.twice == 0);
        self.failure.is_none() && self.is_quiet && is_billed_once && self.findings().next().is_none()
    }

    fn findings(&self) -> impl Iterator<Item = (&Row, &Finding)> {
        self.rows.iter().flat_map(|row| row.findings.iter().map(move |finding| (row, finding)))
    }

    fn count(&self, wrong: Wrong) -> usize {
        self.findings().filter(|(_, finding)| finding.wrong == wrong).count()
    }

    /// The page.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "# Faults on real servers\n\n\
             Written by `{}` at commit {}, in {:.0} minutes.\n\n\
             PostgreSQL, NATS, two Managers (debug builds), one real cluster with Capsule and KubeVela, {} simulated ones. \
             Commands that are running are sent again after a minute instead of ten (`intervals.reportAgainAfterMs`). Four clients \
             write applications all the time. Three seconds after they begin something breaks; three seconds after it has ended \
             they stop. Then everything must end: every command, every cluster in session and holding what was accepted last. \
             What was promised is the clients' own history; what was done is read from the API server by an independent watch, and \
             from the simulated clusters. What is accepted between the beginning of a backup of PostgreSQL and its restore may be \
             lost: of such an application the cluster holds one of the writes since the last certain one, and the Manager shows the \
             same.\n\n",
            self.command,
            self.commit,
            self.took.as_secs_f64() / 60.0,
            self.clusters,
        );
        self.totals(&mut text);
        self.table(&mut text);
        self.failpoints(&mut text);
        self.violations(&mut text);
        text
    }

    fn totals(&self, text: &mut String) {
        let writes: usize = self.rows.iter().map(|row| row.writes).sum();
        let commands: usize = self.rows.iter().map(|row| row.commands).sum();
        let broken: f64 = self.rows.iter().map(|row| row.lasted.as_secs_f64()).sum();
        let rows = [
            ("faults", self.rows.len().to_string()),
            ("minutes with something broken", format!("{:.1}", broken / 60.0)),
            ("accepted writes", writes.to_string()),
            ("commands", commands.to_string()),
            ("changes seen by the independent watch", self.observed.to_string()),
            ("lost", self.count(Wrong::Lost).to_string()),
            ("doubled", self.count(Wrong::Doubled).to_string()),
            ("stale", self.count(Wrong::Stale).to_string()),
            ("out of order", self.count(Wrong::OutOfOrder).to_string()),
        ];
        text.push_str("| | |\n| --- | --- |\n");
        for (name, value) in rows {
            let _infallible = writeln!(text, "| {name} | {value} |");
        }
        let quiet = if self.is_quiet { "none" } else { "not known, or it did not end" };
        let _infallible = writeln!(
            text,
            "| writes by the Operator in {} s after the last round, but its Lease and usage | {quiet} |",
            QUIET.as_secs()
        );
        if let Some(Usage { sealed, received, rows, twice }) = &self.usage {
            let _infallible = writeln!(
                text,
                "| usage windows that the cluster holds sealed, all in the ledger | {sealed} |\n| windows received | {received} |\n\
                 | ledger rows, each one billing event | {rows} |\n| billed twice | {twice} |"
            );
        }
        if let Some(failure) = &self.failure {
            let _infallible = writeln!(text, "\nThe campaign ended early: {failure}");
        }
    }

    fn table(&self, text: &mut String) {
        text.push_str(
            "\n## Rounds\n\n`F` is the number in the [list of faults](../development.md#faults). Recovery is counted from the end \
             of the fault, with the three seconds of writing that follow it.\n\n\
             | # | Fault | F | At, s | Lasted, s | Recovered after, s | Writes | Commands | Violations |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for (index, row) in self.rows.iter().enumerate() {
            let recovered = row.recovered.map_or("not".to_owned(), seconds);
            let _infallible = writeln!(
                text,
                "| {} | {} | {} | {:.0} | {} | {recovered} | {} | {} | {} |",
                index + 1,
                row.fault,
                row.matrix,
                row.at.as_secs_f64(),
                seconds(row.lasted),
                row.writes,
                row.commands,
                row.findings.len(),
            );
        }
    }

    fn failpoints(&self, text: &mut String) {
        let hit = self.hits.values().filter(|count| **count > 0).count();
        let _infallible = write!(
            text,
            "\n## Failpoints\n\n{hit} of {} were hit.\n\n| Failpoint | Hits |\n| --- | --- |\n",
            self.hits.len()
        );
        for (point, count) in &self.hits {
            let _infallible = writeln!(text, "| `{point}` | {count} |");
        }
    }

    fn violations(&self, text: &mut String) {
        if self.findings().next().is_none() {
            return;
        }
        text.push_str("\n## Violations\n\n");
        for (row, finding) in self.findings() {
            let _infallible = writeln!(text, "- {}: {finding}", row.fault);
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: Vec<Finding>) -> Report {
        let row = Row {
            fault: "broker killed".into(),
            matrix: "F4",
            at: Duration::from_secs(3),
            lasted: Duration::from_millis(1_500),
            recovered: Some(Duration::from_secs(4)),
            writes: 20,
            commands: 19,
            findings,
        };
        Report {
            commit: "67fdd5a".into(),
            command: "cargo dev campaign faults --seed 7".into(),
            clusters: 24,
            rows: vec![row],
            hits: BTreeMap::from([("relay.published".into(), 1), ("relay.marked-sent".into(), 0)]),
            observed: 12,
            is_quiet: true,
            usage: Some(Usage { sealed: 5, received: 6, rows: 9, twice: 0 }),
            took: Duration::from_secs(120),
            failure: None,
        }
    }

    #[test]
    fn a_page_names_commit_seed_rounds_and_failpoints() {
        let report = report(Vec::new());
        let text = report.text();
        for part in [
            "`cargo dev campaign faults --seed 7` at commit 67fdd5a, in 2 minutes.",
            "| 1 | broker killed | F4 | 3 | 1.5 | 4.0 | 20 | 19 | 0 |\n",
            "| lost | 0 |\n",
            "1 of 2 were hit.",
            "| ledger rows, each one billing event | 9 |",
            "| writes by the Operator in 15 s after the last round, but its Lease and usage | none |",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(report.is_clean() && !text.contains("## Violations"));
        assert!(!Report { is_quiet: false, ..report }.is_clean());
    }

    #[test]
    fn what_was_found_is_in_the_page_and_makes_it_fail() {
        let report = report(vec![Finding::new(Wrong::Stale, "x came back")]);
        let text = report.text();
        assert!(text.contains("| stale | 1 |\n") && text.contains("- broker killed: Stale: x came back\n"), "{text}");
        assert!(!report.is_clean());
    }
}
