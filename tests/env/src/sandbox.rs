//! The sandbox: own user, network, mount and process namespaces around a whole run.
//!
//! Guarantees: the same path as root and as an ordinary user; when the outer process ends, however
//! it ends, every process, mount and link of the run ends with it; no route leads out of the
//! machine. Must not: need a container engine, or leave anything on the host but the run's folder.
//!
//! Three processes, top to bottom:
//! 1. *outer* ([`enter`]): probes, makes the run's folder, binds the forwarded listeners, starts
//!    `unshare`, waits, removes the folder on success;
//! 2. *init* (PID 1 inside): sets up addresses and mounts, starts the program, reaps orphans, and
//!    ends everything when the outer process is gone;
//! 3. the *program*: a test executable, `kubenova-clusters`, the demo. It calls [`Sandbox::require`].

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::forward::{ForwardRequest, Inherited};
use crate::run_folder::RunFolder;
use crate::stage::{STAGE, STAGE_CONTAINER, STAGE_INIT};
use crate::{inherited, pod_runner};

/// The address of the Manager and the hub, on the sandbox's loopback.
pub const HUB_ADDRESS: &str = "10.77.0.1";
/// The same for clusters with an uplink of IPv6.
pub const HUB_ADDRESS_IPV6: &str = "fd77::1";
/// The Manager's name inside the sandbox.
pub const MANAGER_HOST: &str = "manager.kubenova.test";
/// The broker's name inside the sandbox.
pub const HUB_HOST: &str = "hub.kubenova.test";
/// A name of the Manager with an address of IPv6 only.
pub const MANAGER_HOST_IPV6: &str = "manager.ipv6.kubenova.test";
/// A name of the broker with addresses of both families.
pub const HUB_HOST_DUAL: &str = "hub.dual.kubenova.test";

/// File in the run's folder with the process id of the sandbox, as it is outside.
const PID_FILE: &str = "sandbox.pid";
const LIFELINE: &str = "KUBENOVA_SANDBOX_LIFELINE";
const RUN: &str = "KUBENOVA_SANDBOX_RUN";
const HELPER: &str = "KUBENOVA_SANDBOX_HELPER";
const KEEP: &str = "KUBENOVA_KEEP";

/// How long a program may take to end after SIGTERM before everything is killed.
const GRACE: Duration = Duration::from_secs(10);
/// Everything the sandbox separates from the host.
const NAMESPACES: [&str; 8] =
    ["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"];

/// Proof that this process runs inside the sandbox.
#[derive(Clone, Debug)]
pub struct Sandbox {
    run: PathBuf,
}

impl Sandbox {
    /// The sandbox this process runs in, or an error that says how to get into one.
    pub fn require() -> Result<Self> {
        let Some(run) = std::env::var_os(RUN) else {
            bail!(
                "not inside the sandbox: run `cargo dev test`, or start this program with \
                 `kubenova-sandbox -- <program> <args>`"
            );
        };
        Ok(Self { run: run.into() })
    }

    /// The run's folder, on disk. Logs and stores lie here.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// A folder of the run, made if absent.
    pub fn folder(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        make(&self.run.join(name))
    }

    /// A folder in memory, made if absent; for secrets, namespaces and private roots.
    pub fn memory(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        make(&self.run.join("memory").join(name))
    }

    /// The beginning of a command line that runs a program inside the sandbox from a terminal outside, in the folder of that
    /// terminal: `nsenter --mount` alone would run it in `/`.
    pub fn way_in(&self) -> String {
        let pid = self.run.join(PID_FILE);
        format!(
            "nsenter --target $(cat {}) --user --net --mount --preserve-credentials -- env --chdir=\"$PWD\"",
            pid.display()
        )
    }

    /// The listeners bound outside and inherited. Each is taken once.
    pub fn inherited(&self) -> Result<Inherited> {
        Inherited::from_environment()
    }

