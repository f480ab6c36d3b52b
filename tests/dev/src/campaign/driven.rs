//! Campaigns on real servers: builds the workspace and the servers, then hands over to a program of `tests/campaign`, in a debug
//! build: only there processes abort at failpoints.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::report;
use crate::demo;
use crate::places::Places;
use crate::plan::{Plan, Step};
use crate::preflight::{self, Need};
use crate::process::{self, Running};
use crate::progress::{Display, Progress, print};
use crate::servers::{self, Fleet};
use crate::test;

/// A campaign that a program carries out.
pub(crate) struct Driven {
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
    /// The page that it writes, from the root of the repository.
    pub(crate) page: &'static str,
    /// What it does once everything is built.
    pub(crate) run: Step,
    pub(crate) arguments: Vec<String>,
    /// Whether it writes a history beside the logs.
    pub(crate) has_history: bool,
}

/// Carries it out, or says what would be done.
pub(crate) fn command(places: &Places, driven: Driven, is_plan: bool) -> Result<ExitCode> {
    let Driven { name, program, page, run, arguments, has_history } = driven;
    let fleet = Fleet::load(places)?;
    let missing = fleet.missing();
    let mut steps = servers::steps(&missing);
    steps.extend(test::code_steps(places).into_iter().filter(|step| step.name == test::step::BUILD));
    let plan = Plan { steps };
    let whole = Plan { steps: plan.steps.iter().cloned().chain([run]).collect() };
    if is_plan {
        whole.lines().iter().for_each(print);
        return Ok(ExitCode::SUCCESS);
    }
    test::announce(&format!("campaign {name}"), &whole);
    preflight::require(places, &Need::clusters(!missing.is_empty()))?;
    fleet.lay_out()?;
    let logs: PathBuf = places.new_logs(&format!("campaign-{name}"))?;
    let mut progress = Progress::new(plan, Display::for_person());
    servers::build_all(&fleet, &missing, &logs, &mut progress)?;
    progress.step(test::step::BUILD, |live| test::build(places, &logs, live))?;
    let mut driver = demo::driver(places, program)?;
    driver.envs(demo::environment(places, &fleet, &logs, "debug")).args(arguments);
    driver.arg("--commit").arg(report::commit(places));
    driver.arg("--report").arg(places.repository.join(page));
    if has_history {
        driver.arg("--history").arg(logs.join("history.jsonl"));
        print(format!("history: {}", logs.join("history.jsonl").display()));
    }
    Ok(process::exit_code(Running::start(&mut driver)?.wait()?))
}
