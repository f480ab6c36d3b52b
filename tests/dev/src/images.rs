//! `cargo dev images`: what the images need is built, and then they are, by a program of `tests/images`.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::demo::environment;
use crate::executables::{cargo, clear_cargo_variables, run_cargo};
use crate::places::Places;
use crate::plan::{Plan, Step};
use crate::preflight::{self, Need};
use crate::process::{self, Running};
use crate::progress::{Display, Progress};
use crate::servers::{self, Fleet};
use crate::test;

/// The programs of the images, and the one that builds them.
const PACKAGES: [&str; 3] = ["kubenova-operator", "kubenova-manager", "kubenova-images"];

/// Builds both images from release builds.
pub(crate) fn command(places: &Places, args: &[OsString]) -> Result<ExitCode> {
    if !preflight::is_root() {
        bail!("buildah needs root to build without a container engine; run this as root");
    }
    let fleet = Fleet::load(places)?;
    // helm and the components' charts come with them.
    let missing = fleet.missing();
    let mut steps = servers::steps(&missing);
    steps.push(Step::new(test::step::BUILD, "cargo build --release", 420));
    let plan = Plan { steps };
    test::announce("images", &plan);
    let need = Need { build_servers: !missing.is_empty(), build_rust: true, images: true, ..Need::default() };
    preflight::require(places, &need)?;
    fleet.lay_out()?;
    let logs = places.new_logs("images")?;
    let mut progress = Progress::new(plan, Display::for_person());
    servers::build_all(&fleet, &missing, &logs, &mut progress)?;
    progress.step(test::step::BUILD, |live| {
        let mut command = cargo(places);
        command.args(["build", "--release"]).args(PACKAGES.iter().flat_map(|package| ["--package", *package]));
        run_cargo(&mut command, &logs.join("build.log"), live).map(|_| ())
    })?;
    let mut program = Command::new(places.target.join("release/kubenova-images"));
    clear_cargo_variables(&mut program);
    program.current_dir(&places.repository).envs(environment(places, &fleet, &logs, "release")).args(args);
    Ok(process::exit_code(Running::start(&mut program)?.wait()?))
}
