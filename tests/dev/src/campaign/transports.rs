//! `cargo dev campaign transports`: every scenario by each transport that `cargo dev test` runs only some scenarios by.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::report;
use crate::command::CampaignOptions;
use crate::executables::{self, Executable, Surroundings};
use crate::jobs::{self, Ended};
use crate::places::Places;
use crate::plan::{self, Plan, Step};
use crate::preflight::{self, Need};
use crate::process;
use crate::progress::{Display, Progress, print};
use crate::servers::{self, Fleet};
use crate::test;

/// As `KUBENOVA_TRANSPORT` names them; `cargo dev test` runs everything by the other one, `nats`.
const TRANSPORTS: [&str; 3] = ["leaf", "websocket", "grpc"];
/// What it runs, by the beginnings of its names. The rest has no cluster that goes on over such a change.
const KINDS: [&str; 4] = ["life_", "fault_", "skew_", "access_"];
/// Scenarios that decide about transports themselves.
const ABOUT_TRANSPORTS: &str = "life_transports";
/// Seconds of all scenarios by one transport, on two cores.
const ESTIMATE: u64 = 1_500;
const PAGE: &str = "docs/benchmarks/campaign-transports.md";

/// `cargo dev campaign transports`.
pub(crate) fn command(places: &Places, options: &CampaignOptions) -> Result<ExitCode> {
    let fleet = Fleet::load(places)?;
    let missing = fleet.missing();
    let mut steps = servers::steps(&missing);
    steps.extend(test::code_steps(places).into_iter().filter(|step| step.name == test::step::BUILD));
    steps.push(test::test_build_step(places));
    steps.extend(TRANSPORTS.map(|by| Step::new(by, &format!("all scenarios by {by}"), ESTIMATE)));
    let plan = Plan { steps };
    if options.plan {
        plan.lines().iter().for_each(print);
        return Ok(ExitCode::SUCCESS);
    }
    test::announce("campaign transports", &plan);
    preflight::require(places, &Need::clusters(!missing.is_empty()))?;
    fleet.lay_out()?;
    let logs = places.new_logs("campaign-transports")?;
    let mut progress = Progress::new(plan, Display::for_person());
    servers::build_all(&fleet, &missing, &logs, &mut progress)?;
    progress.step(test::step::BUILD, |live| test::build(places, &logs, live))?;
    let log = logs.join("test-build.log");
    let built = progress.step(test::step::TEST_BUILD, |live| executables::build(places, &log, live))?;
    let scenarios = scenarios(built, places, options.only.as_deref())?;

    let mut ended = Vec::new();
    for by in TRANSPORTS {
        let with = Surroundings {
            at_once: test::SCENARIOS_AT_ONCE,
            transport: Some(by.to_owned()),
            filter: options.only.clone(),
            ..test::surroundings(places, &fleet)
        };
        let outcome = progress.step(by, |live| executables::run(&scenarios, places, &with, &logs, live))?;
        ended.extend(outcome);
    }
    let count = jobs::total(&ended);
    progress.summary().iter().for_each(print);
    print(format!("tests: {} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped));
    if options.only.is_none() {
        let path = places.repository.join(PAGE);
        let text = page(&report::commit(places), &ended);
        std::fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
        print(format!("written: {PAGE}"));
    }
    let is_good = count.failed == 0 && !process::stopping();
    if !is_good {
        print(format!("logs: {}", logs.display()));
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn scenarios(built: Vec<Executable>, places: &Places, only: Option<&str>) -> Result<Vec<Executable>> {
    let mut chosen = Vec::new();
    for executable in built.into_iter().filter(|it| it.is_scenario(places) && is_run(&it.target)) {
        if !executables::selected(&executable, only.unwrap_or_default())?.is_empty() {
            chosen.push(executable);
        }
    }
    anyhow::ensure!(!chosen.is_empty(), "no scenario has {only:?} in its name; leave --only out to run all");
    Ok(chosen)
}

fn is_run(target: &str) -> bool {
    target != ABOUT_TRANSPORTS && KINDS.iter().any(|kind| target.starts_with(kind))
}

fn page(commit: &str, ended: &[Ended]) -> String {
    let mut table: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
    for Ended { title, took, count, .. } in ended {
        let Some((scenario, by)) = named(title) else { continue };
        let took = plan::exactly(*took);
        let cell = if count.failed == 0 { took } else { format!("**failed**, {took}") };
        table.entry(scenario).or_default().insert(by, cell);
    }
    let count = jobs::total(ended);
    let mut text = format!(
        "# Scenarios by every transport\n\n\
         Written by `cargo dev campaign transports` at commit {commit}.\n\n\
         Each scenario that `cargo dev test` runs with clusters which reach the broker directly, once more with clusters \
         that reach it by a leaf node (a nats-server for each of them, on the hub's side of the line that scenarios cut), in a \
         WebSocket, and by the gRPC bridge. Simulated clusters have no leaf node, they go directly there. What is \
         about transports itself (`{ABOUT_TRANSPORTS}`) is not among them.\n\n\
         {} passed, {} failed.\n\n| Scenario |",
        count.passed, count.failed,
    );
    text.push_str(&format!(" {} |\n| --- |{}\n", TRANSPORTS.join(" | "), " --- |".repeat(TRANSPORTS.len())));
    for (scenario, cells) in table {
        let cells = TRANSPORTS.map(|by| cells.get(by).map_or("", String::as_str));
        text.push_str(&format!("| `{scenario}` | {} |\n", cells.join(" | ")));
    }
    text
}

/// Scenario and transport of a title as `tests/scenarios (life_join) life_join_carries_out by leaf`.
fn named(title: &str) -> Option<(&str, &str)> {
    let (_, scenario) = title.split_once(") ")?;
    scenario.split_once(" by ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::count::Count;

    #[test]
    fn scenarios_are_run_that_decide_about_no_transport() {
        assert!(is_run("life_join") && is_run("fault_kill") && is_run("skew_redelivery") && is_run("access_forgery"));
        assert!(!is_run("life_transports") && !is_run("kubenova_scenarios"));
    }

    #[test]
    fn the_page_shows_each_scenario_by_each_transport() {
        let ended = |by: &str, failed| Ended {
            title: format!("tests/scenarios (life_join) life_join_carries_out by {by}"),
            took: Duration::from_secs(61),
            count: Count { passed: 1 - failed, failed, skipped: 0 },
            reasons: Vec::new(),
        };
        let text = page("67fdd5a", &[ended("leaf", 0), ended("websocket", 1), ended("grpc", 0)]);
        for part in [
            "at commit 67fdd5a.",
            "2 passed, 1 failed.",
            "| Scenario | leaf | websocket | grpc |\n| --- | --- | --- | --- |\n",
            "| `life_join_carries_out` | 1 min 01 s | **failed**, 1 min 01 s | 1 min 01 s |\n",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
