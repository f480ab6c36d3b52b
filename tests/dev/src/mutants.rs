//! Mutants: breaks one rule after the other and sees that a test notices.
//!
//! A debug build breaks the rule that `KUBENOVA_MUTANT` names (`schema/src/mutant.rs`). For each mutant of `tests/mutants.toml` its
//! test must pass without the variable, and fail with it: a test that fails either way would prove nothing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::executables::{self, Executable, clear_cargo_variables};
use crate::places::Places;
use crate::process::{self, Output, create_log};
use crate::progress::{Live, print};

/// Names the mutant for the program under test.
const VARIABLE: &str = "KUBENOVA_MUTANT";

/// `tests/mutants.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    pub(crate) mutant: Vec<Mutant>,
}

/// A rule that can be broken, and the test that notices.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mutant {
    pub(crate) name: String,
    /// What is wrong then, as a sentence without a full stop.
    breaks: String,
    /// Folder of the package whose unit tests hold the test.
    package: String,
    /// Its whole name.
    test: String,
}

/// The step of `cargo dev test`: every mutant is caught.
pub(crate) fn all(places: &Places, executables: &[Executable], logs: &Path, live: &mut Live<'_>) -> Result<()> {
    let table = read(places)?;
    match run(places, &table.mutant, executables, logs, live)? {
        0 => Ok(()),
        missed => bail!("{missed} of {} mutants were not caught", table.mutant.len()),
    }
}

/// Reads the table.
pub(crate) fn read(places: &Places) -> Result<Table> {
    let path = places.repository.join("tests/mutants.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("could not read {}", path.display()))
}

/// Runs them; returns how many were missed.
pub(crate) fn run(
    places: &Places,
    mutants: &[Mutant],
    executables: &[Executable],
    logs: &Path,
    live: &mut Live<'_>,
) -> Result<usize> {
    let mut missed = 0;
    for mutant in mutants {
        live.doing(&mutant.name);
        match judge(places, mutant, executables, logs, live)? {
            Verdict::Caught => print(format!("caught  {}: {} ({})", mutant.name, mutant.breaks, mutant.test)),
            Verdict::Missed => {
                missed += 1;
                print(format!("MISSED  {}: {}; {} passes all the same", mutant.name, mutant.breaks, mutant.test));
            }
            Verdict::Broken => bail!("{} fails without a mutant as well: fix it first", mutant.test),
        }
    }
    Ok(missed)
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Caught,
    Missed,
    /// The test fails anyway.
    Broken,
}

fn judge(
    places: &Places,
    mutant: &Mutant,
    executables: &[Executable],
    logs: &Path,
    live: &mut Live<'_>,
) -> Result<Verdict> {
    let folder = places.repository.join(&mutant.package);
    let held = |executable: &&Executable| {
        executable.folder == folder
            && executables::selected(executable, &mutant.test).is_ok_and(|names| names.contains(&mutant.test))
    };
    let executable = executables.iter().find(held).with_context(|| {
        format!("no test program of {} holds {}; correct tests/mutants.toml", mutant.package, mutant.test)
    })?;
    let passes = |name: Option<&str>, live: &mut Live<'_>| -> Result<bool> {
        let mut command = Command::new(&executable.path);
        clear_cargo_variables(&mut command);
        // Of two checkouts that share build results the programs may be of the other one.
        command
            .current_dir(&executable.folder)
            .env("CARGO_MANIFEST_DIR", &executable.folder)
            .env("CARGO_TARGET_DIR", &places.target)
            .env_remove(VARIABLE);
        // Else a property test that fails, as it should, writes what failed into the sources.
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        command.args(["--exact", &mutant.test]).envs(name.map(|name| (VARIABLE, name)));
        let kind = if name.is_some() { "mutant" } else { "without" };
        let mut log = create_log(&logs.join(format!("{kind}-{}.log", mutant.name)))?;
        let status = process::watch(&mut command, &mut log, &mut |output| {
            if matches!(output, Output::Nothing) {
                live.tick();
            }
        })?;
        Ok(status.success())
    };
    if !passes(None, live)? {
        return Ok(Verdict::Broken);
    }
    Ok(if passes(Some(&mutant.name), live)? { Verdict::Missed } else { Verdict::Caught })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_names_what_is_broken_and_where_it_is_noticed() {
        let text = "[[mutant]]\nname = \"a.b\"\nbreaks = \"x\"\npackage = \"schema\"\ntest = \"t\"\n";
        let table: Table = toml::from_str(text).unwrap();
        assert_eq!(table.mutant[0].name, "a.b");
        assert!(toml::from_str::<Table>("[[mutant]]\nname = \"a\"\n").is_err());
    }
}
