//! The test programs of the workspace: how they are built in one go, and how one is run.
//!
//! All are built by a single cargo call, since building packages one by one would compile shared
//! crates again with other features. They are then run here, so that unit tests come before
//! scenarios and each program has a log of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::count::Count;
use crate::jobs::{self, Ended, Job};
use crate::places::Places;
use crate::process::{self, Output, create_log};
use crate::progress::Live;

/// A test program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Executable {
    /// The folder of its package.
    pub(crate) folder: PathBuf,
    /// Its target: the crate for unit tests, the file for integration tests.
    pub(crate) target: String,
    /// The program.
    pub(crate) path: PathBuf,
}

impl Executable {
    /// Whether it starts servers other than PostgreSQL: it is below `tests` and uses the test environment, or its package
    /// says so of it in `[package.metadata] needs-servers`.
    pub(crate) fn needs_servers(&self, places: &Places) -> bool {
        let below_tests = self.folder.starts_with(places.repository.join("tests"));
        let Ok(text) = std::fs::read_to_string(self.manifest()) else { return false };
        below_tests && text.contains("kubenova-env")
            || metadata(&text).is_ok_and(|metadata| metadata.needs_servers.contains(&self.target))
    }

    fn manifest(&self) -> PathBuf {
        self.folder.join("Cargo.toml")
    }

    /// Whether it holds scenarios, which are slow and are shown as they run.
    pub(crate) fn is_scenario(&self, places: &Places) -> bool {
        self.folder == places.repository.join("tests/scenarios")
    }

    /// About how many seconds one of its tests takes, as its package's `[package.metadata.test-seconds]` says; 0 for a
    /// short one, which needs no entry.
    fn test_seconds(&self) -> Result<u64> {
        Ok(self.metadata()?.test_seconds.get(&self.target).copied().unwrap_or_default())
    }

    fn metadata(&self) -> Result<Metadata> {
        let path = self.manifest();
        let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        metadata(&text).with_context(|| format!("could not read {}", path.display()))
    }

    /// Its name for a person: package folder and target.
    pub(crate) fn title(&self, places: &Places) -> String {
        let folder = self.folder.strip_prefix(&places.repository).unwrap_or(&self.folder);
        format!("{} ({})", folder.display(), self.target)
    }
}

/// A cargo command in the repository that builds into the cache.
pub(crate) fn cargo(places: &Places) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    clear_cargo_variables(&mut command);
    command.current_dir(&places.repository).env("CARGO_TARGET_DIR", &places.target).env("CARGO_TERM_COLOR", "never");
    command
}

/// Forgets what `cargo run` said about this very program.
pub(crate) fn clear_cargo_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"].iter().any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
}

/// Runs a cargo command to its end. When it fails, its warnings and errors are shown and the log is named.
pub(crate) fn run_cargo(command: &mut Command, log: &Path, live: &mut Live<'_>) -> Result<Vec<String>> {
    let mut messages = Vec::new();
    let mut complaints = Vec::new();
    let mut file = create_log(log)?;
    let status = process::watch(command, &mut file, &mut |output| match output {
        Output::Line(line) if line.starts_with('{') => messages.push(line.to_owned()),
        Output::Line(line) => {
            live.doing(line);
            if !is_progress(line) {
                complaints.push(line.to_owned());
            }
        }
        Output::Nothing => live.tick(),
    })?;
    if process::stopping() {
        bail!("stopped");
    }
    if !status.success() {
        complaints.iter().for_each(|line| live.say(line));
        bail!("{}; see {}", process::ending(status), log.display());
    }
    Ok(messages)
}

/// Builds every test program of the workspace.
pub(crate) fn build(places: &Places, log: &Path, live: &mut Live<'_>) -> Result<Vec<Executable>> {
    let mut command = cargo(places);
    command.args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    let messages = run_cargo(&mut command, log, live)?;
    let executables: Vec<_> = messages.iter().filter_map(|message| from_message(message)).collect();
    ensure!(!executables.is_empty(), "cargo built no test program; see {}", log.display());
    Ok(executables)
}

/// The test program that a message of cargo announces, if it does.
fn from_message(message: &str) -> Option<Executable> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    Some(Executable {
        folder: Path::new(message["manifest_path"].as_str()?).parent()?.to_path_buf(),
        target: message["target"]["name"].as_str()?.to_owned(),
        path: PathBuf::from(message["executable"].as_str()?),
    })
}