    /// The program that turns into containers: the one that entered the sandbox.
    pub(crate) fn helper(&self) -> Result<PathBuf> {
        Ok(std::env::var_os(HELPER).context("the sandbox did not name its helper")?.into())
    }
}

/// How to enter.
#[derive(Debug, Default)]
pub struct Options {
    /// Listeners to bind outside and hand to the program.
    pub forwards: Vec<ForwardRequest>,
    /// End when the process that started us ends.
    pub with_parent: bool,
    /// Pass our standard input on to the program; it has none otherwise.
    pub typed: bool,
    /// Variables of the program, beside our own.
    pub variables: Vec<(String, String)>,
}

/// Plays the part that the environment names, if it names one. The first line of `main` in every
/// program that enters the sandbox.
pub fn play_stage() -> Option<ExitCode> {
    let stage = std::env::var(STAGE).ok()?;
    let outcome = match stage.as_str() {
        STAGE_INIT => init(),
        STAGE_CONTAINER => pod_runner::container::become_container().map(|never| match never {}),
        _ => Err(anyhow::anyhow!("unknown stage {stage:?} in {STAGE}")),
    };
    Some(outcome.unwrap_or_else(|error| {
        eprintln!("kubenova-sandbox ({stage}): {error:#}");
        ExitCode::from(125)
    }))
}

/// Runs this very program, with its arguments, inside a new sandbox and returns how it ended.
pub fn enter_ourselves(options: &Options) -> Result<ExitCode> {
    let program = std::env::current_exe().context("could not find our own program")?;
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    enter(program.as_os_str(), &words, options)
}

/// Runs `program` inside a new sandbox and returns how it ended.
pub fn enter(program: &OsStr, args: &[OsString], options: &Options) -> Result<ExitCode> {
    if std::env::var_os(RUN).is_some() {
        bail!("already inside a sandbox; start the program itself");
    }
    probe()?;
    if options.with_parent {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("could not tie us to our parent")?;
    }
    let folder = RunFolder::create()?;
    let helper = std::env::current_exe().context("could not find our own program")?;
    let (lifeline, lifeline_inside) = std::io::pipe().map(|(reader, writer)| (writer, reader))?;
    let lifeline_fd = inherited::keep_through_exec(&lifeline_inside)?;
    let (listeners, described) = bind(&options.forwards)?;

    // Blocked here, so that a signal is relayed once and never ends us before the program ended.
    let signals = signals();
    signals.thread_block().context("could not block signals")?;
    let mut child = Command::new("unshare")
        .args(NAMESPACES)
        .arg("--")
        .arg(&helper)
        .arg(program)
        .args(args)
        .env(STAGE, STAGE_INIT)
        .env(LIFELINE, lifeline_fd.to_string())
        .env(RUN, folder.path())
        .env(HELPER, &helper)
        .envs(options.variables.iter().map(|(name, value)| (name, value)))
        .env(crate::forward::ENVIRONMENT, described)
        // Piped, not inherited: another process group than the terminal's may not read it.
        .stdin(if options.typed { Stdio::piped() } else { Stdio::null() })
        .process_group(0)
        .spawn()
        .context("could not start unshare; install util-linux")?;
    drop((lifeline_inside, listeners));
    // `unshare` is in the sandbox's namespaces but its own process namespace is ours, so that its id means something here.
    let pid_file = folder.path().join(PID_FILE);
    fs::write(&pid_file, child.id().to_string()).with_context(|| format!("could not write {}", pid_file.display()))?;
    if let Some(mut input) = child.stdin.take() {
        // Ends with either side, which needs no report.
        std::thread::spawn(move || drop(std::io::copy(&mut std::io::stdin(), &mut input)));
    }
    relay_signals(signals, lifeline);
    let status = child.wait().context("could not wait for the sandbox")?;

    let keep = std::env::var_os(KEEP).is_some();
    if status.success() && !keep {
        folder.remove()?;
    } else {
        eprintln!("kept {}", folder.path().display());
    }
    Ok(exit_code(status))
}

