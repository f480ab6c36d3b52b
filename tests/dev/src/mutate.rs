//! `cargo dev mutants`: all mutants, or those that a filter chooses.

use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::executables;
use crate::mutants::{self, Mutant};
use crate::places::Places;
use crate::plan::{Plan, Step};
use crate::preflight::{self, Need};
use crate::progress::{Display, Progress, print};
use crate::test::{announce, step, test_build_step};

/// `cargo dev mutants`.
pub(crate) fn command(places: &Places, filter: Option<&str>) -> Result<ExitCode> {
    let table = mutants::read(places)?;
    let chosen: Vec<Mutant> =
        table.mutant.into_iter().filter(|it| filter.is_none_or(|part| it.name.contains(part))).collect();
    ensure!(!chosen.is_empty(), "no mutant has \"{}\" in its name", filter.unwrap_or_default());
    let about = format!("{} mutants, each with the test that notices it", chosen.len());
    let seconds = u64::try_from(chosen.len()).unwrap_or_default();
    let plan = Plan { steps: vec![test_build_step(places), Step::new(step::MUTANTS, &about, seconds)] };
    announce("mutants", &plan);
    preflight::require(places, &Need { build_rust: true, postgres: true, ..Need::default() })?;
    let logs = places.new_logs("mutants")?;
    let mut progress = Progress::new(plan, Display::for_person());
    let log = logs.join("test-build.log");
    let executables = progress.step(step::TEST_BUILD, |live| executables::build(places, &log, live))?;
    let missed = progress.step(step::MUTANTS, |live| mutants::run(places, &chosen, &executables, &logs, live))?;
    print(format!("mutants: {} caught / {} listed", chosen.len() - missed, chosen.len()));
    if missed > 0 {
        print(format!("logs: {}", logs.display()));
    }
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
