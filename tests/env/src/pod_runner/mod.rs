//! A small kubelet: pods of the system namespaces run as real local processes.
//!
//! Charts install Deployments and nothing pulls images here. kwok plays every other pod; those in
//! [`NAMESPACES`] are served by this runner: a network namespace on the cluster's bridge, a private
//! root with the pod's volumes, probes, restarts, deletion.
//!
//! Guarantees: a pod's processes end with the pod, with the runner, and with the sandbox.
//! Must not: schedule (the real scheduler does), or know anything about what it runs but
//! [`images`].
//!
//! Reading order: this file watches pods and hands each to [`pod`]; `pod` lays out [`volumes`] and
//! [`environment`], starts [`supervisor`]s of [`container`]s, and reports [`status`]; [`names`] are those of Services.

pub(crate) mod container;
mod environment;
mod images;
mod names;
mod pod;
mod probes;
mod sockets;
mod status;
mod supervisor;
mod variables;
mod volumes;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use futures::stream::{self, SelectAll};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

pub use self::pod::PodHandle;
pub use self::sockets::ListeningSocket;

use self::images::Images;
use self::variables::Variables;
use crate::kubeconfig::Kubeconfig;
use crate::network::ClusterNetwork;
use crate::servers::Servers;

/// The namespaces whose pods are real processes.
pub const NAMESPACES: [&str; 4] = ["capsule-system", "capsule-proxy-system", "vela-system", "kubenova-system"];

/// What a runner needs.
pub(crate) struct PodRunnerOptions {
    pub(crate) kubeconfig: Kubeconfig,
    pub(crate) network: Arc<ClusterNetwork>,
    /// On disk: one log a container.
    pub(crate) logs: PathBuf,
    /// In memory: roots and volumes.
    pub(crate) memory: PathBuf,
    pub(crate) helper: PathBuf,
    pub(crate) servers: Servers,
}

/// A running runner; dropping it kills every pod.
#[derive(Debug)]
pub struct PodRunner {
    pods: Arc<Mutex<BTreeMap<String, PodHandle>>>,
    variables: Variables,
    list: watch::Sender<u64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What every pod's task shares.
pub(crate) struct Shared {
    client: Client,
    network: Arc<ClusterNetwork>,
    logs: PathBuf,
    memory: PathBuf,
    helper: PathBuf,
    images: Images,
    /// The hosts file of every pod.
    names: PathBuf,
    variables: Variables,
    pods: Arc<Mutex<BTreeMap<String, PodHandle>>>,
    /// Rises whenever a Secret or ConfigMap of the system namespaces changes.
    sources: watch::Receiver<u64>,
}

impl Shared {
    /// A line in the runner's own log, for whoever asks where a pod went.
    fn note(&self, what: &str) {
        use std::io::Write as _;
        if let Ok(mut log) = crate::process::open_log(&self.logs.join("pod-runner.log")) {
            let _ = writeln!(log, "{} {what}", supervisor::now());
        }
    }
}

impl PodRunner {
    /// Starts on a thread and runtime of its own, so that a scenario that blocks cannot stop it.
    pub(crate) fn start(options: PodRunnerOptions) -> Result<Self> {
        let pods = Arc::new(Mutex::new(BTreeMap::new()));
        let variables = Variables::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let (list, listing) = watch::channel(0);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("could not make the pod runner's runtime")?;
        let thread = std::thread::Builder::new()
            .name("pod-runner".to_owned())
            .spawn({
                let pods = Arc::clone(&pods);
                let variables = variables.clone();
                move || {
                    runtime.block_on(async {
                        tokio::select! {
                            _ = stopped => {}
                            ended = Box::pin(run(options, variables, Arc::clone(&pods), listing)) => {
                                tracing::error!("the pod runner ended: {ended:?}");
                            }
                        }
                    });
                    // Ends every pod's task; each kills its processes when dropped.
                    drop(runtime);
                    pods.lock().unwrap_or_else(PoisonError::into_inner).clear();
                }
            })
            .context("could not start the pod runner")?;
        Ok(Self { pods, variables, list, stop: Some(stop), thread: Some(thread) })
    }

    /// The pods that run now.
    pub fn all(&self) -> Vec<PodHandle> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The running pods that carry a label (`name=value`).
    pub fn labelled(&self, label: &str) -> Vec<PodHandle> {
        self.all().into_iter().filter(|pod| pod.has_label(label)).collect()
    }

    /// Kills (SIGKILL) the containers of the pods that carry a label; says how many it hit. They
    /// are started again, as a kubelet would.
    pub fn kill9(&self, label: &str) -> usize {
        self.labelled(label).iter().map(PodHandle::kill9).sum()
    }

    /// Lists all pods again, as a kubelet does that is started: after a restore of etcd a watch may be silent for long.
    pub fn list_again(&self) {
        self.list.send_modify(|count| *count += 1);
    }

