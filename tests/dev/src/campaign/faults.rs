//! `cargo dev campaign faults`: builds the workspace and the servers, then hands over to `kubenova-campaign` (`tests/campaign`), in
//! a debug build: only there processes abort at failpoints.

use std::process::ExitCode;

use anyhow::Result;

use super::report;
use crate::command::CampaignOptions;
use crate::demo;
use crate::places::Places;
use crate::plan::{Plan, Step};
use crate::preflight::{self, Need};
use crate::process::{self, Running};
use crate::progress::{Display, Progress, print};
use crate::servers::{self, Fleet};
use crate::test;

const PROGRAM: &str = "kubenova-campaign";
const PAGE: &str = "docs/benchmarks/campaign-faults.md";
/// Seconds of a round, measured on two cores; the real cluster needs two minutes before the first.
const ROUND_ESTIMATE: u64 = 35;
const START_ESTIMATE: u64 = 120;
/// Faults of the list.
const ROUNDS: u64 = 53;

/// `cargo dev campaign faults`.
pub(crate) fn command(places: &Places, options: &CampaignOptions) -> Result<ExitCode> {
    let fleet = Fleet::load(places)?;
    let missing = fleet.missing();
    let mut steps = servers::steps(&missing);
    steps.extend(test::code_steps(places).into_iter().filter(|step| step.name == test::step::BUILD));
    let rounds = options.rounds.map_or(ROUNDS, u64::from);
    let mut plan = Plan { steps };
    let run =
        Step::new("rounds", &format!("{rounds} faults while clients write"), START_ESTIMATE + rounds * ROUND_ESTIMATE);
    if options.plan {
        plan.steps.push(run);
        plan.lines().iter().for_each(print);
        return Ok(ExitCode::SUCCESS);
    }
    test::announce("campaign faults", &Plan { steps: plan.steps.iter().cloned().chain([run]).collect() });
    preflight::require(places, &Need::clusters(!missing.is_empty()))?;
    fleet.lay_out()?;
    let logs = places.new_logs("campaign-faults")?;
    let mut progress = Progress::new(plan, Display::for_person());
    servers::build_all(&fleet, &missing, &logs, &mut progress)?;
    progress.step(test::step::BUILD, |live| test::build(places, &logs, live))?;
    let mut driver = demo::driver(places, PROGRAM)?;
    driver.envs(demo::environment(places, &fleet, &logs, "debug")).args(arguments(options));
    driver.arg("--commit").arg(report::commit(places));
    driver.arg("--report").arg(places.repository.join(PAGE));
    driver.arg("--history").arg(logs.join("history.jsonl"));
    print(format!("history: {}", logs.join("history.jsonl").display()));
    Ok(process::exit_code(Running::start(&mut driver)?.wait()?))
}

fn arguments(options: &CampaignOptions) -> Vec<String> {
    let mut arguments = vec![format!("--seed={}", options.seed)];
    arguments.extend(options.rounds.map(|rounds| format!("--rounds={rounds}")));
    arguments.extend(options.clusters.map(|clusters| format!("--clusters={clusters}")));
    arguments.extend(options.only.as_ref().map(|only| format!("--only={only}")));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_passed_on() {
        let options =
            CampaignOptions { seed: 7, clusters: Some(50), only: Some("broker".into()), ..Default::default() };
        assert_eq!(arguments(&options), ["--seed=7", "--clusters=50", "--only=broker"]);
    }
}
