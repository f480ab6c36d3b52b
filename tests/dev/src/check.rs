//! `cargo dev check`: the part of `cargo dev test` that needs no server but PostgreSQL: formatting, lints, and the tests
//! of every package that starts no cluster.

use std::process::ExitCode;

use anyhow::Result;

use crate::executables::Surroundings;
use crate::places::Places;
use crate::plan::Plan;
use crate::preflight::{self, Need};
use crate::test::{Run, announce, code_steps, test_steps};

/// `cargo dev check`.
pub(crate) fn command(places: &Places) -> Result<ExitCode> {
    let mut steps = code_steps(places);
    steps.extend(test_steps(places));
    let plan = Plan { steps };
    announce("check", &plan);
    preflight::require(places, &Need { build_rust: true, postgres: true, ..Need::default() })?;
    let logs = places.new_logs("check")?;
    let mut run = Run::new(places, &logs, plan);
    if run.code() {
        run.tests(&Surroundings::default());
    }
    Ok(run.close())
}
