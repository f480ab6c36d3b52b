//! One container over time: start, probe, end, back off, start again.
//!
//! Guarantees: what happens is reported to the pod's task in order; dropping the supervisor kills the
//! container. Comes after [`super::container`] (which becomes the program), before
//! [`super::status`] (which reports it).

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::Instant;

use super::container::{PLAN, Plan};
use super::probes::{self, Inside};
use super::variables::Variables;
use crate::network::ClusterNetwork;
use crate::process::open_log;
use crate::stage::{STAGE, STAGE_CONTAINER};

/// A kubelet waits 10 s and doubles to 5 min; scenarios have no such time.
const BACK_OFF_FIRST: Duration = Duration::from_millis(250);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// A container that ran this long starts with a fresh back-off.
const STEADY: Duration = Duration::from_secs(10);

/// How to start a container.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) plan: Plan,
    pub(crate) container: Container,
    pub(crate) netns: PathBuf,
    /// Whether it sees the pod's other processes (`shareProcessNamespace`). It then sees those of the whole sandbox.
    pub(crate) shares_processes: bool,
    pub(crate) address: Ipv4Addr,
    pub(crate) helper: PathBuf,
    pub(crate) log: PathBuf,
    /// The image, and what scenarios give its containers.
    pub(crate) image: String,
    pub(crate) variables: Variables,
    /// Restart when it ends (`Always`; `OnFailure` when it failed).
    pub(crate) restart: Restart,
}

/// A pod's restart policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    Always,
    OnFailure,
    Never,
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) ready: bool,
    pub(crate) restarts: i32,
    /// How it ended last, if it ever did.
    pub(crate) last: Option<Ended>,
    /// Why it is not ready, as the status shows it.
    pub(crate) message: Option<String>,
}

/// A container's phase.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Phase {
    Waiting(&'static str),
    Running { pid: u32, since: Timestamp },
    Terminated(Ended),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) at: Timestamp,
    pub(crate) since: Timestamp,
}

impl State {
    pub(crate) fn waiting(reason: &'static str, message: Option<String>) -> Self {
        Self { phase: Phase::Waiting(reason), ready: false, restarts: 0, last: None, message }
    }
}

/// Runs a container until it may not be started again; then returns with the last state reported.
pub(crate) async fn run(start: Arc<Start>, network: Arc<ClusterNetwork>, state: watch::Sender<State>) {
    let mut back_off = BACK_OFF_FIRST;
    loop {
        let began = Instant::now();
        let ended = match once(&start, &network, &state).await {
            Ok(ended) => ended,
            Err(error) => {
                state.send_modify(|state| {
                    state.phase = Phase::Waiting("CreateContainerError");
                    state.message = Some(format!("{error:#}"));
                });
                tokio::time::sleep(BACK_OFF_MAX).await;
                continue;
            }
        };
        let again = match start.restart {
            Restart::Always => true,
            Restart::OnFailure => ended.code != 0,
            Restart::Never => false,
        };
        state.send_modify(|state| {
            state.ready = false;
            state.phase = Phase::Terminated(ended.clone());
            state.last = Some(ended.clone());
        });
        if !again {
            return;
        }
        if began.elapsed() >= STEADY {
            back_off = BACK_OFF_FIRST;
        }
        state.send_modify(|state| state.phase = Phase::Waiting("CrashLoopBackOff"));
        tokio::time::sleep(back_off).await;
        back_off = (back_off * 2).min(BACK_OFF_MAX);
        state.send_modify(|state| state.restarts += 1);
    }
}

/// One life of a container.
async fn once(start: &Start, network: &ClusterNetwork, state: &watch::Sender<State>) -> Result<Ended> {
    // Asked for at each start, so that a scenario can set a variable and kill the container.
    let mut plan = start.plan.clone();
    plan.environment.extend(start.variables.of(&start.image));
    let mut process = ContainerProcess::spawn(start, &plan)?;
    let since = now();
    let Some(pid) = process.program_pid().await else {
        return Ok(ended(process.child.wait().await.context("could not wait")?, since));
    };
    let inside = Inside { pid, address: start.address, environment: plan.environment };
    let ready = start.container.readiness_probe.is_none() && start.container.startup_probe.is_none();
    state.send_modify(|state| {
        state.phase = Phase::Running { pid, since };
        state.ready = ready;
        state.message = None;
    });
    tokio::select! {
        status = process.child.wait() => Ok(ended(status.context("could not wait")?, since)),
        why = watch_health(start, network, &inside, state) => {
            state.send_modify(|state| state.message = Some(why));
            process.stop(Duration::from_secs(1)).await;
            Ok(ended(process.child.wait().await.context("could not wait")?, since))
        }
    }
}

/// Probes for ever; returns when the container must be killed, with the reason.
async fn watch_health(
    start: &Start,
    network: &ClusterNetwork,
    inside: &Inside,
    state: &watch::Sender<State>,
) -> String {
    let container = &start.container;
    if let Some(startup) = &container.startup_probe {
        let allowed = probes::period(startup) * probes::failure_threshold(startup);
        let deadline = Instant::now() + allowed;
        while let Err(error) = probes::attempt(startup, container, network, inside).await {
            if Instant::now() > deadline {
                return format!("startup probe failed for {allowed:?}: {error:#}");
            }
            state.send_if_modified(|state| report(state, false, format!("startup probe failed: {error:#}")));
            tokio::time::sleep(probes::EAGER).await;
        }
        if container.readiness_probe.is_none() {
            state.send_modify(|state| state.ready = true);
        }
    }
    tokio::select! {
        why = watch_liveness(container, network, inside) => why,
        () = watch_readiness(container, network, inside, state) => unreachable!("readiness is watched for ever"),
    }
}

