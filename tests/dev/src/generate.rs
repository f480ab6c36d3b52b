//! `cargo dev gen` rewrites the derived files (a test fails while any of them is stale); `cargo dev measure` prints the
//! source's measures.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::executables::cargo;
use crate::places::Places;
use crate::preflight::{self, Need};
use crate::process::{self, Running};

/// `cargo dev gen`: queries first, because the generator needs the Manager to compile. Only what each program needs is
/// built, since the rest of the workspace may not compile until the files are right.
pub(crate) fn command(places: &Places, args: &[OsString]) -> Result<ExitCode> {
    if args.is_empty() {
        preflight::require(places, &Need { postgres: true, build_rust: true, ..Need::default() })?;
        let queries = run(places, "kubenova-env", "kubenova-queries", &[])?;
        if queries != ExitCode::SUCCESS {
            return Ok(queries);
        }
    }
    run(places, "kubenova-gen", "kubenova-gen", args)
}

/// `cargo dev measure`.
pub(crate) fn measure(places: &Places, write: bool) -> Result<ExitCode> {
    let args: Vec<OsString> = write.then(|| "--write".into()).into_iter().collect();
    run(places, "kubenova-source", "kubenova-measure", &args)
}

fn run(places: &Places, package: &str, binary: &str, args: &[OsString]) -> Result<ExitCode> {
    let mut command = cargo(places);
    command.args(["run", "--quiet", "--package", package, "--bin", binary, "--"]).args(args);
    let status = Running::start(&mut command)?.wait()?;
    Ok(process::exit_code(status))
}