/// Lines in which cargo reports its progress.
fn is_progress(line: &str) -> bool {
    const VERBS: [&str; 9] =
        ["Compiling", "Checking", "Downloading", "Downloaded", "Blocking", "Fresh", "Finished", "Updating", "Locking"];
    let first = line.trim_start().split(' ').next().unwrap_or_default();
    VERBS.contains(&first)
}

/// How tests are run.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    /// Set for the test programs.
    pub(crate) variables: Vec<(&'static str, PathBuf)>,
    /// Only tests whose name contains this.
    pub(crate) filter: Option<String>,
    /// How many jobs run at once: scenarios, and programs that start servers. From two on, one more of those that mostly wait runs
    /// beside them. Of the other programs it is one, which has threads of its own.
    pub(crate) at_once: usize,
    /// Show every line as it comes, not only the result.
    pub(crate) aloud: bool,
    /// By which transport the clusters of scenarios reach the broker; directly, and besides as their manifest says, when none.
    pub(crate) transport: Option<String>,
}

/// The names of the tests in `executable` that the filter selects.
pub(crate) fn selected(executable: &Executable, filter: &str) -> Result<Vec<String>> {
    let mut command = Command::new(&executable.path);
    command.current_dir(&executable.folder).args(["--list", "--format", "terse", filter]);
    let list = process::output_of(&mut command)
        .with_context(|| format!("could not list the tests of {}", executable.path.display()))?;
    Ok(list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Runs test programs; failures are shown in full. Each scenario runs alone in a sandbox of its own, so that nothing of
/// one is there for the next; [`Surroundings::at_once`] of them run beside each other.
pub(crate) fn run(
    executables: &[Executable],
    places: &Places,
    with: &Surroundings,
    logs: &Path,
    live: &mut Live<'_>,
) -> Result<Vec<Ended>> {
    let mut jobs = Vec::new();
    for executable in longest_first(executables)? {
        jobs.extend(jobs_of(executable, places, with, logs)?);
    }
    jobs::run(jobs, with.at_once, with.aloud, live)
}

/// The longest first, so that none of them runs on alone at the end; the others as they came.
fn longest_first(executables: &[Executable]) -> Result<Vec<&Executable>> {
    let mut ranked = executables.iter().map(|it| Ok((it.test_seconds()?, it))).collect::<Result<Vec<_>>>()?;
    ranked.sort_by_key(|(seconds, _)| std::cmp::Reverse(*seconds));
    Ok(ranked.into_iter().map(|(_, executable)| executable).collect())
}

fn metadata(manifest: &str) -> Result<Metadata> {
    let manifest: Manifest = toml::from_str(manifest)?;
    Ok(manifest.package.metadata)
}

/// What is read of a package's manifest.
#[derive(Deserialize)]
struct Manifest {
    package: Package,
}

#[derive(Deserialize)]
struct Package {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Metadata {
    test_seconds: BTreeMap<String, u64>,
    needs_servers: Vec<String>,
    /// Programs whose tests mostly wait.
    mostly_wait: Vec<String>,
    /// Transports by which the scenarios of a program run once more.
    also_by: BTreeMap<String, Vec<String>>,
}

fn jobs_of(executable: &Executable, places: &Places, with: &Surroundings, logs: &Path) -> Result<Vec<Job>> {
    let title = executable.title(places);
    let mut metadata = executable.metadata()?;
    let is_patient = metadata.mostly_wait.contains(&executable.target);
    let job = |title: String, command: Command| {
        let log = logs.join(format!("test-{}.log", title.replace(['/', ' ', '(', ')', ':'], "_")));
        Job { title, command, log, is_patient }
    };
    if !executable.is_scenario(places) {
        let mut command = test_command(&executable.path, executable, places, with);
        command.args(&with.filter);
        return Ok(vec![job(title, command)]);
    }
    let names = selected(executable, with.filter.as_deref().unwrap_or_default())?;
    let scenario = |name: &str, transport: Option<&str>| {
        let mut command = test_command(&places.target.join("debug/kubenova-sandbox"), executable, places, with);
        command.args(["--with-parent", "--"]).arg(&executable.path).args(["--exact", name, "--nocapture"]);
        command.envs(transport.map(|transport| (TRANSPORT, transport)));
        let by = transport.map(|transport| format!(" by {transport}")).unwrap_or_default();
        job(format!("{title} {name}{by}"), command)
    };
    // Whoever names a transport wants that one alone.
    let is_named = with.transport.is_some() || std::env::var_os(TRANSPORT).is_some();
    let also = metadata.also_by.remove(&executable.target).filter(|_| !is_named).unwrap_or_default();
    let first = std::iter::once(with.transport.as_deref());
    let transports: Vec<_> = first.chain(also.iter().map(|transport| Some(transport.as_str()))).collect();
    Ok(names.iter().flat_map(|name| transports.iter().map(|transport| scenario(name, *transport))).collect())
}

fn test_command(program: &Path, executable: &Executable, places: &Places, with: &Surroundings) -> Command {
    let mut command = Command::new(program);
    clear_cargo_variables(&mut command);
    command
        .current_dir(&executable.folder)
        .env("CARGO_MANIFEST_DIR", &executable.folder)
        .env("CARGO_TARGET_DIR", &places.target)
        .envs(with.variables.iter().map(|(name, value)| (*name, value)));
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        // Of panics: an error that a test returns names its causes, and where it was made leads nowhere.
        command.env("RUST_BACKTRACE", "1").env("RUST_LIB_BACKTRACE", "0");
    }
    command
}

/// By which transport the clusters of a scenario reach the broker.
const TRANSPORT: &str = "KUBENOVA_TRANSPORT";

/// Runs the examples in the documentation.
pub(crate) fn run_examples(places: &Places, logs: &Path, live: &mut Live<'_>) -> Result<Count> {
    let mut command = cargo(places);
    command.args(["test", "--workspace", "--doc", "--quiet"]);
    let job = Job {
        title: "documentation examples".to_owned(),
        command,
        log: logs.join("test-examples.log"),
        is_patient: false,
    };
    Ok(jobs::total(&jobs::run(vec![job], 1, false, live)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_programs_are_taken_from_the_messages() {
        let message = |test: bool| {
            format!(
                "{{\"reason\":\"compiler-artifact\",\"manifest_path\":\"/r/schema/bus/Cargo.toml\",\
                 \"target\":{{\"name\":\"kubenova_bus\"}},\"profile\":{{\"test\":{test}}},\"executable\":\"/t/bus-1\"}}"
            )
        };
        let found = from_message(&message(true)).unwrap();
        assert_eq!(found.folder, Path::new("/r/schema/bus"));
        assert_eq!(found.target, "kubenova_bus");
        assert_eq!(from_message(&message(false)), None);
        assert_eq!(from_message("{\"reason\":\"build-finished\"}"), None);
        assert_eq!(from_message("not json"), None);
    }

    #[test]
    fn a_manifest_says_how_long_the_tests_of_a_program_take() {
        let manifest = "[package]\nname = \"x\"\n[package.metadata.test-seconds]\nfault_hops = 190\n";
        assert_eq!(metadata(manifest).unwrap().test_seconds, BTreeMap::from([("fault_hops".to_owned(), 190)]));
        assert!(metadata("[package]\nname = \"x\"\n").unwrap().test_seconds.is_empty(), "no entry");
        let manifest = "[package]\nname = \"x\"\n[package.metadata.also-by]\nlife_whole = [\"grpc\"]\n";
        assert_eq!(metadata(manifest).unwrap().also_by["life_whole"], ["grpc"]);
        assert!(metadata("[package.metadata]\ntest-seconds = 4").is_err());
    }

    #[test]
    fn a_package_of_the_product_says_which_of_its_tests_start_servers() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = "[package]\nname = \"x\"\nmetadata.needs-servers = [\"access_list\"]\n";
        std::fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
        let path = |name: &str| folder.path().join(name);
        let places = Places { repository: path("repository"), cache: path("cache"), target: path("target") };
        let program = |target: &str| Executable {
            folder: folder.path().to_path_buf(),
            target: target.to_owned(),
            path: folder.path().join(target),
        };
        assert!(program("access_list").needs_servers(&places));
        assert!(!program("x").needs_servers(&places));
    }

    #[test]
    fn the_longest_test_programs_are_begun_first() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = "[package]\nname = \"x\"\n[package.metadata.test-seconds]\nlong = 90\nlonger = 120\n";
        std::fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
        let program = |target: &str| Executable {
            folder: folder.path().to_path_buf(),
            target: target.to_owned(),
            path: folder.path().join(target),
        };
        let programs = ["short", "long", "brief", "longer"].map(program);
        let order = longest_first(&programs).unwrap();
        assert_eq!(order.iter().map(|it| it.target.as_str()).collect::<Vec<_>>(), ["longer", "long", "short", "brief"]);
    }

    #[test]
    fn progress_is_distinguished_from_errors() {
        assert!(is_progress("   Compiling kube v5.0.0"));
        assert!(!is_progress("error[E0308]: mismatched types"));
    }
}
