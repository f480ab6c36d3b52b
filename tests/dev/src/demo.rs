//! `cargo dev demo`, `up` and `bench`: builds what they need, then hands over to a driver in the foreground.
//!
//! The demo starts as soon as the broker and our own binaries are there. The cluster servers are
//! built meanwhile; `KUBENOVA_SERVERS_READY` names a file that appears when they all are, holding
//! `ok`, or `failed: …` with the reason. Until then `KUBENOVA_SERVERS_PROGRESS` names a file whose
//! only line says how far they are. Ctrl-C reaches driver and builds, once each.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::ValueEnum as _;

use crate::command::{BenchmarkName, Drive, listed};
use crate::executables::{cargo, clear_cargo_variables, run_cargo};
use crate::places::Places;
use crate::plan::{Plan, Step, about};
use crate::preflight::{self, Need};
use crate::process::{self, Running};
use crate::progress::{Display, Progress, print, say};
use crate::servers::{self, Fleet};
use crate::test;
use crate::tool::Tool;

/// The tool without which the Manager cannot start.
const BROKER: &str = "nats-server";

/// `cargo dev demo` and `up`.
pub(crate) fn command(places: &Places, drive: &Drive) -> Result<ExitCode> {
    let fleet = Fleet::load(places)?;
    let (first, later): (Vec<Tool>, Vec<Tool>) = fleet.missing().into_iter().partition(|tool| tool.name == BROKER);
    let before = before(places, &first);
    if drive.plan_only {
        print(overview(drive.verb, places, &before, &later));
        return Ok(ExitCode::SUCCESS);
    }
    say(&overview(drive.verb, places, &before, &later));
    let building = !(first.is_empty() && later.is_empty());
    preflight::require(places, &Need::clusters(building))?;
    fleet.lay_out()?;
    let logs = places.new_logs(drive.verb)?;

    let mut progress = Progress::new(before, Display::for_person());
    for tool in &first {
        progress.step(&tool.name, |live| fleet.build(tool, &logs, live))?;
    }
    let mut environment = environment(places, &fleet, &logs, "debug");
    let background = Background::start(fleet, later, &logs)?;
    let result = (|| {
        progress.step(test::step::BUILD, |live| test::build(places, &logs, live))?;
        background.rust_is_built();
        environment.push(("KUBENOVA_SERVERS_READY", background.ready.clone()));
        environment.push(("KUBENOVA_SERVERS_PROGRESS", background.progress.clone()));
        let mut driver = driver(places, drive.program)?;
        driver.envs(environment).args(&drive.args);
        let status = Running::start_typed(&mut driver)?.wait()?;
        Ok(process::exit_code(status))
    })();
    background.stop();
    result
}

/// `cargo dev bench`.
pub(crate) fn bench(places: &Places, name: Option<BenchmarkName>, args: &[OsString]) -> Result<ExitCode> {
    let Some(name) = name.and_then(|name| name.to_possible_value()) else {
        print(listed::<BenchmarkName>("cargo dev bench <name>, with one of:"));
        return Ok(ExitCode::SUCCESS);
    };
    let fleet = Fleet::load(places)?;
    let missing = fleet.missing();
    let mut steps = servers::steps(&missing);
    steps.push(Step::new(test::step::BUILD, "cargo build --release --workspace", 420));
    let plan = Plan { steps };
    test::announce("bench", &plan);
    preflight::require(places, &Need::clusters(!missing.is_empty()))?;
    fleet.lay_out()?;
    let logs = places.new_logs("bench")?;
    let mut progress = Progress::new(plan, Display::for_person());
    servers::build_all(&fleet, &missing, &logs, &mut progress)?;
    progress.step(test::step::BUILD, |live| {
        let mut command = cargo(places);
        command.args(["build", "--release", "--workspace"]);
        run_cargo(&mut command, &logs.join("build.log"), live).map(|_| ())
    })?;
    let mut driver = Command::new(places.target.join("release/kubenova-bench"));
    clear_cargo_variables(&mut driver);
    driver
        .current_dir(&places.repository)
        .envs(environment(places, &fleet, &logs, "release"))
        .arg(name.get_name())
        .args(args);
    Ok(process::exit_code(Running::start(&mut driver)?.wait()?))
}

