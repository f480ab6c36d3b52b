//! One pod from placement to deletion.
//!
//! Guarantees: its volumes are there before its containers start; every change of a container
//! reaches the API server; when the pod is deleted its processes end first, then the object goes
//! (no garbage collector removes it). Dropping the task kills the processes and takes the link away.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::container::{Bind, Plan};
use super::images::Image;
use super::sockets::{self, ListeningSocket};
use super::supervisor::{self, Phase, Restart, Start, State, now};
use super::volumes::Volumes;
use super::{Shared, environment, folder_of, status};
use crate::apiserver;
use crate::network::{ClusterNetwork, PodLink};

/// The pause after something that may go right the next time (the API server is away, a Secret is
/// not there yet).
pub(crate) const RETRY: Duration = Duration::from_millis(250);
/// No scenario waits longer than this for a process that ignores SIGTERM.
const GRACE_MAX: Duration = Duration::from_secs(10);

/// The folder for what scenarios want a container to write.
const DEBUG: &str = "debug";

/// A running pod, as scenarios see it.
#[derive(Clone, Debug)]
pub struct PodHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    object: Pod,
    address: Ipv4Addr,
    netns: PathBuf,
    logs: PathBuf,
    pids: Mutex<Vec<(String, Option<u32>)>>,
}

impl PodHandle {
    /// The pod's name.
    pub fn name(&self) -> String {
        self.inner.object.name_any()
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> &str {
        self.inner.object.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The pod's uid.
    pub fn uid(&self) -> String {
        self.inner.object.uid().unwrap_or_default()
    }

    /// Whether the pod carries the label `name=value`.
    pub fn has_label(&self, label: &str) -> bool {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        self.inner.object.labels().get(name).is_some_and(|found| found == value)
    }

    /// The pod's address.
    pub fn address(&self) -> Ipv4Addr {
        self.inner.address
    }

    /// The file of its network namespace, for `nsenter --net=`.
    pub fn netns(&self) -> &Path {
        &self.inner.netns
    }

    /// The folder with one log a container (`<container>.log`).
    pub fn logs(&self) -> &Path {
        &self.inner.logs
    }

    /// What its containers see as `/debug`: a folder of the run that they may write.
    pub fn debug(&self) -> PathBuf {
        self.inner.logs.join(DEBUG)
    }

    /// What a container printed, all its runs after each other.
    pub fn log(&self, container: &str) -> Result<String> {
        let path = self.inner.logs.join(format!("{container}.log"));
        std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
    }

    /// The process ids of its running containers, inside the sandbox.
    pub fn pids(&self) -> Vec<u32> {
        let pids = self.inner.pids.lock().unwrap_or_else(PoisonError::into_inner);
        pids.iter().filter_map(|(_, pid)| *pid).collect()
    }

    /// Sends SIGKILL to every running container; says how many it hit.
    pub fn kill9(&self) -> usize {
        self.signal(Signal::SIGKILL)
    }

    /// Sends a signal to the program of every running container; says how many it hit.
    pub fn signal(&self, signal: Signal) -> usize {
        let pids = self.pids();
        for pid in &pids {
            supervisor::signal(*pid, signal);
        }
        pids.len()
    }

    /// What listens in the pod's network namespace.
    pub fn listening_sockets(&self) -> Vec<ListeningSocket> {
        self.pids().first().map(|pid| sockets::listening(*pid)).unwrap_or_default()
    }

    fn set_pid(&self, container: &str, pid: Option<u32>) {
        let mut pids = self.inner.pids.lock().unwrap_or_else(PoisonError::into_inner);
        pids.retain(|(name, _)| name != container);
        pids.push((container.to_owned(), pid));
    }
}

/// A pod's link, taken away when the pod's task ends.
struct Linked {
    link: PodLink,
    network: Arc<ClusterNetwork>,
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.network.detach_pod(&self.link);
    }
}

/// A pod's entry in the table of handles, removed when the pod's task ends.
struct Listed {
    shared: Arc<Shared>,
    uid: String,
    memory: PathBuf,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.uid);
        let _ = std::fs::remove_dir_all(&self.memory);
    }
}

