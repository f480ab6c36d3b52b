//! Builds the real servers that tests and demo use, each once, and lays them out as one set.
//!
//! Guarantees: a build appears in the cache whole or not at all (it is renamed into place); two
//! runs never build the same tool at once (a lock, which ends with its holder); what is there is
//! never built again; `go.sum` verifies every download. The set folder holds links to all tools
//! of this checkout. It is laid out before the first build, so a link that leads nowhere is a
//! server that is still being built; `sets/latest` moves only when all of them are there.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::places::Places;
use crate::plan::{Plan, Step, about};
use crate::preflight::{self, Need};
use crate::process::{self, Output, create_log};
use crate::progress::{Display, Live, Progress, print, say};
use crate::tool::{self, Chart, Tool};

/// The step that fetches the modules of all tools to be built.
const DOWNLOAD: &str = "modules";
/// Seconds to download the modules of one tool, side by side with the others, into an empty
/// module cache: all eight took half a minute.
const DOWNLOAD_ESTIMATE: u64 = 5;

/// All tools of this checkout, and which of them are built.
#[derive(Debug)]
pub(crate) struct Fleet {
    places: Places,
    tools: Vec<Tool>,
}

impl Fleet {
    /// Reads the tools. Needs Go, whose version is part of what is built.
    pub(crate) fn load(places: &Places) -> Result<Self> {
        let version = preflight::go_version()?;
        let tools = tool::read_all(&places.tools(), &version)?;
        Ok(Self { places: places.clone(), tools })
    }

    /// The tools that are not built, in the order of need.
    pub(crate) fn missing(&self) -> Vec<Tool> {
        self.tools.iter().filter(|tool| !self.folder(tool).is_dir()).cloned().collect()
    }

    /// Fails if one of the names is no tool's.
    fn know(&self, names: &[String]) -> Result<()> {
        let known: Vec<&str> = self.tools.iter().map(|tool| tool.name.as_str()).collect();
        match names.iter().find(|name| !known.contains(&name.as_str())) {
            Some(name) => bail!("there is no server \"{name}\"; there are {}", known.join(", ")),
            None => Ok(()),
        }
    }

    /// The folder with links to all tools of this checkout.
    pub(crate) fn set(&self) -> PathBuf {
        let builds: Vec<String> = self.tools.iter().map(Tool::build_name).collect();
        self.places.sets().join(tool::digest(&builds))
    }

    fn folder(&self, tool: &Tool) -> PathBuf {
        self.places.servers().join(tool.build_name())
    }

    /// Lays out the set folder: links to where each tool is or will be.
    pub(crate) fn lay_out(&self) -> Result<()> {
        let set = self.set();
        if set.is_dir() {
            return Ok(());
        }
        let sets = self.places.sets();
        create_folder(&sets)?;
        let new = sets.join(format!(".new-{}", std::process::id()));
        remove_folder(&new)?;
        create_folder(&new.join("bin"))?;
        create_folder(&new.join("charts"))?;
        for tool in &self.tools {
            let build = Path::new("../../../servers").join(tool.build_name());
            let binaries = tool.recipe.binaries.iter().map(|binary| Path::new("bin").join(&binary.name));
            let charts = tool.recipe.charts.iter().map(|chart| Path::new("charts").join(&chart.name));
            for inside in binaries.chain(charts) {
                symlink(build.join(&inside), new.join(&inside))
                    .with_context(|| format!("could not link {}", inside.display()))?;
            }
        }
        match std::fs::rename(&new, &set) {
            // Another run laid out the same set meanwhile.
            Err(_) if set.is_dir() => remove_folder(&new),
            result => result.with_context(|| format!("could not create {}", set.display())),
        }
    }

    /// Points `sets/latest` here, if everything is built.
    pub(crate) fn publish(&self) -> Result<()> {
        ensure!(self.missing().is_empty(), "not every server is built");
        let set = self.set();
        let name = set.file_name().ok_or_else(|| anyhow!("{} has no name", set.display()))?;
        let latest = self.places.sets().join("latest");
        if std::fs::read_link(&latest).is_ok_and(|target| target.as_os_str() == name) {
            return Ok(());
        }
        let new = self.places.sets().join(format!(".latest-{}", std::process::id()));
        symlink(name, &new)
            .and_then(|()| std::fs::rename(&new, &latest))
            .with_context(|| format!("could not point {} at the new set", latest.display()))
    }