/// What must be done before the driver can start.
fn before(places: &Places, first: &[Tool]) -> Plan {
    let mut steps: Vec<Step> =
        first.iter().map(|tool| Step::new(&tool.name, &tool.recipe.summary, tool.recipe.estimate_seconds)).collect();
    steps.extend(test::code_steps(places).into_iter().filter(|step| step.name == test::step::BUILD));
    Plan { steps }
}

fn overview(verb: &str, places: &Places, before: &Plan, later: &[Tool]) -> String {
    let mut text =
        format!("cargo dev {verb}: builds and starts Manager and hub, in about {}\n", about(before.estimate()));
    before.lines().iter().for_each(|line| text.push_str(&format!("{line}\n")));
    if later.is_empty() {
        text.push_str("the servers of the clusters are built already\n");
    } else {
        let plan = Plan { steps: servers::steps(later) };
        text.push_str(&format!(
            "meanwhile it builds the servers of the clusters, about {} more, once:\n",
            about(plan.estimate())
        ));
        plan.lines().iter().for_each(|line| text.push_str(&format!("{line}\n")));
    }
    text.push_str(&format!(
        "servers, programs and logs go to {}; cargo and go keep their own caches\n",
        places.cache.display()
    ));
    text
}

/// What a driver finds its servers and programs by.
pub(crate) fn environment(places: &Places, fleet: &Fleet, logs: &Path, profile: &str) -> Vec<(&'static str, PathBuf)> {
    vec![
        ("KUBENOVA_SERVERS", fleet.set()),
        ("KUBENOVA_BIN_DIR", places.target.join(profile)),
        ("KUBENOVA_LOGS", logs.to_path_buf()),
    ]
}

/// The driver: a binary of tests/scenarios, tests/campaign or tests/env.
pub(crate) fn driver(places: &Places, program: &str) -> Result<Command> {
    let path = places.target.join("debug").join(program);
    ensure!(
        path.is_file(),
        "{} was not built; it is a binary of tests/env, tests/scenarios or tests/campaign",
        path.display()
    );
    let mut command = Command::new(path);
    clear_cargo_variables(&mut command);
    command.current_dir(&places.repository);
    Ok(command)
}

/// Builds the servers that the driver can begin without.
struct Background {
    ready: PathBuf,
    progress: PathBuf,
    go: std::sync::mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Background {
    fn start(fleet: Fleet, missing: Vec<Tool>, logs: &Path) -> Result<Self> {
        let (go, rust_is_built) = channel();
        let (ready, progress) = (logs.join("servers-ready"), logs.join("servers-progress"));
        let (file, shown, logs) = (ready.clone(), progress.clone(), logs.to_path_buf());
        let thread = std::thread::Builder::new()
            .name("servers".into())
            .spawn(move || {
                let result = build_later(&fleet, &missing, &logs, shown, &rust_is_built);
                let text = match result {
                    Ok(()) => "ok\n".to_owned(),
                    Err(error) => format!("failed: {error:#}\n"),
                };
                if let Err(error) = appear(&file, &text) {
                    say(&format!("cargo dev: {error:#}"));
                }
            })
            .context("could not start the thread that builds servers")?;
        Ok(Self { ready, progress, go, thread })
    }

    /// Lets the builds begin; before, only downloads run, so that Rust has the cores.
    fn rust_is_built(&self) {
        // The thread may have failed already; it has said so.
        let _ = self.go.send(());
    }

    /// Ends what still runs.
    fn stop(self) {
        drop(self.go);
        process::terminate_all();
        if self.thread.join().is_err() {
            say("cargo dev: the thread that builds servers panicked");
        }
    }
}

fn build_later(
    fleet: &Fleet,
    missing: &[Tool],
    logs: &Path,
    shown: PathBuf,
    rust_is_built: &Receiver<()>,
) -> Result<()> {
    let mut progress = Progress::new(Plan { steps: servers::steps(missing) }, Display::File(shown));
    servers::download_all(fleet, missing, logs, &mut progress)?;
    rust_is_built.recv().map_err(|_| anyhow!("stopped"))?;
    servers::build_downloaded(fleet, missing, logs, &mut progress)?;
    fleet.publish()
}

/// Writes a file that appears whole.
fn appear(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)
        .and_then(|()| std::fs::rename(&new, path))
        .with_context(|| format!("could not write {}", path.display()))
}