/// Serves a pod until it is gone.
pub(crate) async fn run(shared: Arc<Shared>, mut object: watch::Receiver<Pod>) {
    let pod = object.borrow().clone();
    let name = pod.name_any();
    if is_deleted(&pod) {
        remove_object(&shared, &pod).await;
        return;
    }
    if let Err(error) = Box::pin(serve(&shared, &pod, &mut object)).await {
        tracing::warn!("pod {name:?} cannot run: {error:#}");
        shared.note(&format!("{name} cannot run: {error:#}"));
        report(&shared, &pod, &status::pending(&pod, "CreateContainerError", &format!("{error:#}"))).await;
        deletion(&mut object).await;
    }
    remove_object(&shared, &pod).await;
}

/// Returns when the pod is deleted and its processes have ended.
async fn serve(shared: &Arc<Shared>, pod: &Pod, object: &mut watch::Receiver<Pod>) -> Result<()> {
    let spec = pod.spec.as_ref().context("a pod without spec")?;
    let mut images = Vec::new();
    // An init container of an image that no program here plays counts as done, as a Job's does.
    let mut init = Vec::new();
    for container in spec.init_containers.iter().flatten() {
        if let Some(image) = shared.images.find(container.image.as_deref().unwrap_or_default())? {
            init.push((container, image));
        }
    }
    for container in &spec.containers {
        let reference = container.image.as_deref().unwrap_or_default();
        match shared.images.find(reference)? {
            Some(image) => images.push(image),
            None if is_of_job(pod) => {
                report(shared, pod, &status::succeeded(now())).await;
                deletion(object).await;
                return Ok(());
            }
            None => {
                let message = format!("nothing here plays image {reference:?}; see tests/env/src/pod_runner/images.rs");
                report(shared, pod, &status::pending(pod, "ImagePullBackOff", &message)).await;
                deletion(object).await;
                return Ok(());
            }
        }
    }
    let link = shared.network.attach_pod(&pod.uid().unwrap_or_default())?;
    let linked = Linked { link, network: Arc::clone(&shared.network) };
    let address = linked.link.address();
    let memory = folder_of(&shared.memory, pod);
    let logs = folder_of(&shared.logs, pod);
    for folder in [&memory, &logs, &logs.join(DEBUG)] {
        std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    }
    let listed = Listed { shared: Arc::clone(shared), uid: pod.uid().unwrap_or_default(), memory: memory.clone() };
    let handle = PodHandle {
        inner: Arc::new(Inner {
            object: pod.clone(),
            address,
            netns: linked.link.netns().file().to_owned(),
            logs: logs.clone(),
            pids: Mutex::new(Vec::new()),
        }),
    };
    shared.pods.lock().unwrap_or_else(PoisonError::into_inner).insert(listed.uid.clone(), handle.clone());

    let mut volumes = Volumes::new(memory.join("volumes"));
    for (container, image) in &init {
        let log = logs.join(format!("{}.log", container.name));
        let to_its_end = async {
            let mut start = prepare(shared, pod, container, image, &mut volumes, &linked.link, &memory, &log).await;
            start.restart = Restart::OnFailure;
            let (state, _) = watch::channel(State::waiting("PodInitializing", None));
            supervisor::run(Arc::new(start), Arc::clone(&shared.network), state).await;
        };
        tokio::select! {
            () = Box::pin(to_its_end) => {}
            () = deletion(object) => return Ok(()),
        }
    }
    let mut starts = Vec::new();
    for (container, image) in spec.containers.iter().zip(&images) {
        let log = logs.join(format!("{}.log", container.name));
        let prepare = prepare(shared, pod, container, image, &mut volumes, &linked.link, &memory, &log);
        let start = tokio::select! {
            start = Box::pin(prepare) => start,
            () = deletion(object) => return Ok(()),
        };
        starts.push(start);
    }
    Box::pin(supervise(shared, pod, object, &handle, volumes, starts)).await;
    drop((listed, linked));
    Ok(())
}

