//! A server as a supervised child process.
//!
//! Guarantees: its output goes to a file of the run; it can be killed and started again exactly as
//! before; dropping it kills it and everything in its process group.
//! Must not: restart anything on its own. A server that ended by surprise is the scenario's news.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::poll::{self, Step};

/// A killed process is gone within milliseconds; what is not then is the kernel's business.
const GONE_MAX: Duration = Duration::from_secs(5);
/// Time between two looks at a process: who waits for its end wants to know within seconds.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How many lines of a log an error shows.
const TAIL_LINES: usize = 12;

/// What to run, and where.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    /// The name in messages and of the log file.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to ours.
    pub env: Vec<(OsString, OsString)>,
    /// The network namespace to run in; ours if absent.
    pub netns: Option<PathBuf>,
    /// Run as user 1000 of a nested user namespace (PostgreSQL refuses to run as root).
    pub as_user: bool,
    /// The working folder, which also holds the log.
    pub folder: PathBuf,
}

impl ProcessSpec {
    /// A program without arguments, in our namespaces.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, folder: &Path) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            netns: None,
            as_user: false,
            folder: folder.to_owned(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Runs in the network namespace whose file this is.
    #[must_use]
    pub fn netns(mut self, file: &Path) -> Self {
        self.netns = Some(file.to_owned());
        self
    }

    /// Runs as an ordinary user.
    #[must_use]
    pub fn as_user(mut self) -> Self {
        self.as_user = true;
        self
    }

    /// The command with its wrappers: network namespace first, then the user.
    pub fn command(&self) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(file) = &self.netns {
            let mut flag = OsString::from("--net=");
            flag.push(file);
            words.extend(["nsenter".into(), flag, "--".into()]);
        }
        if self.as_user {
            words.extend(["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"].map(Into::into));
        }
        words.push(self.program.clone().into());
        words.extend(self.args.iter().cloned());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end and returns its standard output; an error carries what it said.
    pub fn run_to_end(&self) -> Result<String> {
        let output = self.command().output().with_context(|| format!("could not start {}", self.name))?;
        if !output.status.success() {
            bail!("{} ended with {}: {}", self.name, output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Sees the end of a process without taking its exit status from its owner.
#[derive(Clone, Debug)]
pub struct ProcessWatch {
    name: String,
    pid: Pid,
    log: PathBuf,
}

impl ProcessWatch {
    /// Waits until it has ended and says so, with the path and the end of its log.
    pub async fn ended(&self) -> String {
        let mut look = tokio::time::interval(WATCH_EVERY);
        while is_alive(self.pid) {
            look.tick().await;
        }
        format!("{} ended; the end of {}:\n{}", self.name, self.log.display(), tail(&self.log, TAIL_LINES))
    }
}

/// A running (or killed, or ended) server.
#[derive(Debug)]
pub struct Process {
    spec: ProcessSpec,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts it.
    pub fn start(spec: ProcessSpec) -> Result<Self> {
        let child = spawn(&spec)?;
        Ok(Self { spec, child, ended: None })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its process id inside the sandbox.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it was started.
    pub fn spec(&self) -> &ProcessSpec {
        &self.spec
    }

    /// Its log.
    pub fn log_path(&self) -> PathBuf {
        log_path(&self.spec)
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// For whoever does not own the process and wants to know when it ends.
    pub fn watch(&self) -> ProcessWatch {
        ProcessWatch { name: self.spec.name.clone(), pid: pid(&self.child), log: self.log_path() }
    }

    /// An error with the end of the log when it is not running.
    pub fn check(&mut self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => Err(anyhow!(
                "{} ended with {status}; the end of {}:\n{}",
                self.spec.name,
                self.log_path().display(),
                tail(&self.log_path(), TAIL_LINES)
            )),
        }
    }

    /// Waits until something listens at `address` while this process runs.
    pub async fn wait_listening(&mut self, name: &str, address: SocketAddr, within: Duration) -> Result<()> {
        poll::until(format!("{name} to listen at {address}"), within, || {
            let running = self.check();
            async move {
                running?;
                let connected = TcpStream::connect_timeout(&address, Duration::from_secs(1));
                Ok(Step::from_attempt(connected.map(drop).context("no connection")))
            }
        })
        .await
    }

    /// Sends a signal to the process itself.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(pid(&self.child), signal).with_context(|| format!("could not signal {}", self.spec.name))
    }

    /// Stops it and its descendants in the middle of what they do (SIGSTOP), as a machine does that is suspended.
    pub fn pause(&self) -> Result<()> {
        self.signal_family(Signal::SIGSTOP)
    }

    /// Lets them go on (SIGCONT).
    pub fn resume(&self) -> Result<()> {
        self.signal_family(Signal::SIGCONT)
    }

    /// The process itself first: one that is stopped starts no other meanwhile.
    fn signal_family(&self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        for member in descendants(self.child.id()) {
            // It may have ended since it was listed.
            let _ = kill(member, signal);
        }
        Ok(())
    }

    /// Kills it (SIGKILL) with its process group and its descendants, and waits until all are gone:
    /// PostgreSQL's have sessions of their own, and hold its shared memory for a moment.
    pub fn kill(&mut self) {
        if self.ended().is_some() {
            return;
        }
        let family = descendants(self.child.id());
        let _ = killpg(pid(&self.child), Signal::SIGKILL);
        self.ended = self.child.wait().ok();
        for member in &family {
            let _ = kill(*member, Signal::SIGKILL);
        }
        let _ = poll::until_blocking("killed processes to be gone", GONE_MAX, || {
            let left = family.iter().filter(|member| is_alive(**member)).count();
            Ok(Step::when(left == 0, (), format!("{left} left")))
        });
    }

    /// Asks it to end (SIGTERM) and kills it when it does not within `grace`.
    pub async fn stop(&mut self, grace: Duration) -> Result<()> {
        if self.ended().is_some() {
            return Ok(());
        }
        self.signal(Signal::SIGTERM)?;
        let name = format!("{} to end", self.spec.name);
        let waited = poll::until(name, grace, || {
            let ended = self.ended().is_some();
            async move { Ok(Step::when(ended, (), "running")) }
        })
        .await;
        self.kill();
        waited
    }

    /// Starts it again, exactly as before; kills it first if it runs. The log goes on.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.child = spawn(&self.spec)?;
        self.ended = None;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(spec: &ProcessSpec) -> Result<Child> {
    let log = open_log(&log_path(spec))?;
    spec.command()
        .stdout(log.try_clone().context("could not share the log")?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("could not start {} ({})", spec.name, spec.program.display()))
}

fn log_path(spec: &ProcessSpec) -> PathBuf {
    spec.folder.join(format!("{}.log", spec.name))
}

pub(crate) fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("could not open {}", path.display()))
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

/// The processes that a process started, and those that they started.
fn descendants(parent: u32) -> Vec<Pid> {
    let mut found = Vec::new();
    let mut parents = vec![parent];
    while let Some(parent) = parents.pop() {
        let children = format!("/proc/{parent}/task/{parent}/children");
        for child in fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            if let (Ok(id), Ok(pid)) = (child.parse(), child.parse()) {
                parents.push(id);
                found.push(Pid::from_raw(pid));
            }
        }
    }
    found
}

/// Whether a process still runs; one that only waits to be reaped does not.
fn is_alive(member: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{member}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// The last lines of a file, for messages.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_server_is_reported_with_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let spec = ProcessSpec::new("liar", "/bin/sh", folder.path()).args(["-c", "echo no such port; exit 3"]);
        let mut process = Process::start(spec).unwrap();
        process.child.wait().unwrap();
        let error = process.check().expect_err("it ended").to_string();
        assert!(error.contains("exit status: 3") && error.contains("no such port"), "{error}");
    }

    #[test]
    fn dropping_kills_descendants_also_in_sessions_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let spec =
            ProcessSpec::new("parent", "/bin/sh", folder.path()).args(["-c", "setsid sleep 1000 & echo $! ; wait"]);
        let process = Process::start(spec).unwrap();
        let log = process.log_path();
        let grandchild: i32 = poll::until_blocking("the grandchild's pid", Duration::from_secs(5), || {
            let text = fs::read_to_string(&log)?;
            Ok(Step::from_attempt(text.trim().parse().context("not printed yet")))
        })
        .unwrap();
        drop(process);
        assert!(!is_alive(Pid::from_raw(grandchild)));
    }

    #[test]
    fn a_paused_server_and_its_descendants_do_nothing_until_they_are_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let spec = ProcessSpec::new("x", "/bin/sh", folder.path()).args(["-c", "sleep 60 & wait"]);
        let process = Process::start(spec).unwrap();
        let family = poll::until_blocking("a grandchild", GONE_MAX, || {
            let family = descendants(process.pid());
            Ok(Step::when(!family.is_empty(), family, "none yet"))
        });
        let family = [family.unwrap(), vec![pid(&process.child)]].concat();
        let all = |state: &str| {
            poll::until_blocking("a state of all", GONE_MAX, || {
                let stat = |member: &Pid| fs::read_to_string(format!("/proc/{member}/stat")).unwrap();
                let is_so = family.iter().all(|member| stat(member).contains(&format!(") {state} ")));
                Ok(Step::when(is_so, (), "another"))
            })
        };
        process.pause().unwrap();
        all("T").unwrap();
        process.resume().unwrap();
        all("S").unwrap();
    }

    #[test]
    fn wrappers_come_in_order() {
        let spec = ProcessSpec::new("x", "/bin/true", Path::new("/")).netns(Path::new("/f")).as_user();
        let command = spec.command();
        let words: Vec<_> =
            std::iter::once(command.get_program()).chain(command.get_args()).map(|w| w.to_string_lossy()).collect();
        assert_eq!(words.join(" "), "nsenter --net=/f -- unshare --user --map-user=1000 --map-group=1000 -- /bin/true");
    }
}