fn signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

/// Writes each signal as a byte into the lifeline. The thread holds the only writing end: when this
/// process dies, init reads the end of file and ends the sandbox.
fn relay_signals(signals: SigSet, mut lifeline: std::io::PipeWriter) {
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            if lifeline.write_all(&[signal as i32 as u8]).is_err() {
                std::thread::park();
            }
        }
    });
}

fn bind(forwards: &[ForwardRequest]) -> Result<(Vec<TcpListener>, OsString)> {
    let mut listeners = Vec::new();
    let mut described = Vec::new();
    for request in forwards {
        let listener = TcpListener::bind(("127.0.0.1", request.port))
            .with_context(|| format!("could not listen on 127.0.0.1:{} for {:?}", request.port, request.name))?;
        let fd = inherited::keep_through_exec(&listener)?;
        described.push(format!("{}:{fd}", request.name));
        listeners.push(listener);
    }
    Ok((listeners, OsString::from(described.join(","))))
}

/// Enters and leaves each kind of namespace and names what forbids it.
pub fn probe() -> Result<()> {
    if attempt(&NAMESPACES).is_ok() {
        return Ok(());
    }
    let steps: [(&str, &[&str]); 4] = [
        ("user namespaces", &["--user", "--map-root-user"]),
        ("network namespaces", &["--user", "--map-root-user", "--net"]),
        ("mount namespaces", &["--user", "--map-root-user", "--mount"]),
        (
            "process namespaces with their own /proc",
            &["--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc"],
        ),
    ];
    for (what, flags) in steps {
        if let Err(why) = attempt(flags) {
            bail!("this machine does not allow {what}: {why}{}", forbidden_by());
        }
    }
    bail!("this machine does not allow all namespaces together, though each on its own")
}