/// Everything a container needs; asked for again until it is there.
#[expect(clippy::too_many_arguments, reason = "one call, and a struct for it would be named Arguments")]
async fn prepare(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    image: &Image,
    volumes: &mut Volumes,
    link: &PodLink,
    memory: &Path,
    log: &Path,
) -> Start {
    let address = link.address().to_string();
    let server = shared.network.address().to_string();
    let mut reported = String::new();
    loop {
        let attempt = async {
            volumes.sync(&shared.client, pod, &address).await?;
            let server = (server.as_str(), apiserver::PORT);
            environment::of(&shared.client, pod, container, server, &address).await
        };
        match attempt.await {
            Ok(environment) => {
                return Start {
                    plan: Plan {
                        hosts: shared.names.clone(),
                        ..plan(pod, container, image, volumes, memory, log, environment)
                    },
                    container: container.clone(),
                    netns: link.netns().file().to_owned(),
                    shares_processes: shares_processes(pod),
                    address: link.address(),
                    helper: shared.helper.clone(),
                    log: log.to_owned(),
                    image: container.image.clone().unwrap_or_default(),
                    variables: shared.variables.clone(),
                    restart: restart_policy(pod),
                };
            }
            Err(error) => {
                let message = format!("{error:#}");
                if message != reported {
                    report(shared, pod, &status::pending(pod, "ContainerCreating", &message)).await;
                    reported = message;
                }
                wait_for_sources(shared).await;
            }
        }
    }
}

/// A moment, or until a Secret or ConfigMap changes.
async fn wait_for_sources(shared: &Shared) {
    let mut sources = shared.sources.clone();
    let _ = tokio::time::timeout(RETRY, sources.changed()).await;
}

fn plan(
    pod: &Pod,
    container: &Container,
    image: &Image,
    volumes: &Volumes,
    memory: &Path,
    log: &Path,
    environment: std::collections::BTreeMap<String, String>,
) -> Plan {
    let mounts = container.volume_mounts.iter().flatten().map(|mount| {
        let volume = volumes.path(&mount.name);
        let is_scratch = pod
            .spec
            .iter()
            .flat_map(|spec| spec.volumes.iter().flatten())
            .any(|volume| volume.name == mount.name && volume.empty_dir.is_some());
        Bind {
            from: mount.sub_path.as_ref().map_or_else(|| volume.clone(), |path| volume.join(path)),
            to: PathBuf::from(&mount.mount_path),
            read_only: !is_scratch || mount.read_only == Some(true),
        }
    });
    let from_image = image.binds.iter().map(|(from, to)| Bind { from: from.clone(), to: to.clone(), read_only: true });
    let debug = log.parent().map(|logs| Bind { from: logs.join(DEBUG), to: PathBuf::from("/debug"), read_only: false });
    let words = container.command.clone().unwrap_or_else(|| image.entrypoint.clone());
    let words = words.into_iter().chain(container.args.clone().unwrap_or_default());
    let security = container.security_context.as_ref();
    Plan {
        hosts: PathBuf::new(),
        root: memory.join(format!("root-{}", container.name)),
        hostname: pod.name_any().chars().take(63).collect(),
        binds: from_image.chain(mounts).chain(debug).collect(),
        scratch: vec![PathBuf::from("/tmp")],
        read_only_root: security.and_then(|context| context.read_only_root_filesystem) == Some(true),
        words: words.map(|word| environment::expand(&word, &environment)).collect(),
        environment,
        working_folder: container.working_dir.as_deref().unwrap_or("/").into(),
    }
}