    /// Gives every container of `image` (`kubenova/operator`) that starts from now on a variable
    /// (`RUST_LOG`, a failpoint), or takes it away again. It wins over the pod's own.
    pub fn set_variable(&self, image: &str, name: &str, value: Option<&str>) {
        self.variables.set(image, name, value);
    }
}

impl Drop for PodRunner {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A pod's task, and the channel on which it gets changes.
struct Running {
    object: watch::Sender<Pod>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    options: PodRunnerOptions,
    variables: Variables,
    pods: Arc<Mutex<BTreeMap<String, PodHandle>>>,
    listing: watch::Receiver<u64>,
) -> Result<()> {
    let client = options.kubeconfig.client().await?;
    let (changed, sources) = watch::channel(0);
    let names = options.memory.join("hosts");
    let hosts = names::HostsFile::create(&names)?;
    let shared = Arc::new(Shared {
        client: client.clone(),
        network: options.network,
        logs: options.logs,
        memory: options.memory,
        helper: options.helper,
        images: Images::new(&options.servers),
        names,
        variables,
        pods,
        sources,
    });
    tokio::try_join!(
        watch_pods(Arc::clone(&shared), listing.clone()),
        watch_sources(client, changed, listing.clone()),
        names::keep(hosts, Arc::clone(&shared), listing)
    )?;
    Ok(())
}

async fn watch_pods(shared: Arc<Shared>, listing: watch::Receiver<u64>) -> Result<()> {
    let mut events = SelectAll::new();
    for namespace in NAMESPACES {
        let api: Api<Pod> = Api::namespaced(shared.client.clone(), namespace);
        events.push(events_of(api, listing.clone()).map(move |event| (namespace, event)).boxed());
    }
    let mut running: HashMap<String, Running> = HashMap::new();
    let mut listed: HashMap<&str, Vec<String>> = HashMap::new();
    while let Some((namespace, event)) = events.next().await {
        match event {
            Event::Init => drop(listed.insert(namespace, Vec::new())),
            Event::InitApply(pod) => {
                listed.entry(namespace).or_default().push(uid(&pod));
                take(&shared, &mut running, pod);
            }
            Event::InitDone => {
                let seen = listed.remove(namespace).unwrap_or_default();
                running.retain(|uid, pod| {
                    let stays = pod.object.borrow().namespace().as_deref() != Some(namespace) || seen.contains(uid);
                    if !stays {
                        shared.note(&format!("{} is in no list any more: {seen:?}", pod.object.borrow().name_any()));
                    }
                    stays
                });
            }
            Event::Apply(pod) => take(&shared, &mut running, pod),
            Event::Delete(pod) => {
                shared.note(&format!("{} was deleted", pod.name_any()));
                running.remove(&uid(&pod));
            }
        }
    }
    anyhow::bail!("the watch of pods ended")
}

/// Hands a pod to its task, or starts one when the scheduler has placed it.
fn take(shared: &Arc<Shared>, running: &mut HashMap<String, Running>, object: Pod) {
    let uid = uid(&object);
    if let Some(known) = running.get(&uid) {
        known.object.send_replace(object);
        return;
    }
    let placed = object.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    if !placed {
        return;
    }
    let (sender, receiver) = watch::channel(object);
    let task = tokio::spawn(pod::run(Arc::clone(shared), receiver));
    running.insert(uid, Running { object: sender, task });
}

async fn watch_sources(client: Client, changed: watch::Sender<u64>, listing: watch::Receiver<u64>) -> Result<()> {
    let mut events = SelectAll::new();
    for namespace in NAMESPACES {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        events.push(events_of(secrets, listing.clone()).map(drop).boxed());
        events.push(events_of(maps, listing.clone()).map(drop).boxed());
    }
    while events.next().await.is_some() {
        changed.send_modify(|count| *count += 1);
    }
    anyhow::bail!("the watch of secrets and config maps ended")
}

/// A watch that goes on through restarts of the API server, and begins again when a listing is asked for. Errors are silent
/// here: the scenario that killed the API server knows.
fn events_of<K>(api: Api<K>, listing: watch::Receiver<u64>) -> impl futures::Stream<Item = Event<K>>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let watch = move || {
        let mut again = listing.clone();
        again.mark_unchanged();
        watcher::watcher(api.clone(), watcher::Config::default())
            .or_else(|_| async {
                tokio::time::sleep(pod::RETRY).await;
                Err(())
            })
            .filter_map(|event| std::future::ready(event.ok()))
            .take_until(async move { again.changed().await.is_ok() })
    };
    stream::repeat_with(watch).flatten()
}

fn uid(pod: &Pod) -> String {
    pod.uid().unwrap_or_default()
}

/// A folder for one pod under `base`, by name and the start of its uid.
fn folder_of(base: &Path, pod: &Pod) -> PathBuf {
    let uid = uid(pod);
    let short = uid.get(..8).unwrap_or(&uid);
    base.join(format!("{}-{short}", pod.name_any()))
}
