//! What drives a test cluster: the real controller-manager and scheduler, and kwok, which plays
//! nodes and every pod outside the system namespaces.
//!
//! Comes after the API server's bootstrap roles exist; a component that starts earlier is refused
//! and waits longer than we do.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::apiserver::ApiServerFiles;
use crate::process::{Process, ProcessSpec};
use crate::servers::Servers;

/// kwok's stages: how simulated nodes, pods, claims and load balancers move on.
const STAGES: &str = include_str!("../kwok-stages.yaml");

/// Where a component runs.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) servers: &'a Servers,
    pub(crate) folder: &'a Path,
    pub(crate) netns: &'a Path,
}

impl Place<'_> {
    fn spec(&self, program: &str) -> Result<ProcessSpec> {
        Ok(ProcessSpec::new(program, self.servers.binary(program)?, self.folder).netns(self.netns))
    }

    pub(crate) fn controller_manager(&self, kubeconfig: &Path, files: &ApiServerFiles) -> Result<Process> {
        let kubeconfig = kubeconfig.display();
        Process::start(
            self.spec("kube-controller-manager")?.args([
                format!("--kubeconfig={kubeconfig}"),
                format!("--authentication-kubeconfig={kubeconfig}"),
                format!("--authorization-kubeconfig={kubeconfig}"),
                "--authentication-skip-lookup=true".to_owned(),
                format!("--root-ca-file={}", files.authority.display()),
                format!("--service-account-private-key-file={}", files.service_account_key.display()),
                "--leader-elect=false".to_owned(),
                "--use-service-account-credentials=true".to_owned(),
                "--kube-api-qps=500".to_owned(),
                "--kube-api-burst=1000".to_owned(),
                // With node-lifecycle on, one heartbeat missed under load turns every pod's Ready false for good.
                "--controllers=*,-node-ipam-controller,-cloud-node-lifecycle-controller,-node-lifecycle-controller"
                    .to_owned(),
            ]),
        )
    }

    pub(crate) fn scheduler(&self, kubeconfig: &Path) -> Result<Process> {
        let kubeconfig = kubeconfig.display();
        Process::start(self.spec("kube-scheduler")?.args([
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--authentication-skip-lookup=true".to_owned(),
            "--leader-elect=false".to_owned(),
        ]))
    }

    pub(crate) fn kwok(&self, kubeconfig: &Path, node_address: &str) -> Result<Process> {
        let stages = self.folder.join("kwok-stages.yaml");
        fs::write(&stages, STAGES).with_context(|| format!("could not write {}", stages.display()))?;
        // kwok 0.8.0 fills a map of its CEL library without a lock when the first objects of two kinds arrive at once, and ends
        // with "concurrent map writes"; on one processor map writes cannot overlap.
        Process::start(self.spec("kwok")?.env("GOMAXPROCS", "1").args([
            format!("--kubeconfig={}", kubeconfig.display()),
            "--manage-all-nodes=true".to_owned(),
            // Without it the stages' NodeIP is empty.
            format!("--node-ip={node_address}"),
            "--cidr=10.244.0.0/16".to_owned(),
            format!("--config={}", stages.display()),
        ]))
    }
}
