//! Networks: a namespace per cluster and per system pod, and the ways to cut a cluster off.
//!
//! ```text
//!  sandbox: lo 10.77.0.1 (Manager, hub)      kN 10.77.N.1 (gateway of cluster N)
//!                                             │ veth
//!  cluster N:   e0 (uplink) ── br0 10.77.N.2 (API server, simulated nodes)
//!                               │  │
//!  system pods:           10.77.N.11 …
//! ```
//! Guarantees: cutting the uplink leaves the cluster's own traffic working; clusters reach nothing
//! but the sandbox; only namespaces made here are ever a target.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};

/// The first address for pods; those below are the gateway's and the cluster's.
const POD_FIRST: u8 = 11;
/// The last address for pods.
const POD_LAST: u8 = 254;

/// A network namespace, held by a file.
#[derive(Debug)]
pub struct Netns {
    file: PathBuf,
}

impl Netns {
    /// Makes a namespace, held at `folder/name`.
    pub fn create(folder: &Path, name: &str) -> Result<Self> {
        let file = folder.join(name);
        fs::File::create(&file).with_context(|| format!("could not make {}", file.display()))?;
        let mut flag = std::ffi::OsString::from("--net=");
        flag.push(&file);
        let status = Command::new("unshare").arg(flag).arg("true").status().context("could not start unshare")?;
        if !status.success() {
            bail!("could not make network namespace {name:?} ({status})");
        }
        Ok(Self { file })
    }

    /// The file that names the namespace, for `nsenter --net=` and `ip … netns`.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Starts `work` on a new thread inside the namespace. What it opens stays there. When the
    /// namespace cannot be entered the work is dropped undone.
    pub fn spawn(&self, work: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>> {
        let file = fs::File::open(&self.file).context("could not open the network namespace")?;
        std::thread::Builder::new()
            .name("in-netns".to_owned())
            .spawn(move || {
                if setns(file, CloneFlags::CLONE_NEWNET).is_ok() {
                    work();
                }
            })
            .context("could not start a thread")
    }

    /// Runs `work` on a new thread inside the namespace and waits for it.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (done, outcome) = std::sync::mpsc::channel();
        self.spawn(move || drop(done.send(work())))?;
        outcome.recv().context("could not enter the network namespace, or the work panicked")
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = umount2(&self.file, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.file);
    }
}

/// How to cut a cluster from the Manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing passes, without an error on either side: the switch lost its port.
    Silent,
    /// What the cluster sends is lost in silence; the rest arrives.
    SilentOutbound,
    /// What is sent to the cluster is lost in silence; the rest arrives.
    SilentInbound,
    /// The link is down: senders inside get an error after about 3 s.
    Down,
}

/// Which family of addresses leads out of a cluster. Inside, IPv4 does in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uplink {
    /// IPv4 only.
    #[default]
    Ipv4,
    /// IPv6 only. There is an IPv4 route, and what is sent by it is lost in silence, as in a network whose IPv4 is not finished.
    Ipv6,
}

/// An address that no interface has: frames to it are lost.
const UNUSED_MAC: &str = "02:00:00:00:00:01";

/// The network of one cluster.
#[derive(Debug)]
pub struct ClusterNetwork {
    index: u8,
    leads_out: Uplink,
    netns: Netns,
    folder: PathBuf,
    pods: Mutex<Vec<u8>>,
}

impl ClusterNetwork {
    /// Makes the network of cluster `index` (1 to 250); its namespace files lie in `folder`.
    pub fn create(folder: &Path, index: u8, leads_out: Uplink) -> Result<Self> {
        if !(1..=250).contains(&index) {
            bail!("cluster index {index} is not between 1 and 250: it is the third byte of 10.77.N.0/24");
        }
        let netns = Netns::create(folder, &format!("cluster-{index}"))?;
        let network = Self { index, leads_out, netns, folder: folder.to_owned(), pods: Mutex::new(Vec::new()) };
        let (outer, gateway, address) = (network.uplink(), network.gateway(), network.address());
        ip_batch(
            None,
            &format!(
                "link add {outer} type veth peer name e0 netns {}\n\
                 addr add {gateway}/24 dev {outer}\n\
                 link set {outer} up\n{}",
                network.netns.file().display(),
                network.outer_ipv6(),
            ),
        )?;
        ip_batch(
            Some(network.netns.file()),
            &format!(
                "link set lo up\n\
                 link add br0 type bridge\n\
                 link set e0 master br0\n\
                 link set e0 up\n\
                 addr add {address}/24 dev br0\n\
                 link set br0 up\n\
                 route add default via {gateway}\n{}",
                network.inner_ipv6("br0", 2),
            ),
        )?;
        Ok(network)
    }