fn shares_processes(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.share_process_namespace) == Some(true)
}

fn restart_policy(pod: &Pod) -> Restart {
    match pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
        Some("Never") => Restart::Never,
        Some("OnFailure") => Restart::OnFailure,
        _ => Restart::Always,
    }
}

/// Runs the containers and reports them to the API server until the pod is deleted.
async fn supervise(
    shared: &Arc<Shared>,
    pod: &Pod,
    object: &mut watch::Receiver<Pod>,
    handle: &PodHandle,
    mut volumes: Volumes,
    starts: Vec<Start>,
) {
    let started = now();
    let (changed_sender, mut changed) = watch::channel(());
    let mut tasks = JoinSet::new();
    let mut states = Vec::new();
    for start in starts {
        let name = start.container.name.clone();
        let (sender, receiver) = watch::channel(State::waiting("ContainerCreating", None));
        states.push((name, receiver.clone()));
        tasks.spawn(supervisor::run(Arc::new(start), Arc::clone(&shared.network), sender));
        let changed = changed_sender.clone();
        let mut receiver = receiver;
        tasks.spawn(async move {
            while receiver.changed().await.is_ok() {
                let _ = changed.send(());
            }
        });
    }
    let address = handle.address().to_string();
    let mut sources = shared.sources.clone();
    loop {
        let snapshot: Vec<State> = states.iter().map(|(_, state)| state.borrow().clone()).collect();
        for ((name, _), state) in states.iter().zip(&snapshot) {
            let pid = if let Phase::Running { pid, .. } = &state.phase { Some(*pid) } else { None };
            handle.set_pid(name, pid);
        }
        let patch = {
            let current = object.borrow();
            status::patch(&current, &address, started, now(), &snapshot)
        };
        report(shared, pod, &patch).await;
        let renewal = volumes.next_renewal();
        let sync = tokio::select! {
            () = deletion(object) => break,
            Ok(()) = changed.changed() => false,
            Ok(()) = sources.changed() => true,
            () = until(renewal) => true,
        };
        if sync && let Err(error) = volumes.sync(&shared.client, pod, &address).await {
            tracing::debug!("volumes of {} stay as they are: {error:#}", handle.name());
            tokio::time::sleep(RETRY).await;
        }
    }
    terminate(handle, object).await;
}

async fn until(when: Option<std::time::Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

/// SIGTERM, then the pod's own grace. What still runs then is killed when its supervisor is
/// dropped by the caller.
async fn terminate(handle: &PodHandle, object: &watch::Receiver<Pod>) {
    let seconds = object.borrow().metadata.deletion_grace_period_seconds.unwrap_or(0);
    let grace = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(GRACE_MAX);
    let pids = handle.pids();
    handle.signal(Signal::SIGTERM);
    let all_ended = async {
        while pids.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(grace, all_ended).await.is_err() {
        handle.kill9();
    }
}

/// Waits until the pod is being deleted.
async fn deletion(object: &mut watch::Receiver<Pod>) {
    // An error means that the watcher is gone, and with it this task in a moment.
    if object.wait_for(is_deleted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn is_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn is_of_job(pod: &Pod) -> bool {
    pod.owner_references().iter().any(|owner| owner.kind == "Job")
}

/// Patches the pod's status; tried again while the API server is away.
async fn report(shared: &Shared, pod: &Pod, patch: &serde_json::Value) {
    let api: Api<Pod> = Api::namespaced(shared.client.clone(), &pod.namespace().unwrap_or_default());
    loop {
        match api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                tracing::debug!("the status of pod {} was refused: {status}", pod.name_any());
                return;
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Removes the object, this one and no later one of the same name.
async fn remove_object(shared: &Shared, pod: &Pod) {
    let api: Api<Pod> = Api::namespaced(shared.client.clone(), &pod.namespace().unwrap_or_default());
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    loop {
        match api.delete(&pod.name_any(), &now).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => return,
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}
