//! `cargo dev test`: what CI runs, and the same for a filter.
//!
//! Every step that can run does, so one run shows all that is wrong; only what a failed step was
//! needed for is left out. Each test program's `test result:` line is printed,
//! and the last line counts them all.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::command::TestOptions;
use crate::count::Count;
use crate::executables::{self, Executable, Surroundings, cargo, run_cargo};
use crate::jobs;
use crate::mutants;
use crate::places::Places;
use crate::plan::{Plan, Step, about};
use crate::policy;
use crate::preflight::{self, Need};
use crate::process;
use crate::progress::{Display, Live, Progress, print, say};
use crate::servers::{self, Fleet};

/// Step names, each used in the plan and where it is run.
pub(crate) mod step {
    pub(crate) const FORMAT: &str = "format";
    pub(crate) const LINT: &str = "lint";
    pub(crate) const BUILD: &str = "build";
    pub(crate) const POLICY: &str = "policy";
    pub(crate) const TEST_BUILD: &str = "test build";
    pub(crate) const TESTS: &str = "tests";
    pub(crate) const MUTANTS: &str = "mutants";
    pub(crate) const EXAMPLES: &str = "examples";
    pub(crate) const SCENARIOS: &str = "scenarios";
}

/// `cargo dev test`.
pub(crate) fn command(places: &Places, options: &TestOptions) -> Result<ExitCode> {
    match &options.filter {
        Some(filter) => some(places, filter, options),
        None => all(places, options),
    }
}

fn all(places: &Places, options: &TestOptions) -> Result<ExitCode> {
    let fleet = Fleet::load(places)?;
    let missing = fleet.missing();
    let mut steps = code_steps(places);
    steps.extend(servers::steps(&missing));
    steps.extend(test_steps(places));
    steps.push(Step::new(step::SCENARIOS, "scenarios on real clusters, and the fleet's own tests", 2280));
    let plan = Plan { steps };
    announce("test", &plan);
    preflight::require(places, &Need { images: true, ..Need::clusters(!missing.is_empty()) })?;
    fleet.lay_out()?;

    let logs = places.new_logs("test")?;
    let mut run = Run::new(places, &logs, plan);
    let built = run.code();
    let servers = match servers::build_all(&fleet, &missing, &logs, &mut run.progress) {
        Ok(()) => true,
        Err(error) => run.failed("servers", &error),
    };
    let with = surroundings(places, &fleet);
    if built && servers && !process::stopping() {
        run.tests(&with);
        if !process::stopping() {
            let with = Surroundings { at_once: scenarios_at_once(options), aloud: true, ..with };
            run.scenarios(&with);
        }
    }
    Ok(run.close())
}

fn some(places: &Places, filter: &str, options: &TestOptions) -> Result<ExitCode> {
    let logs = places.new_logs("test")?;
    let plan = Plan { steps: vec![build_step(places), test_build_step(places)] };
    announce("test", &plan);
    preflight::require(places, &Need { build_rust: true, postgres: true, ..Need::default() })?;
    let mut progress = Progress::new(plan, Display::for_person());
    progress.step(step::BUILD, |live| build(places, &logs, live))?;
    let executables =
        progress.step(step::TEST_BUILD, |live| executables::build(places, &logs.join("test-build.log"), live))?;

    let mut chosen = Vec::new();
    let mut matches = 0;
    for executable in executables {
        let names = executables::selected(&executable, filter)?;
        matches += names.len();
        if !names.is_empty() {
            chosen.push(executable);
        }
    }
    if chosen.is_empty() {
        bail!("no test has \"{filter}\" in its name; leave the filter out to run all");
    }
    say(&format!("tests with \"{filter}\" in their names: {matches}, in programs: {}", chosen.len()));

    let mut steps = Vec::new();
    let mut missing = Vec::new();
    let mut with = Surroundings::default();
    let fleet = if chosen.iter().any(|it| it.needs_servers(places)) {
        let fleet = Fleet::load(places)?;
        missing = fleet.missing();
        // The workspace is built by now.
        let need = Need { build_rust: false, images: true, ..Need::clusters(!missing.is_empty()) };
        preflight::require(places, &need)?;
        fleet.lay_out()?;
        steps.extend(servers::steps(&missing));
        with = surroundings(places, &fleet);
        Some(fleet)
    } else {
        None
    };
    steps.push(Step::new(step::TESTS, "the tests that match", 30));
    let mut run = Run::new(places, &logs, Plan { steps });
    if let Some(fleet) = &fleet {
        servers::build_all(fleet, &missing, &logs, &mut run.progress)?;
    }
    run.executables = chosen;
    let with = Surroundings {
        filter: Some(filter.to_owned()),
        at_once: if fleet.is_some() { scenarios_at_once(options) } else { 1 },
        aloud: true,
        ..with
    };
    run.executables(step::TESTS, &with, |_| true);
    Ok(run.close())
}

