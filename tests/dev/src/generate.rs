//! `cargo dev gen`: rewrites the derived files. A test fails while any of them is stale.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::executables::cargo;
use crate::places::Places;
use crate::process::{self, Running};

/// `cargo dev gen`: only what the generator needs is built, since the rest of the workspace may
/// not compile until the files are right.
pub(crate) fn command(places: &Places, args: &[OsString]) -> Result<ExitCode> {
    let mut command = cargo(places);
    command.args(["run", "--quiet", "--package", "kubenova-gen", "--bin", "kubenova-gen", "--"]).args(args);
    let status = Running::start(&mut command)?.wait()?;
    Ok(process::exit_code(status))
}
