//! A leaf node that stands in a cluster's datacenter: a nats-server that its site runs, with the files of the Secret that the Operator
//! writes.
//!
//! Guarantees: it has no other file; it starts once the Secret is there, and reloads whenever the Operator has renewed what is in it. It
//! ends with the value.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use data_encoding::BASE64;
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use kubenova_env::process::{Process, ProcessSpec};
use kubenova_env::sandbox::Sandbox;
use kubenova_env::servers::Servers;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;

const SECRET: &str = "kubenova-leaf";
/// Where the configuration says that the files are.
const FOLDER: &str = "/etc/kubenova/leaf";
const BOOT_MAX: Duration = Duration::from_secs(30);
/// Time between looks at the Secret; a kubelet takes up to a minute and more.
const LOOK: Duration = Duration::from_secs(2);

type Files = BTreeMap<String, String>;

/// A leaf node, or one that waits for its files.
#[derive(Debug)]
pub struct LeafNode {
    running: JoinHandle<()>,
}

impl LeafNode {
    /// Of the cluster with this name, whose Operator runs in `namespace`; it listens at the address that its files say.
    pub(crate) fn start(cluster: Client, namespace: &str, name: &str, address: SocketAddr) -> Result<Self> {
        let folder = Sandbox::require()?.folder(format!("leaf-{name}"))?;
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Secret"));
        let secrets = Secrets(Api::namespaced_with(cluster, namespace, &kind));
        let running = tokio::spawn(async move {
            if let Err(error) = run(&secrets, folder, address).await {
                eprintln!("the leaf node ended: {error:#}");
            }
        });
        Ok(Self { running })
    }
}

impl Drop for LeafNode {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn run(secrets: &Secrets, folder: PathBuf, address: SocketAddr) -> Result<()> {
    let mut files = secrets.other_than(&Files::new()).await?;
    write(&folder, &files)?;
    let config = folder.join("nats-server.conf").into_os_string();
    let spec =
        ProcessSpec::new("leaf", Servers::find()?.binary("nats-server")?, &folder).args(["--config".into(), config]);
    let mut process = Process::start(spec)?;
    process.wait_listening("the leaf node", address, BOOT_MAX).await?;
    loop {
        files = secrets.other_than(&files).await?;
        write(&folder, &files)?;
        process.signal(Signal::SIGHUP)?;
    }
}

/// What the cluster's API server has for the leaf node.
struct Secrets(Api<DynamicObject>);

impl Secrets {
    /// Waits for files that differ from these. An API server that does not answer is asked again.
    async fn other_than(&self, known: &Files) -> Result<Files> {
        loop {
            if let Ok(Some(secret)) = self.0.get_opt(SECRET).await {
                let files = decoded(&secret.data)?;
                if files != *known {
                    return Ok(files);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn decoded(secret: &Value) -> Result<Files> {
    let data = secret["data"].as_object().into_iter().flatten();
    data.map(|(name, value)| {
        let bytes = BASE64.decode(value.as_str().unwrap_or_default().as_bytes()).context("data is base64")?;
        Ok((name.clone(), String::from_utf8(bytes).context("files are text")?))
    })
    .collect()
}

fn write(folder: &Path, files: &Files) -> Result<()> {
    let here = folder.to_str().context("the folder's name is not text")?;
    for (name, text) in files {
        fs::write(folder.join(name), text.replace(FOLDER, here)).with_context(|| format!("could not write {name}"))?;
    }
    Ok(())
}
