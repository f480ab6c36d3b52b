//! The processes that a run starts, and how they end with it.
//!
//! Every child gets a process group of its own and no standard input. Ctrl-C and SIGTERM reach
//! this process only, which passes them on once to each group; the second one kills. So nothing
//! is signalled twice, and whatever a child started ends with it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::progress;

/// How often a waiting command lets its caller redraw.
const TICK: Duration = Duration::from_millis(200);
/// How long output is awaited after a command has ended: a server that it left running may hold
/// the pipe open for ever.
const DRAIN: Duration = Duration::from_secs(1);
/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

static STOPPING: AtomicBool = AtomicBool::new(false);
static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn groups() -> MutexGuard<'static, Vec<Pid>> {
    // A list of ids is never half changed.
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a signal has asked this run to stop.
pub(crate) fn stopping() -> bool {
    STOPPING.load(Ordering::SeqCst)
}

/// Starts passing signals on to the children. Call once, before the first child.
pub(crate) fn forward_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("could not listen for signals")?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                on_signal(signal);
            }
        })
        .context("could not start the signal thread")?;
    Ok(())
}

fn on_signal(signal: i32) {
    let repeated = STOPPING.swap(true, Ordering::SeqCst);
    let groups = groups().clone();
    if repeated || groups.is_empty() {
        for group in groups {
            // It may just have ended.
            let _ = killpg(group, Signal::SIGKILL);
        }
        progress::say("");
        std::process::exit(INTERRUPTED);
    }
    progress::say("\nstopping; once more kills");
    let signal = Signal::try_from(signal).unwrap_or(Signal::SIGTERM);
    for group in groups {
        let _ = killpg(group, signal);
    }
}

/// Asks every child to end, and starts no more.
pub(crate) fn terminate_all() {
    STOPPING.store(true, Ordering::SeqCst);
    for group in groups().iter() {
        // It may just have ended.
        let _ = killpg(*group, Signal::SIGTERM);
    }
}

/// A running child, listed for signals until it is waited for or dropped.
pub(crate) struct Running {
    child: Child,
    group: Pid,
}

impl Running {
    /// Starts `command` in a process group of its own, without standard input.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        Self::start_with(command, Stdio::null())
    }

    /// [`Running::start`] for a program that takes keys: what a person types is passed on. (A
    /// process group of its own may not read the terminal itself.)
    pub(crate) fn start_typed(command: &mut Command) -> Result<Self> {
        let mut running = Self::start_with(command, Stdio::piped())?;
        if let Some(mut keys) = running.child.stdin.take() {
            std::thread::Builder::new()
                .name("keys".into())
                .spawn(move || {
                    // Ends with either side, which needs no report.
                    let _ = std::io::copy(&mut std::io::stdin(), &mut keys);
                })
                .context("could not start the thread that passes keys on")?;
        }
        Ok(running)
    }

    fn start_with(command: &mut Command, input: Stdio) -> Result<Self> {
        let mut groups = groups();
        if stopping() {
            bail!("stopped");
        }
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(input).process_group(0).spawn().with_context(|| format!("could not start {name}"))?;
        let group = Pid::from_raw(i32::try_from(child.id()).context("a process id did not fit")?);
        groups.push(group);
        Ok(Self { child, group })
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("could not wait for a child")
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().context("could not wait for a child")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            // Left early because of an error: the group must not outlive us.
            let _ = killpg(self.group, Signal::SIGKILL);
            let _ = self.child.wait();
        }
        groups().retain(|group| *group != self.group);
    }
}

/// What happens while a command is watched.
#[derive(Debug)]
pub(crate) enum Output<'a> {
    /// A line it printed, without the line end.
    Line(&'a str),
    /// Nothing, for a while.
    Nothing,
}

/// A log that is written from its beginning.
pub(crate) fn create_log(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("could not create {}", path.display()))
}

/// Runs `command` to its end, copying both outputs to `log` and passing each line to `on_output`.
pub(crate) fn watch(
    command: &mut Command,
    log: &mut File,
    on_output: &mut dyn FnMut(Output<'_>),
) -> Result<ExitStatus> {
    let (reader, writer) = std::io::pipe().context("could not open a pipe")?;
    command.stdout(writer.try_clone().context("could not copy a pipe")?).stderr(writer);
    let started = Running::start(command);
    // The command holds the writing ends until it is changed: let go, or the reader never ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = started?;

    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n') {
            let Ok(line) = line else { break };
            let text = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(text).is_err() {
                break;
            }
        }
    });

    let mut ended: Option<(ExitStatus, Instant)> = None;
    loop {
        match lines.recv_timeout(TICK) {
            Ok(line) => {
                writeln!(log, "{line}").context("could not write to a log")?;
                on_output(Output::Line(&line));
            }
            Err(RecvTimeoutError::Timeout) => on_output(Output::Nothing),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if ended.is_none() {
            ended = running.ended()?.map(|status| (status, Instant::now()));
        }
        if ended.is_some_and(|(_, at)| at.elapsed() > DRAIN) {
            break;
        }
    }
    match ended {
        Some((status, _)) => Ok(status),
        None => running.wait(),
    }
}

/// How a command ended, for a person: `exit status 101`, `signal 9`.
pub(crate) fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".into(),
    }
}

/// The exit code that passes a child's ending on, as a shell would.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The trimmed output of a short command; `None` when it is not there or fails.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(script: &str) -> (ExitStatus, Vec<String>, String) {
        let mut log = tempfile::tempfile().unwrap();
        let mut lines = Vec::new();
        let status = watch(Command::new("sh").args(["-c", script]), &mut log, &mut |event| {
            if let Output::Line(line) = event {
                lines.push(line.to_owned());
            }
        })
        .unwrap();
        use std::io::{Read as _, Seek as _};
        log.rewind().unwrap();
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        (status, lines, text)
    }

    #[test]
    fn both_outputs_are_passed_on_and_logged() {
        let (status, lines, log) = watched("echo one; echo two >&2; exit 3");
        assert_eq!(status.code(), Some(3));
        assert_eq!(lines, ["one", "two"]);
        assert_eq!(log, "one\ntwo\n");
        assert_eq!(ending(status), "exit status 3");
    }

    #[test]
    fn a_server_left_behind_does_not_hold_us() {
        let begun = Instant::now();
        let (status, lines, _) = watched("sleep 20 & echo done");
        assert!(status.success());
        assert_eq!(lines, ["done"]);
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Running::start(&mut Command::new("no-such-program")).err().unwrap();
        assert!(error.to_string().contains("no-such-program"));
    }

    #[test]
    fn a_dropped_child_is_killed() {
        let running = Running::start(Command::new("sleep").arg("60")).unwrap();
        let group = running.group;
        drop(running);
        assert!(killpg(group, None).is_err());
    }
}
