//! `cargo dev campaign clients`: schemathesis, then a client in each of four languages that is generated from
//! `docs/openapi.json`, compiled in its language's strictest mode, and run. The programs that call are committed
//! (`tests/clients/<language>`), what is generated is not.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use super::report::{Caller, Report};
use super::schemathesis::{self, Run};
use super::server::{Served, Server};
use super::toolchain;
use crate::command::CampaignOptions;
use crate::executables::cargo;
use crate::places::Places;
use crate::plan::{Plan, Step};
use crate::preflight::{self, Need};
use crate::process;
use crate::progress::{Display, Live, Progress, print, say};
use crate::test;

/// Seconds of one run of schemathesis, measured on two cores.
const SCHEMATHESIS_ESTIMATE: u64 = 150;

/// A language in which a client is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    TypeScript,
    Python,
    Go,
    Rust,
}

impl Language {
    const ALL: [Self; 4] = [Self::TypeScript, Self::Python, Self::Go, Self::Rust];

    /// Its folder in `tests/clients`, which also names its step and its log.
    const fn folder(self) -> &'static str {
        match self {
            Self::TypeScript => "typescript",
            Self::Python => "python",
            Self::Go => "go",
            Self::Rust => "rust",
        }
    }

    /// Generates, compiles and runs.
    const fn step(self) -> (&'static str, u64) {
        match self {
            Self::TypeScript => ("openapi-typescript, tsc --strict, openapi-fetch", 30),
            Self::Python => ("openapi-python-client, mypy --strict", 60),
            Self::Go => ("oapi-codegen, go vet", 90),
            Self::Rust => ("oas3-gen, cargo build", 240),
        }
    }
}