    /// Downloads the modules of `tools`, side by side, and logs to `logs`.
    pub(crate) fn download(&self, tools: &[Tool], logs: &Path, live: &mut Live<'_>) -> Result<()> {
        std::thread::scope(|scope| {
            let downloads: Vec<_> = tools
                .iter()
                .map(|tool| {
                    let download =
                        scope.spawn(move || download(tool, &logs.join(format!("modules-{}.log", tool.name))));
                    (tool, download)
                })
                .collect();
            loop {
                let waiting: Vec<&str> = downloads
                    .iter()
                    .filter(|(_, download)| !download.is_finished())
                    .map(|(tool, _)| tool.name.as_str())
                    .collect();
                if waiting.is_empty() {
                    break;
                }
                live.doing(&waiting.join(", "));
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            for (tool, download) in downloads {
                match download.join() {
                    Ok(result) => result?,
                    Err(_) => bail!("the download of {} panicked", tool.name),
                }
            }
            Ok(())
        })
    }

    /// Builds one tool, unless another run has done so meanwhile.
    pub(crate) fn build(&self, tool: &Tool, logs: &Path, live: &mut Live<'_>) -> Result<()> {
        create_folder(&self.places.servers())?;
        let _lock = lock(&self.places.servers(), &tool.build_name(), live)?;
        let folder = self.folder(tool);
        if folder.is_dir() {
            return Ok(());
        }
        // The lock is ours: what lies there was left by a run that ended early.
        let new = self.places.servers().join(format!(".building-{}", tool.build_name()));
        remove_folder(&new)?;
        create_folder(&new.join("bin"))?;
        create_folder(&new.join("charts"))?;
        compile(tool, &new.join("bin"), &logs.join(format!("build-{}.log", tool.name)), live)?;
        for chart in &tool.recipe.charts {
            copy_chart(tool, chart, &new.join("charts").join(&chart.name))?;
        }
        std::fs::rename(&new, &folder).with_context(|| format!("could not move a build to {}", folder.display()))
    }
}

/// `cargo dev servers`: all that are missing, or those that are named.
pub(crate) fn command(places: &Places, plan_only: bool, names: &[String]) -> Result<ExitCode> {
    let fleet = Fleet::load(places)?;
    let mut missing = fleet.missing();
    if plan_only {
        print(overview(&fleet, &missing));
        return Ok(ExitCode::SUCCESS);
    }
    if !names.is_empty() {
        fleet.know(names)?;
        missing.retain(|tool| names.contains(&tool.name));
    }
    fleet.lay_out()?;
    if missing.is_empty() {
        say("nothing to build");
    } else {
        let plan = Plan { steps: steps(&missing) };
        say(&format!("building {} of {} servers, about {}", missing.len(), fleet.tools.len(), about(plan.estimate())));
        plan.lines().iter().for_each(|line| say(line));
        let need = Need { build_servers: true, ..Need::default() };
        preflight::require(places, &need)?;
        let logs = places.new_logs("servers")?;
        let mut progress = Progress::new(plan, Display::for_person());
        download_all(&fleet, &missing, &logs, &mut progress)?;
        build_downloaded(&fleet, &missing, &logs, &mut progress)?;
    }
    if fleet.missing().is_empty() {
        fleet.publish()?;
    }
    print(fleet.set().display().to_string());
    Ok(ExitCode::SUCCESS)
}

/// The steps that build `missing`; none if nothing is missing.
pub(crate) fn steps(missing: &[Tool]) -> Vec<Step> {
    if missing.is_empty() {
        return Vec::new();
    }
    let download = Step::network(
        DOWNLOAD,
        "download the Go modules, verified by go.sum",
        DOWNLOAD_ESTIMATE * missing.len() as u64,
    );
    let builds = missing.iter().map(|tool| Step::new(&tool.name, &tool.recipe.summary, tool.recipe.estimate_seconds));
    std::iter::once(download).chain(builds).collect()
}

/// Runs the steps of [`steps`].
pub(crate) fn build_all(fleet: &Fleet, missing: &[Tool], logs: &Path, progress: &mut Progress) -> Result<()> {
    download_all(fleet, missing, logs, progress)?;
    build_downloaded(fleet, missing, logs, progress)?;
    fleet.publish()
}

/// The first of the steps of [`steps`]: the network's.
pub(crate) fn download_all(fleet: &Fleet, missing: &[Tool], logs: &Path, progress: &mut Progress) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    progress.step(DOWNLOAD, |live| fleet.download(missing, logs, live))
}

