//! A leaf node that stands in a cluster's datacenter: a nats-server that its site runs, with the files of the Secret that the Operator
//! writes.
//!
//! Guarantees: it has no other file; it is given what the Operator renews, and reloads, while [`LeafNode::follow`] runs. It ends with the
//! value.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use data_encoding::BASE64;
use kubenova_env::poll::{self, Step};
use kubenova_env::process::{Process, ProcessSpec};
use kubenova_env::sandbox::Sandbox;
use kubenova_env::servers::Servers;
use nix::sys::signal::Signal;

use crate::site::{NAMESPACE, Site, text};

/// Where the configuration says that the files are.
const FOLDER: &str = "/etc/kubenova/leaf";
/// The Operator writes them once the cluster has enrolled.
const WRITTEN_MAX: Duration = Duration::from_secs(60);
const BOOT_MAX: Duration = Duration::from_secs(30);
/// Time between looks at the Secret; a kubelet takes up to a minute and more.
const LOOK: Duration = Duration::from_secs(2);

type Files = BTreeMap<String, String>;

/// A running leaf node.
#[derive(Debug)]
pub struct LeafNode {
    process: Process,
    folder: PathBuf,
    files: Files,
}

impl LeafNode {
    /// Waits for the Secret, starts nats-server with its files, and waits until it listens at the address that they say.
    pub async fn start(sandbox: &Sandbox, site: &Site, address: SocketAddr) -> Result<Self> {
        let folder = sandbox.folder("leaf")?;
        let files = poll::until("the files of the leaf node", WRITTEN_MAX, || async {
            Ok(stored(site)?.map_or(Step::Waiting("there is no Secret".to_owned()), Step::Done))
        })
        .await?;
        write(&folder, &files)?;
        let config = folder.join("nats-server.conf").into_os_string();
        let spec = ProcessSpec::new("leaf", Servers::find()?.binary("nats-server")?, &folder)
            .args(["--config".into(), config]);
        let mut process = Process::start(spec)?;
        process.wait_listening("the leaf node", address, BOOT_MAX).await?;
        Ok(Self { process, folder, files })
    }

    /// Gives it the Secret's files whenever they change, and has it reload.
    pub async fn follow(&mut self, site: &Site) -> Result<Infallible> {
        loop {
            tokio::time::sleep(LOOK).await;
            let files = stored(site)?.context("the Secret of the leaf node is gone")?;
            if files != self.files {
                write(&self.folder, &files)?;
                self.process.signal(Signal::SIGHUP)?;
                self.files = files;
            }
        }
    }
}

fn stored(site: &Site) -> Result<Option<Files>> {
    let name = "metadata.name=kubenova-leaf";
    let found = site.list(&["secrets", "-n", NAMESPACE, "--field-selector", name])?;
    let Some(data) = found.first().and_then(|secret| secret["data"].as_object()) else { return Ok(None) };
    let decoded = data.keys().map(|name| {
        let bytes = BASE64.decode(text(&found[0], &format!("/data/{name}"))?.as_bytes());
        Ok((name.clone(), String::from_utf8(bytes.context("data is base64")?).context("files are text")?))
    });
    decoded.collect::<Result<Files>>().map(Some)
}

fn write(folder: &Path, files: &Files) -> Result<()> {
    let here = folder.to_str().context("the folder's name is not text")?;
    for (name, text) in files {
        fs::write(folder.join(name), text.replace(FOLDER, here)).with_context(|| format!("could not write {name}"))?;
    }
    Ok(())
}