/// Says what is about to happen, before anything does.
pub(crate) fn announce(command: &str, plan: &Plan) {
    say(&format!("cargo dev {command}: {} steps, about {}", plan.steps.len(), about(plan.estimate())));
    plan.lines().iter().for_each(|line| say(line));
}

/// Formatting, lints, build and policy.
pub(crate) fn code_steps(places: &Places) -> Vec<Step> {
    vec![
        Step::new(step::FORMAT, "cargo fmt --check", 2),
        Step::new(step::LINT, "cargo clippy, warnings are errors", if is_linted(places) { 30 } else { 200 }),
        build_step(places),
        Step::new(step::POLICY, "licences, bans and sources of dependencies", 5),
    ]
}

/// The tests that start no cluster.
pub(crate) fn test_steps(places: &Places) -> Vec<Step> {
    vec![
        test_build_step(places),
        Step::new(step::TESTS, "unit, property and integration tests", 60),
        Step::new(step::MUTANTS, "rules that are broken one after the other, and the tests that notice", 30),
        Step::new(step::EXAMPLES, "examples in the documentation", 15),
    ]
}

fn build_step(places: &Places) -> Step {
    Step::new(step::BUILD, "cargo build --workspace", if is_built(places) { 30 } else { 300 })
}

pub(crate) fn test_build_step(places: &Places) -> Step {
    Step::new(step::TEST_BUILD, "build every test program", if are_tests_built(places) { 40 } else { 420 })
}

/// Whether the dependencies were compiled before: whether the largest of them was. A folder of cargo's alone says nothing,
/// since `cargo dev` itself may have been built into it.
fn is_built(places: &Places) -> bool {
    compiled(places, "libk8s_openapi-").iter().any(|path| path.extension().is_some_and(|it| it == "rlib"))
}

/// Whether the dependencies were checked before for lints, which leaves metadata without code.
fn is_linted(places: &Places) -> bool {
    let compiled = compiled(places, "libk8s_openapi-");
    let metadata = compiled.iter().filter(|path| path.extension().is_some_and(|it| it == "rmeta"));
    metadata.into_iter().any(|path| !compiled.contains(&path.with_extension("rlib")))
}

/// Whether the test programs were built before: whether one of the last of them was.
fn are_tests_built(places: &Places) -> bool {
    compiled(places, "life_join-").iter().any(|path| path.extension().is_none())
}

/// What cargo compiled under a name that begins so.
fn compiled(places: &Places, name: &str) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(places.target.join("debug/deps")).into_iter().flatten().flatten();
    let begins = |path: &PathBuf| path.file_name().is_some_and(|it| it.to_string_lossy().starts_with(name));
    folder.map(|entry| entry.path()).filter(begins).collect()
}

/// Builds the workspace: the binaries that demo and scenarios start.
pub(crate) fn build(places: &Places, logs: &Path, live: &mut Live<'_>) -> Result<()> {
    let mut command = cargo(places);
    command.args(["build", "--workspace"]);
    run_cargo(&mut command, &logs.join("build.log"), live).map(|_| ()).context("the workspace does not build")
}

/// What test programs are started with.
pub(crate) fn surroundings(places: &Places, fleet: &Fleet) -> Surroundings {
    let variables = vec![("KUBENOVA_SERVERS", fleet.set()), ("KUBENOVA_BIN_DIR", places.target.join("debug"))];
    Surroundings { variables, ..Surroundings::default() }
}

/// A scenario waits about as much as it works, so two of them fill two cores.
pub(crate) const SCENARIOS_AT_ONCE: usize = 2;

fn scenarios_at_once(options: &TestOptions) -> usize {
    options.threads.map_or(SCENARIOS_AT_ONCE, std::num::NonZeroUsize::get)
}

/// A run: what it has counted and what has failed so far.
pub(crate) struct Run<'a> {
    places: &'a Places,
    logs: &'a Path,
    pub(crate) progress: Progress,
    executables: Vec<Executable>,
    count: Count,
    failures: Vec<String>,
    /// Titles of the tests that failed, each with why.
    reasons: Vec<String>,
}