/// The other steps of [`steps`]: the processor's.
pub(crate) fn build_downloaded(fleet: &Fleet, missing: &[Tool], logs: &Path, progress: &mut Progress) -> Result<()> {
    for tool in missing {
        progress.step(&tool.name, |live| fleet.build(tool, logs, live))?;
    }
    Ok(())
}

fn overview(fleet: &Fleet, missing: &[Tool]) -> String {
    let mut text = String::new();
    for tool in &fleet.tools {
        let state = if missing.contains(tool) {
            format!("to build, {}", about(std::time::Duration::from_secs(tool.recipe.estimate_seconds)))
        } else {
            "there".to_owned()
        };
        text.push_str(&format!("  {:<12} {state:<18} {}\n", tool.name, tool.recipe.summary));
    }
    let total = Plan { steps: steps(missing) }.estimate();
    let verdict =
        if missing.is_empty() { "nothing to do".into() } else { format!("about {} on two cores", about(total)) };
    text.push_str(&format!("{verdict}; everything goes to {}\n", fleet.places.cache.display()));
    text
}

fn download(tool: &Tool, log: &Path) -> Result<()> {
    let mut command = go(tool);
    command.args(["mod", "download"]);
    run(&mut command, log, &mut |_| {}).with_context(|| {
        format!(
            "could not download the modules of {}; see {}, check the network or GOPROXY and run again",
            tool.name,
            log.display()
        )
    })
}

/// A Go command in the tool's module that changes nothing there.
fn go(tool: &Tool) -> Command {
    let mut command = Command::new("go");
    command.current_dir(&tool.folder).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly").env("GOWORK", "off");
    command
}

fn compile(tool: &Tool, bin: &Path, log: &Path, live: &mut Live<'_>) -> Result<()> {
    let mut command = go(tool);
    command
        .args(["build", "-v", "-trimpath", "-buildvcs=false", "-ldflags"])
        .arg(format!("-s -w {}", tool.recipe.ldflags))
        .arg("-o");
    match tool.recipe.binaries.as_slice() {
        [one] => command.arg(bin.join(&one.name)),
        // A folder, written with its slash: each binary is named after its package.
        _ => command.arg(bin.join("")),
    };
    command.args(tool.recipe.binaries.iter().map(|binary| &binary.package));
    run(&mut command, log, &mut |line| live.doing(line))
        .with_context(|| format!("could not build {}; see {}", tool.name, log.display()))?;
    for binary in &tool.recipe.binaries {
        let path = bin.join(&binary.name);
        ensure!(path.is_file(), "the build of {} made no {}; see {}", tool.name, path.display(), log.display());
    }
    Ok(())
}

fn run(command: &mut Command, log: &Path, doing: &mut dyn FnMut(&str)) -> Result<()> {
    let mut file = create_log(log)?;
    let mut last = String::new();
    let status = process::watch(command, &mut file, &mut |output| match output {
        Output::Line(line) => {
            line.clone_into(&mut last);
            doing(line);
        }
        Output::Nothing => doing(""),
    })?;
    if status.success() {
        return Ok(());
    }
    if process::stopping() {
        bail!("stopped");
    }
    bail!("{}: {last}", process::ending(status))
}

fn copy_chart(tool: &Tool, chart: &Chart, to: &Path) -> Result<()> {
    let module = process::output_of(go(tool).args(["list", "-m", "-f", "{{.Dir}}", &chart.module]))
        .filter(|folder| !folder.is_empty())
        .ok_or_else(|| {
            anyhow!(
                "could not find the folder of module {}; see `go list -m` in {}",
                chart.module,
                tool.folder.display()
            )
        })?;
    let from = Path::new(&module).join(&chart.folder);
    copy_folder(&from, to)?;
    let description = to.join("Chart.yaml");
    let text =
        std::fs::read_to_string(&description).with_context(|| format!("could not read {}", description.display()))?;
    std::fs::write(&description, without_dependencies(&text))
        .with_context(|| format!("could not write {}", description.display()))?;
    let lock = to.join("Chart.lock");
    if lock.exists() {
        std::fs::remove_file(&lock).with_context(|| format!("could not remove {}", lock.display()))?;
    }
    Ok(())
}

