//! The programs that a campaign installs, each of a version that a file in `tests/clients` pins: into the cache, whole or
//! not at all, and once for each content of that file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::executables::cargo;
use crate::places::Places;
use crate::process::{self, Output};
use crate::progress::Live;
use crate::tool::digest;

/// Lines of a failed program that are shown; the rest is in its log.
const SHOWN: usize = 30;

/// Runs a program to its end. When it fails, the end of what it printed is shown and the log is named.
pub(crate) fn run(command: &mut Command, log: &Path, live: &mut Live<'_>) -> Result<Vec<String>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut lines: Vec<String> = Vec::new();
    let mut file: File = process::create_log(log)?;
    let status = process::watch(command, &mut file, &mut |output| match output {
        Output::Line(line) => {
            live.doing(line);
            lines.push(line.to_owned());
        }
        Output::Nothing => live.tick(),
    })?;
    if process::stopping() {
        bail!("stopped");
    }
    if !status.success() {
        lines[lines.len().saturating_sub(SHOWN)..].iter().for_each(|line| live.say(line));
        bail!("{name}: {}; see {}", process::ending(status), log.display());
    }
    Ok(lines)
}

/// The packages of a requirements file in a virtual environment; returns the folder with their programs.
pub(crate) fn python(places: &Places, name: &str, logs: &Path, live: &mut Live<'_>) -> Result<PathBuf> {
    let requirements = places.repository.join("tests/clients").join(name).join("requirements.txt");
    let pinned = std::fs::read(&requirements).with_context(|| format!("could not read {}", requirements.display()))?;
    let home = places.helpers().join(format!("{name}-{}", digest(&[pinned])));
    let programs = home.join("bin");
    // A virtual environment cannot be renamed into place: this file says that it is whole.
    let whole = home.join("whole");
    if whole.is_file() {
        return Ok(programs);
    }
    let log = |step: &str| logs.join(format!("install-{name}-{step}.log"));
    live.doing("making a virtual environment");
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home), &log("venv"), live)?;
    let mut pip = Command::new(programs.join("pip"));
    pip.args(["install", "--disable-pip-version-check", "--requirement"]).arg(&requirements);
    run(&mut pip, &log("pip"), live)?;
    std::fs::write(&whole, "").with_context(|| format!("could not write {}", whole.display()))?;
    Ok(programs)
}

/// A program from crates.io, in a debug build: it runs for a second.
pub(crate) fn rust(places: &Places, name: &str, version: &str, logs: &Path, live: &mut Live<'_>) -> Result<PathBuf> {
    let home = places.helpers().join(format!("{name}-{version}"));
    let program = home.join("bin").join(name);
    if !program.is_file() {
        let mut command = cargo(places);
        // Cargo moves the program into place when it is whole.
        command.args(["install", name, "--version", version, "--locked", "--debug", "--root"]).arg(&home);
        // Its dependencies have features of their own; beside those of the workspace they would be built in turns.
        command.env("CARGO_TARGET_DIR", places.campaigns().join("target"));
        run(&mut command, &logs.join(format!("install-{name}.log")), live)?;
    }
    Ok(program)
}