fn attempt(flags: &[&str]) -> Result<(), String> {
    let output = Command::new("unshare")
        .args(flags)
        .args(["--", "true"])
        .output()
        .map_err(|error| format!("could not start unshare ({error}); install util-linux"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// The settings that are known to forbid namespaces, as far as they can be read.
fn forbidden_by() -> String {
    let settings = [
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ];
    for (file, forbidding, remedy) in settings {
        if fs::read_to_string(file).is_ok_and(|value| value.trim() == forbidding) {
            return format!(" ({file} is {forbidding}; try `{remedy}` as root)");
        }
    }
    " (inside a container it may be its seccomp profile or a masked /proc)".to_owned()
}

/// PID 1 of the sandbox.
fn init() -> Result<ExitCode> {
    // The outer process blocked signals to relay them; the program must receive them.
    SigSet::empty().thread_set_mask().context("could not unblock signals")?;
    let run = Sandbox::require()?;
    let lifeline: i32 = std::env::var(LIFELINE)
        .context("the sandbox was started without a lifeline")?
        .parse()
        .context("the lifeline is not a number")?;
    let lifeline = fs::File::from(inherited::take(lifeline)?);
    set_up_network()?;
    set_up_mounts(run.run())?;

    let mut words = std::env::args_os().skip(1);
    let program = words.next().context("no program to run")?;
    let child = Command::new(&program)
        .args(words)
        .env_remove(STAGE)
        .env_remove(LIFELINE)
        .spawn()
        .with_context(|| format!("could not start {}", program.display()))?;
    let child = Pid::from_raw(i32::try_from(child.id()).context("a pid fits in 31 bits")?);
    watch_lifeline(lifeline, child);
    reap_until(child)
}

/// Passes signals on to the program; ends the sandbox when the other end is closed.
fn watch_lifeline(mut lifeline: fs::File, program: Pid) {
    std::thread::spawn(move || {
        let mut byte = [0];
        while matches!(lifeline.read(&mut byte), Ok(1)) {
            let signal = Signal::try_from(i32::from(byte[0])).unwrap_or(Signal::SIGTERM);
            let _ = kill(program, signal);
            std::thread::spawn(|| {
                std::thread::sleep(GRACE);
                eprintln!("the program did not end within {GRACE:?} after a signal: killing everything");
                std::process::exit(124);
            });
        }
        std::process::exit(137);
    });
}

fn reap_until(program: Pid) -> Result<ExitCode> {
    loop {
        match waitpid(None, None).context("could not wait for children")? {
            WaitStatus::Exited(pid, code) if pid == program => {
                return Ok(exit_code(ExitStatus::from_raw(code << 8)));
            }
            WaitStatus::Signaled(pid, signal, _) if pid == program => {
                eprintln!("the program was ended by {signal}");
                return Ok(exit_code(ExitStatus::from_raw(signal as i32)));
            }
            _ => {}
        }
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn set_up_network() -> Result<()> {
    crate::network::ip_batch(None, &format!("link set lo up\naddr add {HUB_ADDRESS}/32 dev lo\n"))
        .context("could not set up the sandbox's loopback")?;
    if Path::new("/proc/sys/net/ipv6").exists() {
        crate::network::ip_batch(None, &format!("addr add {HUB_ADDRESS_IPV6}/128 dev lo nodad\n"))
            .context("could not give the sandbox's loopback an address of IPv6")?;
    }
    // Sovereign clusters do not reach each other through us.
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").context("could not switch forwarding off")
}

fn set_up_mounts(run: &Path) -> Result<()> {
    let memory = make(&run.join("memory"))?;
    mount(Some("tmpfs"), &memory, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=0755"))
        .context("could not mount the run's memory")?;
    let etc = make(&run.join("etc"))?;
    let files = [
        ("hosts", hosts_text()),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n".to_owned()),
        // A name of two lines has the addresses of both.
        ("host.conf", "multi on\n".to_owned()),
        ("resolv.conf", String::new()),
    ];
    for (name, text) in files {
        let ours = etc.join(name);
        fs::write(&ours, text).with_context(|| format!("could not write {}", ours.display()))?;
        let theirs = Path::new("/etc").join(name);
        if theirs.exists() {
            mount(Some(&ours), &theirs, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("could not put ours over {}", theirs.display()))?;
        }
    }
    Ok(())
}

fn hosts_text() -> String {
    format!(
        "127.0.0.1 localhost\n{HUB_ADDRESS} {MANAGER_HOST} {HUB_HOST} {HUB_HOST_DUAL}\n\
         {HUB_ADDRESS_IPV6} {MANAGER_HOST_IPV6} {HUB_HOST_DUAL}\n"
    )
}

fn make(folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    Ok(folder.to_owned())
}

/// Splits what `kubenova-sandbox` was asked to run; kept here so that its form has one home.
pub fn program_and_args(mut words: Vec<OsString>) -> Result<(OsString, Vec<OsString>)> {
    if words.is_empty() {
        bail!("nothing to run: `kubenova-sandbox -- <program> <args>`");
    }
    let program = words.remove(0);
    if program.clone().into_vec().is_empty() {
        bail!("the program's name is empty");
    }
    Ok((program, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_the_sandbox_the_error_says_how_to_get_in() {
        if std::env::var_os(RUN).is_none() {
            let error = Sandbox::require().expect_err("a unit test runs outside");
            assert!(error.to_string().contains("cargo dev test"));
        }
    }

    #[test]
    fn the_hosts_file_names_manager_and_hub() {
        let expected = "127.0.0.1 localhost\n\
                        10.77.0.1 manager.kubenova.test hub.kubenova.test hub.dual.kubenova.test\n\
                        fd77::1 manager.ipv6.kubenova.test hub.dual.kubenova.test\n";
        assert_eq!(hosts_text(), expected);
    }

    #[test]
    fn a_program_is_needed() {
        assert!(program_and_args(vec![]).is_err());
        let (program, args) = program_and_args(vec!["a".into(), "b".into()]).unwrap();
        assert_eq!((program, args), ("a".into(), vec!["b".into()]));
    }
}