async fn watch_readiness(
    container: &Container,
    network: &ClusterNetwork,
    inside: &Inside,
    state: &watch::Sender<State>,
) {
    let Some(probe) = &container.readiness_probe else {
        return std::future::pending().await;
    };
    let mut failures = 0;
    loop {
        let outcome = probes::attempt(probe, container, network, inside).await;
        let is_ready = state.borrow().ready;
        let pause = match outcome {
            Ok(()) => {
                failures = 0;
                state.send_if_modified(|state| {
                    let changed = !state.ready;
                    (state.ready, state.message) = (true, None);
                    changed
                });
                probes::period(probe)
            }
            Err(error) => {
                failures += 1;
                if !is_ready || failures >= probes::failure_threshold(probe) {
                    state.send_if_modified(|state| report(state, false, format!("readiness probe failed: {error:#}")));
                }
                if is_ready { probes::period(probe) } else { probes::EAGER }
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn watch_liveness(container: &Container, network: &ClusterNetwork, inside: &Inside) -> String {
    let Some(probe) = &container.liveness_probe else {
        return std::future::pending().await;
    };
    let mut failures = 0;
    let delay = probe.initial_delay_seconds.and_then(|delay| u64::try_from(delay).ok()).unwrap_or(0);
    tokio::time::sleep(Duration::from_secs(delay).max(probes::period(probe))).await;
    loop {
        match probes::attempt(probe, container, network, inside).await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                if failures >= probes::failure_threshold(probe) {
                    return format!("liveness probe failed {failures} times: {error:#}");
                }
            }
        }
        tokio::time::sleep(probes::period(probe)).await;
    }
}

/// Sets readiness and message; true when either changed.
fn report(state: &mut State, ready: bool, message: String) -> bool {
    let message = Some(message);
    let changed = state.ready != ready || state.message != message;
    (state.ready, state.message) = (ready, message);
    changed
}

/// The processes of one container: `unshare` outside, the program as PID 1 of its own namespace. Where a pod's containers see each other,
/// there is no such namespace, and the child becomes the program.
struct ContainerProcess {
    child: Child,
    group: Option<Pid>,
    shares_processes: bool,
}

impl ContainerProcess {
    fn spawn(start: &Start, described: &Plan) -> Result<Self> {
        let plan = described.root.with_extension("plan.json");
        fs::create_dir_all(&described.root).context("could not make the root's folder")?;
        fs::write(&plan, serde_json::to_vec(described)?).context("could not write the container's plan")?;
        let log = open_log(&start.log)?;
        let (stage, name) = (STAGE, STAGE_CONTAINER);
        let child = Command::new("nsenter")
            .arg(format!("--net={}", start.netns.display()))
            .args(["--", "unshare", "--mount", "--propagation=private", "--uts", "--ipc"])
            .args(["--pid", "--fork", "--kill-child"].iter().filter(|_| !start.shares_processes))
            .arg("--")
            .arg(&start.helper)
            .env(stage, name)
            .env(PLAN, &plan)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("could not share the log")?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("could not start a container")?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Self { child, group, shares_processes: start.shares_processes })
    }

    /// What has become, or will become, the program.
    fn inner(&self) -> Option<u32> {
        if self.shares_processes { self.child.id() } else { self.child.id().and_then(only_child) }
    }

    /// The program's process id in our namespace; `None` when it ended before it could be seen.
    async fn program_pid(&mut self) -> Option<u32> {
        loop {
            if let Ok(Some(_)) = self.child.try_wait() {
                return None;
            }
            if let Some(pid) = self.inner().filter(|pid| is_program(*pid)) {
                return Some(pid);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGTERM to the program, SIGKILL to all of it after `grace`.
    async fn stop(&mut self, grace: Duration) {
        if let Some(pid) = self.inner() {
            signal(pid, Signal::SIGTERM);
        }
        let _ = tokio::time::timeout(grace, self.child.wait()).await;
        self.kill();
    }

    fn kill(&self) {
        if self.child.id().is_some()
            && let Some(group) = self.group
        {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Drop for ContainerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal, if the process is still there.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn only_child(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Whether the helper has become the program: its root is no longer ours.
fn is_program(pid: u32) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let stage = format!("{STAGE}={STAGE_CONTAINER}");
    let still_helper = environment.split(|byte| *byte == 0).any(|variable| variable == stage.as_bytes());
    !environment.is_empty() && !still_helper && Path::new(&format!("/proc/{pid}/root")).exists()
}

fn ended(status: ExitStatus, since: Timestamp) -> Ended {
    let signal = status.signal();
    let code = status.code().unwrap_or_else(|| 128 + signal.unwrap_or(0));
    Ended { code, signal, at: now(), since }
}

/// A kubelet stamps real time.
#[expect(clippy::disallowed_methods, reason = "the runner plays a kubelet, which knows no clock but the machine's")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
