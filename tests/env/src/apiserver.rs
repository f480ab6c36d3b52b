//! The API server of a test cluster.
//!
//! Comes after etcd (both start at once and find each other), before everything that calls it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kube::Client;
use kube::api::{ListParams, Request};

use crate::pki::{self, Authority};
use crate::poll::{self, Step};
use crate::process::{Process, ProcessSpec};
use crate::servers::Servers;
use crate::{audit, etcd};

/// Where it listens, at the cluster's address.
pub const PORT: u16 = 6443;
/// Boot takes about 3 s on two idle cores; a machine that compiles beside it takes ten times that.
const BOOT_MAX: Duration = Duration::from_secs(90);

/// What the API server and its callers share.
#[derive(Debug)]
pub(crate) struct ApiServerFiles {
    pub(crate) authority: PathBuf,
    pub(crate) service_account_key: PathBuf,
    service_account_public: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    audit_policy: PathBuf,
    audit_log: PathBuf,
}

impl ApiServerFiles {
    /// Writes certificates and keys to `secrets`, the audit policy and log to `folder`.
    pub(crate) fn write(authority: &Authority, address: Ipv4Addr, secrets: &Path, folder: &Path) -> Result<Self> {
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let addresses = [address, Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 96, 0, 1)].map(IpAddr::V4);
        let serving = authority.server(&names, &addresses)?;
        let (signing, checking) = pki::service_account_key()?;
        let put = |folder: &Path, name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
            anyhow::Ok(path)
        };
        Ok(Self {
            authority: put(secrets, "ca.crt", authority.certificate())?,
            service_account_key: put(secrets, "service-accounts.key", &signing)?,
            service_account_public: put(secrets, "service-accounts.pub", &checking)?,
            certificate: put(secrets, "apiserver.crt", &serving.certificate)?,
            key: put(secrets, "apiserver.key", &serving.key)?,
            audit_policy: put(folder, "audit-policy.yaml", audit::POLICY)?,
            audit_log: folder.join("audit.log"),
        })
    }
}

/// A running (or killed) API server.
pub struct ApiServer {
    process: Process,
    client: Client,
    audit_log: PathBuf,
}

impl ApiServer {
    pub(crate) fn start(
        servers: &Servers,
        folder: &Path,
        netns: &Path,
        address: Ipv4Addr,
        files: &ApiServerFiles,
        client: Client,
    ) -> Result<Self> {
        let file = |path: &Path| path.display().to_string();
        let spec = ProcessSpec::new("kube-apiserver", servers.binary("kube-apiserver")?, folder)
            .netns(netns)
            // 395-442 MiB become 319; 200MiB makes it collect garbage all the time.
            .env("GOMEMLIMIT", "300MiB")
            .args([
                format!("--etcd-servers={}", etcd::URL),
                format!("--secure-port={PORT}"),
                "--bind-address=0.0.0.0".to_owned(),
                format!("--advertise-address={address}"),
                format!("--tls-cert-file={}", file(&files.certificate)),
                format!("--tls-private-key-file={}", file(&files.key)),
                format!("--client-ca-file={}", file(&files.authority)),
                "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
                "--allow-privileged=true".to_owned(),
                "--authorization-mode=Node,RBAC".to_owned(),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--service-account-key-file={}", file(&files.service_account_public)),
                format!("--service-account-signing-key-file={}", file(&files.service_account_key)),
                // Webhook Services are reached at their endpoints: charts work unchanged, no kube-proxy.
                "--enable-aggregator-routing=true".to_owned(),
                // It would add a taint that nothing removes: the node lifecycle controller is off.
                "--disable-admission-plugins=TaintNodesByCondition".to_owned(),
                format!("--audit-policy-file={}", file(&files.audit_policy)),
                format!("--audit-log-path={}", file(&files.audit_log)),
            ]);
        Ok(Self { process: Process::start(spec)?, client, audit_log: files.audit_log.clone() })
    }

    /// Kills it (SIGKILL: on SIGTERM it waits 60 s for open watches).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again and waits until it is ready.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.restart()?;
        self.wait_for("/readyz").await
    }

    /// Waits until `path` (`/livez/ping`, `/readyz`, …) answers 200.
    pub async fn wait_for(&mut self, path: &str) -> Result<()> {
        let (process, client) = (&mut self.process, &self.client);
        poll::until(format!("the API server's {path}"), BOOT_MAX, || {
            let running = process.check();
            async move {
                running?;
                Ok(Step::from_attempt(ask(client, path).await))
            }
        })
        .await
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    pub(crate) fn audit_log(&self) -> &Path {
        &self.audit_log
    }
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("process", &self.process).finish_non_exhaustive()
    }
}

async fn ask(client: &Client, path: &str) -> Result<()> {
    let request = Request::new(path).list(&ListParams::default()).context("not a path")?;
    client.request_text(request).await.map(drop).with_context(|| format!("{path} did not answer 200"))
}