impl<'a> Run<'a> {
    /// Nothing has run yet.
    pub(crate) fn new(places: &'a Places, logs: &'a Path, plan: Plan) -> Self {
        let progress = Progress::new(plan, Display::for_person());
        let (executables, count) = (Vec::new(), Count::default());
        Self { places, logs, progress, executables, count, failures: Vec::new(), reasons: Vec::new() }
    }

    /// The steps of [`code_steps`]; whether the workspace builds.
    pub(crate) fn code(&mut self) -> bool {
        let (places, logs) = (self.places, self.logs);
        self.judge(step::FORMAT, |live| {
            let mut command = cargo(places);
            command.args(["fmt", "--all", "--check"]);
            run_cargo(&mut command, &logs.join("format.log"), live).map(|_| ()).context("type `cargo fmt --all`")
        });
        self.judge(step::LINT, |live| {
            let mut command = cargo(places);
            command.args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]);
            run_cargo(&mut command, &logs.join("lint.log"), live).map(|_| ())
        });
        let built = self.judge(step::BUILD, |live| build(places, logs, live));
        self.judge(step::POLICY, |live| policy::check(places, logs, live));
        built
    }

    /// The steps of [`test_steps`]: the tests that start no cluster.
    pub(crate) fn tests(&mut self, with: &Surroundings) {
        let (places, logs) = (self.places, self.logs);
        let mut built = Vec::new();
        let log = logs.join("test-build.log");
        if !self.judge(step::TEST_BUILD, |live| executables::build(places, &log, live).map(|found| built = found)) {
            return;
        }
        self.executables = built;
        self.executables(step::TESTS, with, |executable| !executable.needs_servers(places));
        let executables = std::mem::take(&mut self.executables);
        self.judge(step::MUTANTS, |live| mutants::all(places, &executables, logs, live));
        self.executables = executables;
        let mut count = Count::default();
        self.judge(step::EXAMPLES, |live| {
            count = executables::run_examples(places, logs, live)?;
            verdict(count)
        });
        self.count.add(count);
    }

    /// The scenarios, and the fleet's own tests: what starts clusters.
    fn scenarios(&mut self, with: &Surroundings) {
        let places = self.places;
        self.executables(step::SCENARIOS, with, |executable| executable.needs_servers(places));
    }

    /// Runs the wanted test programs.
    fn executables(&mut self, step: &str, with: &Surroundings, wanted: impl Fn(&Executable) -> bool) {
        let (places, logs) = (self.places, self.logs);
        let executables: Vec<_> = self.executables.iter().filter(|executable| wanted(executable)).cloned().collect();
        if executables.is_empty() {
            // There is such a step in the plan, or there would be no call.
            let _ = self.progress.skip(step, "there are none");
            return;
        }
        let mut ended = Vec::new();
        self.judge(step, |live| {
            ended = executables::run(&executables, places, with, logs, live)?;
            verdict(jobs::total(&ended))
        });
        self.count.add(jobs::total(&ended));
        for job in ended.into_iter().filter(|job| job.count.failed > 0) {
            self.reasons.push(job.title);
            self.reasons.extend(job.reasons.iter().map(|line| format!("  {line}")));
        }
    }

    /// Runs a step and notes its failure; nothing more is begun once the run is to stop.
    fn judge(&mut self, step: &str, work: impl FnOnce(&mut Live<'_>) -> Result<()>) -> bool {
        if process::stopping() {
            return false;
        }
        match self.progress.step(step, work) {
            Ok(()) => true,
            Err(error) => self.failed(step, &error),
        }
    }

    fn failed(&mut self, step: &str, error: &anyhow::Error) -> bool {
        self.failures.push(format!("{step}: {error:#}"));
        false
    }

    /// Prints the summary; the exit code says whether all went well.
    pub(crate) fn close(self) -> ExitCode {
        print("");
        self.progress.summary().iter().for_each(print);
        for failure in &self.failures {
            print(format!("failed: {failure}"));
        }
        self.reasons.iter().for_each(print);
        if !self.failures.is_empty() || process::stopping() {
            print(format!("logs: {}", self.logs.display()));
        }
        print(format!(
            "tests: {} passed, {} failed, {} skipped",
            self.count.passed, self.count.failed, self.count.skipped
        ));
        if self.failures.is_empty() && !process::stopping() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Fails when a test did.
pub(crate) fn verdict(count: Count) -> Result<()> {
    match count.failed {
        0 => Ok(()),
        1 => bail!("1 test failed"),
        failed => bail!("{failed} tests failed"),
    }
}