/// A `Chart.yaml` without its `dependencies`: they are not in the module, and helm refuses to
/// render a chart whose dependencies are missing.
fn without_dependencies(chart: &str) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for line in chart.lines() {
        let top_level = line.starts_with(|c: char| !c.is_whitespace() && c != '-' && c != '#');
        if top_level {
            inside = line.starts_with("dependencies:");
        }
        if !inside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    create_folder(to)?;
    // Sorted, so that an error is the same one each time.
    let mut entries = BTreeMap::new();
    for entry in std::fs::read_dir(from).with_context(|| format!("could not list {}", from.display()))? {
        let entry = entry.with_context(|| format!("could not list {}", from.display()))?;
        entries.insert(entry.file_name(), entry.path());
    }
    for (name, path) in entries {
        let copy = to.join(name);
        if path.is_dir() {
            copy_folder(&path, &copy)?;
        } else {
            // Content only: the module cache is read-only, the copy must not be.
            let content = std::fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
            std::fs::write(&copy, content).with_context(|| format!("could not write {}", copy.display()))?;
        }
    }
    Ok(())
}

/// Takes the lock of a build; it is released when the file is closed, however this run ends.
fn lock(servers: &Path, build: &str, live: &mut Live<'_>) -> Result<File> {
    let path = servers.join(format!(".{build}.lock"));
    let file = File::create(&path).with_context(|| format!("could not create {}", path.display()))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if process::stopping() => bail!("stopped"),
            Err(TryLockError::WouldBlock) => {
                live.doing("waiting for another run that is building it");
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("could not lock {}", path.display()));
            }
        }
    }
}

fn create_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("could not create {}", path.display()))
}

fn remove_folder(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fleet of two tools, read from folders written here.
    fn fleet(root: &Path) -> Fleet {
        let places =
            Places { repository: root.join("repository"), cache: root.join("cache"), target: root.join("target") };
        for (name, order) in [("late", 2), ("early", 1)] {
            let folder = places.tools().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            let text = format!(
                "summary = 'x'\norder = {order}\nestimate_seconds = 10\n[[binary]]\npackage = 'a/{name}'\nname = '{name}'\n\
                 [[chart]]\nmodule = 'a'\nfolder = 'c'\nname = '{name}-chart'\n"
            );
            std::fs::write(folder.join("tool.toml"), text).unwrap();
        }
        let tools = tool::read_all(&places.tools(), "go1").unwrap();
        Fleet { places, tools }
    }

    fn pretend_built(fleet: &Fleet, tool: &Tool) {
        for binary in &tool.recipe.binaries {
            let path = fleet.folder(tool).join("bin").join(&binary.name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
    }

    #[test]
    fn what_is_needed_first_is_planned_first() {
        let root = tempfile::tempdir().unwrap();
        let fleet = fleet(root.path());
        let names: Vec<String> = steps(&fleet.missing()).into_iter().map(|step| step.name).collect();
        assert_eq!(names, ["modules", "early", "late"]);
        assert!(steps(&[]).is_empty());
    }

    #[test]
    fn a_link_of_the_set_leads_somewhere_once_its_tool_is_built() {
        let root = tempfile::tempdir().unwrap();
        let fleet = fleet(root.path());
        fleet.lay_out().unwrap();
        let early = fleet.set().join("bin/early");
        assert!(early.is_symlink() && !early.exists());
        assert!(fleet.set().join("charts/late-chart").is_symlink());

        pretend_built(&fleet, &fleet.tools[0]);
        assert!(early.exists());
        assert_eq!(fleet.missing().len(), 1);
        fleet.lay_out().unwrap();
    }

    #[test]
    fn latest_moves_only_when_all_are_built() {
        let root = tempfile::tempdir().unwrap();
        let fleet = fleet(root.path());
        fleet.lay_out().unwrap();
        assert!(fleet.publish().is_err());
        fleet.tools.iter().for_each(|tool| pretend_built(&fleet, tool));
        fleet.publish().unwrap();
        fleet.publish().unwrap();
        assert!(fleet.places.sets().join("latest/bin/late").exists());
    }

    #[test]
    fn dependencies_are_dropped_and_nothing_else() {
        let chart = "name: a\ndependencies:\n  - name: b\n    version: 1\n# why\n- name: c\nkeywords:\n- k\n";
        assert_eq!(without_dependencies(chart), "name: a\nkeywords:\n- k\n");
        assert_eq!(without_dependencies("name: a\n"), "name: a\n");
    }
}