/// `cargo dev campaign clients`.
pub(crate) fn command(places: &Places, options: &CampaignOptions) -> Result<ExitCode> {
    let plan = plan(places, options.seed);
    if options.plan {
        plan.lines().iter().for_each(print);
        return Ok(ExitCode::SUCCESS);
    }
    test::announce("campaign clients", &plan);
    preflight::require(places, &Need { postgres: true, build_rust: true, clients: true, ..Need::default() })?;
    let logs = places.new_logs("campaign-clients")?;
    let mut progress = Progress::new(plan, Display::for_person());
    let result = run(places, options.seed, &logs, &mut progress);
    progress.summary().iter().for_each(print);
    match result {
        Ok(report) => {
            let path = report.write(places)?;
            print(format!("nothing was found; see {}", path.display()));
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            say(&format!("cargo dev campaign: {error:#}"));
            print(format!("logs: {}", logs.display()));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn plan(places: &Places, seed: u64) -> Plan {
    let mut steps: Vec<Step> =
        test::code_steps(places).into_iter().filter(|step| step.name == test::step::BUILD).collect();
    let count = Run::all(seed).len();
    for run in Run::all(seed) {
        let detail = format!("requests as {} with seed {}, one run of {count}", run.role, run.seed);
        steps.push(Step::new(&run.name(), &detail, SCHEMATHESIS_ESTIMATE));
    }
    for language in Language::ALL {
        let (detail, estimate) = language.step();
        steps.push(Step::new(language.folder(), detail, estimate));
    }
    Plan { steps }
}

fn run(places: &Places, seed: u64, logs: &Path, progress: &mut Progress) -> Result<Report> {
    progress.step(test::step::BUILD, |live| test::build(places, logs, live))?;
    let mut report = Report::new(places, seed);
    for run in Run::all(seed) {
        let outcome = progress.step(&run.name(), |live| {
            let programs = toolchain::python(places, "schemathesis", logs, live)?;
            // A server each: what one run stored must not change what the next one finds.
            let server = Server::start(places, logs, &format!("{}-server", run.name()))?;
            schemathesis::run(places, &programs, &run, &server.served, logs, live)
        })?;
        report.schemathesis.push((run, outcome));
    }
    let server = Server::start(places, logs, "clients-server")?;
    for language in Language::ALL {
        let caller = progress.step(language.folder(), |live| {
            let client = Client { places, folder: workspace(places, language)?, name: language.folder(), logs, live };
            match language {
                Language::TypeScript => client.typescript(&server.served),
                Language::Python => client.python(&server.served),
                Language::Go => client.go(&server.served),
                Language::Rust => client.rust(&server.served),
            }
        })?;
        report.callers.push(caller);
    }
    Ok(report)
}

/// A copy of the language's folder in the cache, where its client is generated; what earlier runs downloaded stays.
fn workspace(places: &Places, language: Language) -> Result<PathBuf> {
    let from = places.repository.join("tests/clients").join(language.folder());
    let to = places.campaigns().join("clients").join(language.folder());
    copy(&from, &to).with_context(|| format!("could not copy {} to {}", from.display(), to.display()))?;
    Ok(to)
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (path, target) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

/// One language's client in the making.
struct Client<'a, 'l> {
    places: &'a Places,
    folder: PathBuf,
    name: &'static str,
    logs: &'a Path,
    live: &'a mut Live<'l>,
}

impl Client<'_, '_> {
    fn typescript(mut self, served: &Served) -> Result<Caller> {
        self.run("install", "npm", &["ci", "--no-audit", "--no-fund", "--ignore-scripts"])?;
        let document = self.document();
        self.run("generate", "node_modules/.bin/openapi-typescript", &[&document, "--output", "api.d.ts"])?;
        self.run("compile", "node_modules/.bin/tsc", &[])?;
        let printed = self.call(served, "node", &["out/main.js"])?;
        let generator = self.version("node_modules/.bin/openapi-typescript", &["--version"]);
        let language = format!("Node {}", self.version("node", &["--version"]));
        Ok(Caller {
            language: "TypeScript",
            with: language,
            generator: named("openapi-typescript", &generator),
            printed,
        })
    }

    fn python(mut self, served: &Served) -> Result<Caller> {
        let programs = toolchain::python(self.places, "python", self.logs, self.live)?;
        let program = |name: &str| programs.join(name).to_string_lossy().into_owned();
        let document = self.document();
        let generator = program("openapi-python-client");
        let to = ["--meta", "none", "--output-path", "kubenova_client", "--overwrite"];
        self.run("generate", &generator, &[&["generate", "--path", &document], &to[..]].concat())?;
        self.run("check", &program("mypy"), &["--strict", "main.py"])?;
        let printed = self.call(served, &program("python"), &["main.py"])?;
        let version = self.version(&generator, &["--version"]);
        let language = self.version(&program("python"), &["--version"]);
        Ok(Caller { language: "Python", with: language, generator: named("openapi-python-client", &version), printed })
    }

    fn go(mut self, served: &Served) -> Result<Caller> {
        let document = self.document();
        std::fs::create_dir_all(self.folder.join("api")).context("could not make the folder of the Go client")?;
        self.run("generate", "go", &["tool", "oapi-codegen", "-config", "generate.yaml", &document])?;
        self.run("vet", "go", &["vet", "./..."])?;
        let printed = self.call(served, "go", &["run", "."])?;
        let version = self.version("go", &["tool", "oapi-codegen", "-version"]);
        let language = preflight::go_version()?;
        Ok(Caller { language: "Go", with: language, generator: named("oapi-codegen", &version), printed })
    }

    fn rust(mut self, served: &Served) -> Result<Caller> {
        const GENERATOR: (&str, &str) = ("oas3-gen", "0.29.0");
        let program = toolchain::rust(self.places, GENERATOR.0, GENERATOR.1, self.logs, self.live)?;
        let document = self.document();
        let args = ["generate", "client-mod", "--input", &document, "--output", "src/api"];
        self.run("generate", &program.to_string_lossy(), &args)?;
        let mut build = cargo(self.places);
        build.args(["build", "--locked"]).current_dir(&self.folder).env("CARGO_TARGET_DIR", self.target());
        toolchain::run(&mut build, &self.log("compile"), self.live)?;
        let client = self.target().join("debug/kubenova-client-example").to_string_lossy().into_owned();
        let printed = self.call(served, &client, &[])?;
        let language = self.version("rustc", &["--version"]);
        Ok(Caller { language: "Rust", with: language, generator: format!("{} {}", GENERATOR.0, GENERATOR.1), printed })
    }

    /// Where Rust clients are compiled, beside the generator.
    fn target(&self) -> PathBuf {
        self.places.campaigns().join("target")
    }

    fn document(&self) -> String {
        self.places.repository.join("docs/openapi.json").to_string_lossy().into_owned()
    }

    fn log(&self, step: &str) -> PathBuf {
        self.logs.join(format!("{}-{step}.log", self.name))
    }

    fn run(&mut self, step: &str, program: &str, args: &[&str]) -> Result<()> {
        let mut command = Command::new(self.path(program));
        command.args(args).current_dir(&self.folder);
        toolchain::run(&mut command, &self.log(step), self.live)
            .map(|_| ())
            .with_context(|| format!("could not {step}"))
    }

    /// Runs the program that calls, and returns the one line it prints.
    fn call(&mut self, served: &Served, program: &str, args: &[&str]) -> Result<String> {
        let mut command = Command::new(self.path(program));
        command
            .args(args)
            .current_dir(&self.folder)
            .env("KUBENOVA_URL", &served.url)
            .env("KUBENOVA_TOKEN", served.token("admin")?)
            .env("KUBENOVA_CLUSTER", &served.cluster);
        let lines = toolchain::run(&mut command, &self.log("call"), self.live).context("the client did not succeed")?;
        lines.last().cloned().context("the client printed nothing")
    }

    fn version(&self, program: &str, args: &[&str]) -> String {
        let mut command = Command::new(self.path(program));
        let text = process::output_of(command.args(args).current_dir(&self.folder)).unwrap_or_default();
        text.lines().last().unwrap_or_default().to_owned()
    }

    /// A program below the client's folder, or one on PATH.
    fn path(&self, program: &str) -> PathBuf {
        let own = self.folder.join(program);
        if own.is_file() { own } else { program.into() }
    }
}

/// The name of a tool before what it says of its version, once.
fn named(tool: &str, version: &str) -> String {
    let number = version.split_whitespace().last().unwrap_or_default().trim_start_matches('v');
    format!("{tool} {number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_has_a_step_for_each_run_and_each_language() {
        let root = tempfile::tempdir().unwrap();
        let places =
            Places { repository: root.path().into(), cache: root.path().into(), target: root.path().join("target") };
        let plan = plan(&places, 5);
        let names: Vec<&str> = plan.steps.iter().map(|step| step.name.as_str()).collect();
        let languages = ["typescript", "python", "go", "rust"];
        assert_eq!(names[0], test::step::BUILD);
        assert_eq!(names[1], "schemathesis-admin-5");
        assert_eq!(names[names.len() - 4..], languages);
    }

    #[test]
    fn every_language_has_its_folder() {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and cargo dev set it");
        for language in Language::ALL {
            let folder = Path::new(&package).join("../clients").join(language.folder());
            assert!(folder.is_dir(), "{}", folder.display());
        }
    }

    #[test]
    fn copies_go_over_what_is_there() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        std::fs::create_dir_all(from.join("src")).unwrap();
        std::fs::create_dir_all(to.join("kept")).unwrap();
        std::fs::write(from.join("src/main"), "new").unwrap();
        copy(&from, &to).unwrap();
        std::fs::write(from.join("src/main"), "newer").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("src/main")).unwrap(), "newer");
        assert!(to.join("kept").is_dir());
    }

    #[test]
    fn versions_are_named_once() {
        assert_eq!(named("oapi-codegen", "v2.8.2"), "oapi-codegen 2.8.2");
        assert_eq!(
            named("openapi-python-client", "openapi-python-client version: 0.29.1"),
            "openapi-python-client 0.29.1"
        );
    }
}
