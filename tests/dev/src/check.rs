//! `cargo dev check`: the part of `cargo dev test` that needs no servers.
//!
//! A test needs servers when its package uses the test environment (`kubenova-env`); the tests
//! of all other packages run here.

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
    preflight::require(places, &Need { build_rust: true, ..Need::default() })?;
    let logs = places.new_logs("check")?;
    let mut run = Run::new(places, &logs, plan);
    if run.code() {
        run.tests(&Surroundings::default(), |executable| !executable.needs_servers());
    }
    Ok(run.close())
}