    /// The cluster's number.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// The cluster's namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The address of the API server.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.index, 2)
    }

    /// The sandbox's end of the uplink, as an address.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.index, 1)
    }

    /// The sandbox's end of the uplink, as an address, where IPv6 leads out.
    fn gateway_ipv6(&self) -> Ipv6Addr {
        self.ipv6(1)
    }

    fn ipv6(&self, last: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, u16::from(self.index), 0, 0, 0, u16::from(last))
    }

    /// What the sandbox's end of the uplink has besides.
    fn outer_ipv6(&self) -> String {
        match self.leads_out {
            Uplink::Ipv4 => String::new(),
            Uplink::Ipv6 => format!("addr add {}/64 dev {} nodad\n", self.gateway_ipv6(), self.uplink()),
        }
    }

    /// What an interface inside has besides.
    fn inner_ipv6(&self, interface: &str, last: u8) -> String {
        match self.leads_out {
            Uplink::Ipv4 => String::new(),
            Uplink::Ipv6 => format!(
                "addr add {}/64 dev {interface} nodad\n\
                 route add default via {}\n\
                 neigh add {} lladdr {UNUSED_MAC} dev {interface} nud permanent\n",
                self.ipv6(last),
                self.gateway_ipv6(),
                self.gateway(),
            ),
        }
    }

    /// The sandbox's end of the uplink, as an interface.
    pub fn uplink(&self) -> String {
        format!("k{}", self.index)
    }

    /// Cuts the uplink.
    pub fn cut(&self, cut: Cut) -> Result<()> {
        match cut {
            Cut::Silent => self.inside("link set e0 nomaster\n"),
            Cut::Down => self.inside("link set e0 down\n"),
            Cut::SilentOutbound => {
                tc(Some(self.netns.file()), &["qdisc", "add", "dev", "e0", "root", "pfifo", "limit", "0"])
            }
            Cut::SilentInbound => tc(None, &["qdisc", "add", "dev", &self.uplink(), "root", "pfifo", "limit", "0"]),
        }
        .with_context(|| format!("could not cut cluster {} off ({cut:?})", self.index))
    }

    /// Undoes every cut; harmless when nothing is cut.
    pub fn heal(&self) -> Result<()> {
        self.inside("link set e0 master br0\nlink set e0 up\n")
            .with_context(|| format!("could not heal cluster {}", self.index))?;
        // Deleting a queue that is not there fails, which is what we want to be true afterwards.
        let _ = tc(Some(self.netns.file()), &["qdisc", "del", "dev", "e0", "root"]);
        let _ = tc(None, &["qdisc", "del", "dev", &self.uplink(), "root"]);
        Ok(())
    }

    /// A new namespace on the bridge, with the lowest free address.
    pub fn attach_pod(&self, name: &str) -> Result<PodLink> {
        let last = self.claim_address()?;
        let address = Ipv4Addr::new(10, 77, self.index, last);
        self.connect_pod(name, last, address).inspect_err(|_| self.release_address(last))
    }

    fn connect_pod(&self, name: &str, last: u8, address: Ipv4Addr) -> Result<PodLink> {
        let netns = Netns::create(&self.folder, &format!("pod-{}-{last}-{name}", self.index))?;
        let port = format!("p{last}");
        self.inside(&format!(
            "link add {port} type veth peer name eth0 netns {}\n\
             link set {port} master br0\n\
             link set {port} up\n",
            netns.file().display()
        ))?;
        ip_batch(
            Some(netns.file()),
            &format!(
                "link set lo up\n\
                 addr add {address}/24 dev eth0\n\
                 link set eth0 up\n\
                 route add default via {}\n{}",
                self.gateway(),
                self.inner_ipv6("eth0", last),
            ),
        )?;
        Ok(PodLink { netns, address, last, port })
    }

    /// Takes a pod's link away. Explicit, because namespaces vanish some time after their last user.
    pub fn detach_pod(&self, link: &PodLink) {
        let _ = self.inside(&format!("link del {}\n", link.port));
        self.release_address(link.last);
    }

    fn claim_address(&self) -> Result<u8> {
        let mut taken = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let free = (POD_FIRST..=POD_LAST)
            .find(|last| !taken.contains(last))
            .context("all pod addresses of the cluster are taken")?;
        taken.push(free);
        Ok(free)
    }

    fn release_address(&self, last: u8) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).retain(|taken| *taken != last);
    }

    fn inside(&self, lines: &str) -> Result<()> {
        ip_batch(Some(self.netns.file()), lines)
    }
}

impl Drop for ClusterNetwork {
    fn drop(&mut self) {
        let _ = ip_batch(None, &format!("link del {}\n", self.uplink()));
    }
}

/// A pod's place on the bridge.
#[derive(Debug)]
pub struct PodLink {
    netns: Netns,
    address: Ipv4Addr,
    last: u8,
    port: String,
}

impl PodLink {
    /// The pod's namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The pod's address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }
}

/// Runs `ip -batch -` in a namespace (ours if none).
pub(crate) fn ip_batch(netns: Option<&Path>, lines: &str) -> Result<()> {
    let mut child = in_namespace(netns, "ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("could not start ip; install iproute2")?;
    child.stdin.take().context("ip has an input")?.write_all(lines.as_bytes())?;
    let output = child.wait_with_output().context("could not wait for ip")?;
    if !output.status.success() {
        bail!("ip refused ({}) in:\n{lines}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn tc(netns: Option<&Path>, args: &[&str]) -> Result<()> {
    let output = in_namespace(netns, "tc").args(args).output().context("could not start tc; install iproute2")?;
    if !output.status.success() {
        bail!("tc {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn in_namespace(netns: Option<&Path>, program: &str) -> Command {
    let Some(file) = netns else {
        return Command::new(program);
    };
    let mut flag = std::ffi::OsString::from("--net=");
    flag.push(file);
    let mut command = Command::new("nsenter");
    command.arg(flag).arg("--").arg(program);
    command
}
