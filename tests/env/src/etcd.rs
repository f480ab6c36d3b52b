//! The store of a test cluster.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::process::{Process, ProcessSpec};
use crate::servers::Servers;

/// Where it listens, in the cluster's namespace.
pub(crate) const URL: &str = "http://127.0.0.1:2379";
const PEER_URL: &str = "http://127.0.0.1:2380";

/// Starts etcd. `durable` keeps fsync on, for scenarios about crashes of the machine; a killed
/// process loses nothing either way.
pub(crate) fn start(servers: &Servers, folder: &Path, netns: &Path, durable: bool) -> Result<Process> {
    // 50/500 boots 3.6 s faster than etcd's production values; 10/100 idles at three times the CPU.
    let mut spec = ProcessSpec::new("etcd", servers.binary("etcd")?, folder).netns(netns).args([
        "--name=default".to_owned(),
        format!("--data-dir={}", store(folder).display()),
        format!("--listen-client-urls={URL}"),
        format!("--advertise-client-urls={URL}"),
        format!("--listen-peer-urls={PEER_URL}"),
        format!("--initial-advertise-peer-urls={PEER_URL}"),
        format!("--initial-cluster=default={PEER_URL}"),
        "--heartbeat-interval=50".to_owned(),
        "--election-timeout=500".to_owned(),
        "--log-level=warn".to_owned(),
    ]);
    if !durable {
        spec = spec.args(["--unsafe-no-fsync=true"]);
    }
    Process::start(spec)
}

/// Its files.
pub(crate) fn store(folder: &Path) -> PathBuf {
    folder.join("etcd")
}
