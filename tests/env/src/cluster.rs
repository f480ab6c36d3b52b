//! A whole cluster of real servers: etcd, API server, controller-manager, scheduler, kwok, and the
//! pod runner for system pods, in a network of its own.
//!
//! Guarantees: when [`Cluster::start`] returns, objects are accepted, controllers act on them,
//! simulated nodes are Ready, and system pods run as real processes. Dropping it takes everything
//! down. The harness's own calls are connected inside the cluster and never cross its uplink.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt};

use crate::apiserver::{self, ApiServer, ApiServerFiles};
use crate::apply::Applier;
use crate::audit::{self, AuditEvent};
use crate::control_plane::Place;
use crate::forward::Forward;
use crate::kubeconfig::Kubeconfig;
use crate::network::{ClusterNetwork, Cut, Uplink};
use crate::pki::{Authority, Identity};
use crate::pod_runner::{PodRunner, PodRunnerOptions};
use crate::poll::{self, Step};
use crate::process::{Process, ProcessSpec};
use crate::sandbox::Sandbox;
use crate::servers::Servers;
use crate::stored;
use crate::syn_capture::SynCapture;
use crate::{etcd, process};

/// Nodes are Ready about 0.3 s after kwok started; the rest is for busy machines.
/// For etcd to write what it holds and end.
const ETCD_END_MAX: Duration = Duration::from_secs(20);
const NODES_READY_MAX: Duration = Duration::from_secs(60);

/// What kind of cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Its name: of its folder, its kubeconfig context, in messages.
    pub name: String,
    /// Its number, 1 to 250: the third byte of its addresses.
    pub index: u8,
    /// Keep etcd's fsync on.
    pub durable_etcd: bool,
    /// How many simulated nodes.
    pub nodes: usize,
    /// Which addresses lead out of it.
    pub uplink: Uplink,
}

impl ClusterOptions {
    /// One node, no fsync, an uplink of IPv4.
    pub fn new(name: impl Into<String>, index: u8) -> Self {
        Self { name: name.into(), index, durable_etcd: false, nodes: 1, uplink: Uplink::Ipv4 }
    }
}

/// A running cluster.
pub struct Cluster {
    // In the order in which they must end.
    pods: PodRunner,
    scheduler: Process,
    controller_manager: Process,
    kwok: Process,
    apiserver: ApiServer,
    etcd: Process,
    _harness_way_in: Forward,
    network: Arc<ClusterNetwork>,
    options: ClusterOptions,
    servers: Servers,
    folder: PathBuf,
    kubeconfig: PathBuf,
    authority: Authority,
    admin: Identity,
    client: Client,
    applier: Applier,
}

impl Cluster {
    /// Starts a cluster and waits until it works.
    pub async fn start(options: ClusterOptions) -> Result<Self> {
        let name = options.name.clone();
        Box::pin(Self::boot(options)).await.with_context(|| format!("could not start cluster {name:?}"))
    }

