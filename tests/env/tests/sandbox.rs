//! The sandbox from outside: how it ends, and that nothing outlives it.
//!
//! These tests need namespaces and nothing else, so they start the sandbox themselves.

use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use kubenova_env::poll::{self, Step};

const SANDBOX: &str = env!("CARGO_BIN_EXE_kubenova-sandbox");
const SOON: Duration = Duration::from_secs(20);

/// A folder for runs, so that parallel tests do not see each other's.
struct Runs {
    folder: tempfile::TempDir,
}

impl Runs {
    fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir()? })
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new(SANDBOX);
        command
            .env("KUBENOVA_RUNS", self.folder.path())
            .env_remove("KUBENOVA_SANDBOX_RUN")
            .env_remove("KUBENOVA_KEEP")
            .args(["--", "/bin/sh", "-c", script])
            .stdin(Stdio::null());
        command
    }

    fn run(&self, script: &str) -> Result<Output> {
        self.command(script).output().context("could not start the sandbox")
    }

    fn left(&self) -> Result<Vec<PathBuf>> {
        Ok(fs::read_dir(self.folder.path())?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?)
    }
}

/// Every process on this machine whose command line holds `mark`.
fn processes_with(mark: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(mark))
        .collect()
}

fn wait_gone(mark: &str) -> Result<()> {
    poll::until_blocking("the sandbox's processes to end", SOON, || {
        let left = processes_with(mark);
        Ok(Step::when(left.is_empty(), (), format!("{left:?}")))
    })
}

/// Waits for `sleep <mark>` processes themselves, not for command lines that only mention them.
fn wait_sleeping(mark: &str, at_least: usize) -> Result<()> {
    let exactly = format!("sleep {mark} ");
    poll::until_blocking("the sandbox's processes to start", SOON, || {
        let there = processes_with(mark).iter().filter(|line| **line == exactly).count();
        Ok(Step::when(there >= at_least, (), format!("{there}")))
    })
}

fn is_a_mount_point_here(folder: &Path) -> Result<bool> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?.contains(&folder.display().to_string()))
}

fn signal(child: &Child, name: &str) -> Result<()> {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status()?;
    anyhow::ensure!(status.success(), "could not send {name}");
    Ok(())
}

#[test]
fn what_is_typed_reaches_the_program() {
    let runs = Runs::new().unwrap();
    let mut command = runs.command("read -r key && echo \"pressed $key\"");
    let mut child = Command::new(SANDBOX)
        .arg("--typed")
        .args(command.get_args())
        .env("KUBENOVA_RUNS", runs.folder.path())
        .env_remove("KUBENOVA_SANDBOX_RUN")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"u\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "pressed u\n");
    // And without the flag there is nothing to read.
    assert!(!command.status().unwrap().success());
}

#[test]
fn a_run_that_succeeds_leaves_nothing() -> Result<()> {
    let runs = Runs::new()?;
    let output = runs.run("echo inside; touch \"$KUBENOVA_SANDBOX_RUN/file\"")?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "inside\n");
    assert_eq!(runs.left()?, Vec::<PathBuf>::new());
    Ok(())
}

#[test]
fn a_run_that_fails_keeps_its_folder_and_says_where() -> Result<()> {
    let runs = Runs::new()?;
    let output = runs.run("exit 7")?;
    assert_eq!(output.status.code(), Some(7));
    let left = runs.left()?;
    assert_eq!(left.len(), 1);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&left[0].display().to_string()), "{said}");
    Ok(())
}

#[test]
fn inside_is_a_network_of_its_own_with_the_names_of_manager_and_hub() -> Result<()> {
    let runs = Runs::new()?;
    let output = runs.run("ip -o addr show; ip route show; cat /etc/hosts; id -u")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("10.77.0.1/32"), "{said}");
    assert!(said.contains("10.77.0.1 manager.kubenova.test hub.kubenova.test"), "{said}");
    assert!(!said.contains("default"), "no route leads out: {said}");
    assert!(said.ends_with("\n0\n"), "{said}");
    Ok(())
}

#[test]
fn kill_9_of_the_outer_process_ends_everything() -> Result<()> {
    let runs = Runs::new()?;
    let mark = format!("5{}1", std::process::id());
    let mut outer = runs.command(&format!("setsid sleep {mark} & sleep {mark} & wait")).spawn()?;
    wait_sleeping(&mark, 2)?;
    outer.kill()?;
    outer.wait()?;
    wait_gone(&mark)?;
    for folder in runs.left()? {
        assert!(!is_a_mount_point_here(&folder)?, "{} is still a mount point", folder.display());
    }
    Ok(())
}

#[test]
fn a_signal_reaches_the_program_once_and_its_answer_counts() -> Result<()> {
    // SIGTERM, not SIGINT: a shell that was started with SIGINT ignored cannot trap it.
    let runs = Runs::new()?;
    let mark = format!("6{}2", std::process::id());
    let script = format!("trap 'echo caught; exit 0' TERM; sleep {mark} & while :; do wait; done");
    let mut outer = runs.command(&script).stdout(Stdio::piped()).spawn()?;
    wait_sleeping(&mark, 1)?;
    signal(&outer, "-TERM")?;
    let status = outer.wait()?;
    let mut said = String::new();
    outer.stdout.take().context("it was piped")?.read_to_string(&mut said)?;
    assert_eq!(said, "caught\n");
    assert!(status.success());
    wait_gone(&mark)?;
    assert_eq!(runs.left()?, Vec::<PathBuf>::new());
    Ok(())
}

#[test]
fn a_listener_bound_outside_comes_inside() -> Result<()> {
    let runs = Runs::new()?;
    let mut command = Command::new(SANDBOX);
    let output = command
        .env("KUBENOVA_RUNS", runs.folder.path())
        .args(["--forward", "manager", "--forward", "hub", "--", "/bin/sh", "-c"])
        .arg("echo $KUBENOVA_SANDBOX_FORWARDS; ls -l /proc/self/fd")
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("manager:"), "{said}");
    assert!(said.matches("socket:").count() >= 2, "{said}");
    Ok(())
}

#[test]
fn an_ordinary_user_gets_the_same() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(()); // Every other test here has shown it already.
    }
    let runs = Runs::new()?;
    let program = runs.folder.path().join("kubenova-sandbox");
    fs::copy(SANDBOX, &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(runs.folder.path(), fs::Permissions::from_mode(0o777))?;
    let folder = runs.folder.path().join("unprivileged");
    fs::create_dir(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["--", "/bin/sh", "-c", "id -u; ip -o addr show lo; mount -t tmpfs tmpfs /mnt && echo mounted"])
        .env("KUBENOVA_RUNS", &folder)
        .current_dir("/")
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.starts_with("0\n") && said.contains("10.77.0.1") && said.ends_with("mounted\n"), "{said}");
    assert_eq!(fs::read_dir(&folder)?.count(), 0);
    Ok(())
}