    async fn boot(options: ClusterOptions) -> Result<Self> {
        let sandbox = Sandbox::require()?;
        let servers = Servers::find()?;
        let folder = sandbox.folder(&options.name)?;
        let memory = sandbox.memory(&options.name)?;
        let network = Arc::new(ClusterNetwork::create(&sandbox.memory("networks")?, options.index, options.uplink)?);
        let netns = network.netns().file();
        let address = network.address();

        let etcd = etcd::start(&servers, &folder, netns, options.durable_etcd)?;
        let authority = Authority::new(&format!("test cluster {}", options.name))?;
        let files = ApiServerFiles::write(&authority, address, &memory, &folder)?;
        let way_in = Forward::start(
            TcpListener::bind("127.0.0.1:0").context("could not listen for the harness")?,
            Some(network.netns()),
            SocketAddr::from((address, apiserver::PORT)),
        )?;
        let here = format!("https://{}", way_in.address());
        let inside = format!("https://{address}:{}", apiserver::PORT);
        let kubeconfig =
            |url: &str, identity: &Identity| Kubeconfig::new(&options.name, url, authority.certificate(), identity);
        let admin = authority.client("kubenova-test:admin", Some("system:masters"))?;
        let admin_config = kubeconfig(&here, &admin);
        let admin_path = folder.join("kubeconfig");
        admin_config.write(&admin_path)?;
        let client = admin_config.client().await?;
        let mut apiserver = ApiServer::start(&servers, &folder, netns, address, &files, client.clone())?;

        let component = |user: &str, group: Option<&str>| -> Result<PathBuf> {
            let path = memory.join(format!("{}.kubeconfig", user.replace(':', "-")));
            kubeconfig(&inside, &authority.client(user, group)?).write(&path)?;
            Ok(path)
        };
        let manager_config = component("system:kube-controller-manager", None)?;
        let scheduler_config = component("system:kube-scheduler", None)?;
        let kwok_config = component("kubenova-test:kwok", Some("system:masters"))?;
        let runner_identity = authority.client("kubenova-test:pod-runner", Some("system:masters"))?;

        apiserver.wait_for("/livez/ping").await?;
        let applier = Applier::new(client.clone());
        applier.apply_yaml(&first_objects(&options)).await?;
        apiserver.wait_for("/readyz/poststarthook/rbac/bootstrap-roles").await?;
        let place = Place { servers: &servers, folder: &folder, netns };
        let controller_manager = place.controller_manager(&manager_config, &files)?;
        let scheduler = place.scheduler(&scheduler_config)?;
        let kwok = place.kwok(&kwok_config, &address.to_string())?;
        let pods = PodRunner::start(PodRunnerOptions {
            kubeconfig: kubeconfig(&here, &runner_identity),
            network: Arc::clone(&network),
            logs: sandbox.folder(Path::new(&options.name).join("pods"))?,
            memory: sandbox.memory(Path::new(&options.name).join("pods"))?,
            helper: sandbox.helper()?,
            servers: servers.clone(),
        })?;
        apiserver.wait_for("/readyz").await?;
        wait_for_nodes(&client, options.nodes).await?;
        Ok(Self {
            pods,
            scheduler,
            controller_manager,
            kwok,
            apiserver,
            etcd,
            _harness_way_in: way_in,
            network,
            options,
            servers,
            folder,
            kubeconfig: admin_path,
            authority,
            admin,
            client,
            applier,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its folder: logs of every server, `audit.log`, `kubeconfig`, `pods/`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A client with every right.
    pub fn kube_client(&self) -> Client {
        self.client.clone()
    }

    /// The administrator's kubeconfig, for use inside the sandbox.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Writes an administrator's kubeconfig for another way in, such as a forwarded port.
    pub fn write_kubeconfig(&self, path: &Path, way_in: SocketAddr) -> Result<()> {
        let url = format!("https://{way_in}");
        Kubeconfig::new(self.name(), &url, self.authority.certificate(), &self.admin).write(path)
    }

    /// The API server as the cluster's own pods see it.
    pub fn api_address(&self) -> SocketAddr {
        SocketAddr::from((self.network.address(), apiserver::PORT))
    }

    /// Applies documents as the administrator.
    pub fn applier(&self) -> &Applier {
        &self.applier
    }

    /// The real kubectl, as the administrator.
    pub fn kubectl(&self, args: &[&str]) -> Result<Output> {
        self.tool("kubectl", args)?.output().context("could not start kubectl")
    }

    /// kubectl's standard output; an error carries what it said.
    pub fn kubectl_ok(&self, args: &[&str]) -> Result<String> {
        succeeded("kubectl", args, &self.kubectl(args)?)
    }

    /// The real helm, as the administrator, with homes of its own.
    pub fn helm(&self, args: &[&str]) -> Result<Output> {
        self.tool("helm", args)?.output().context("could not start helm")
    }

    /// helm's standard output; an error carries what it said.
    pub fn helm_ok(&self, args: &[&str]) -> Result<String> {
        succeeded("helm", args, &self.helm(args)?)
    }

    fn tool(&self, name: &str, args: &[&str]) -> Result<std::process::Command> {
        let home = self.folder.join("home");
        fs::create_dir_all(&home).with_context(|| format!("could not make {}", home.display()))?;
        let homes = [
            ("HOME", ""),
            ("HELM_CACHE_HOME", "helm-cache"),
            ("HELM_CONFIG_HOME", "helm-config"),
            ("HELM_DATA_HOME", "helm-data"),
        ];
        let mut spec = ProcessSpec::new(name, self.servers.binary(name)?, &self.folder)
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig);
        for (variable, folder) in homes {
            spec = spec.env(variable, home.join(folder));
        }
        Ok(spec.command())
    }

    /// Every finished request, except the control plane's own.
    pub fn audit(&self) -> Result<Vec<AuditEvent>> {
        audit::read(self.apiserver.audit_log())
    }

    /// The API server, to kill and restart.
    pub fn apiserver(&mut self) -> &mut ApiServer {
        &mut self.apiserver
    }

    /// Kills the API server and etcd and starts them again from the same store.
    pub async fn crash(&mut self) -> Result<()> {
        self.apiserver.kill();
        self.etcd.restart()?;
        self.apiserver.restart().await?;
        self.revive().await
    }

    /// Copies the store while API server and etcd are stopped, and starts them again: a backup.
    pub async fn back_up(&mut self) -> Result<()> {
        self.apiserver.kill();
        self.etcd.stop(ETCD_END_MAX).await?;
        stored::copy(&etcd::store(&self.folder), &self.folder.join(stored::BACKUP))?;
        self.etcd.restart()?;
        self.apiserver.restart().await?;
        self.revive().await
    }

    /// Puts the last backup in the place of the store: everything since then is lost, and resource versions are given once
    /// more. The control plane and the pod runner start again, as after any restore; what runs in pods does not.
    pub async fn restore(&mut self) -> Result<()> {
        self.apiserver.kill();
        self.etcd.stop(ETCD_END_MAX).await?;
        stored::copy(&self.folder.join(stored::BACKUP), &etcd::store(&self.folder))?;
        self.etcd.restart()?;
        self.apiserver.restart().await?;
        self.apiserver.wait_for("/readyz/poststarthook/rbac/bootstrap-roles").await?;
        for server in [&mut self.controller_manager, &mut self.scheduler, &mut self.kwok] {
            server.restart()?;
        }
        self.pods.list_again();
        Ok(())
    }

    /// Starts again what ended while the API server was away, as a kubelet would: a
    /// controller-manager that is refused while it starts ends for good.
    pub async fn revive(&mut self) -> Result<()> {
        self.apiserver.wait_for("/readyz/poststarthook/rbac/bootstrap-roles").await?;
        for server in [&mut self.controller_manager, &mut self.scheduler, &mut self.kwok] {
            if server.ended().is_some() {
                server.restart()?;
            }
        }
        Ok(())
    }

    /// The other servers, to kill and restart by name.
    pub fn server(&mut self, name: &str) -> Result<&mut Process> {
        let servers = [&mut self.etcd, &mut self.controller_manager, &mut self.scheduler, &mut self.kwok];
        servers
            .into_iter()
            .find(|server| server.name() == name)
            .with_context(|| format!("a cluster has no server {name:?}"))
    }

    /// The system pods, running as real processes.
    pub fn pods(&self) -> &PodRunner {
        &self.pods
    }

    /// Its network.
    pub fn network(&self) -> &ClusterNetwork {
        &self.network
    }

    /// Cuts the uplink.
    pub fn cut(&self, cut: Cut) -> Result<()> {
        self.network.cut(cut)
    }

    /// Undoes every cut.
    pub fn heal(&self) -> Result<()> {
        self.network.heal()
    }

    /// Begins to list who opens connections across the uplink.
    pub fn capture_syns(&self) -> Result<SynCapture> {
        SynCapture::start(&self.network)
    }

    /// The servers it was made of.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// An error naming the first server that ended by surprise, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        self.etcd.check()?;
        self.controller_manager.check()?;
        self.scheduler.check()?;
        self.kwok.check()
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("options", &self.options).field("folder", &self.folder).finish_non_exhaustive()
    }
}

fn succeeded(tool: &str, args: &[&str], output: &Output) -> Result<String> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{tool} {}` ended with {}: {}", args.join(" "), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What every cluster has before its controllers start.
fn first_objects(options: &ClusterOptions) -> String {
    let nodes = (0..options.nodes).map(|number| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: node-{number}\n  labels: \
             {{kubernetes.io/hostname: node-{number}, kubernetes.io/os: linux, kubernetes.io/arch: amd64}}\n"
        )
    });
    let storage = "---\napiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata:\n  name: standard\n  \
                   annotations: {storageclass.kubernetes.io/is-default-class: \"true\"}\n\
                   provisioner: test.kubenova/pv\nreclaimPolicy: Delete\nvolumeBindingMode: Immediate\n";
    nodes.chain([storage.to_owned()]).collect()
}

async fn wait_for_nodes(client: &Client, wanted: usize) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    poll::until(format!("{wanted} Ready nodes"), NODES_READY_MAX, || async {
        let nodes = api.list(&Default::default()).await.context("could not list nodes")?;
        let ready: Vec<_> = nodes.iter().filter(|node| is_ready(node)).map(ResourceExt::name_any).collect();
        Ok(Step::when(ready.len() >= wanted, (), format!("ready: {ready:?}")))
    })
    .await
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The end of a server's log in a cluster's folder; for messages.
pub fn log_tail(folder: &Path, server: &str, lines: usize) -> String {
    process::tail(&folder.join(format!("{server}.log")), lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_objects_are_objects() {
        let options = ClusterOptions { nodes: 2, ..ClusterOptions::new("a", 1) };
        let objects = crate::apply::documents(&first_objects(&options)).unwrap();
        let names: Vec<_> = objects.iter().map(ResourceExt::name_any).collect();
        assert_eq!(names, ["node-0", "node-1", "standard"]);
    }
}
