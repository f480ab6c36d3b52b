//! The Manager as a process: `kubenova-manager --config <file> <verb>`.
//!
//! The configuration's text is the caller's; nothing here knows a key of it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Process, ProcessSpec};
use crate::sandbox::Sandbox;
use crate::servers::own_binary;

const BOOT_MAX: Duration = Duration::from_secs(60);

/// A Manager that is configured, and runs or not.
#[derive(Debug)]
pub struct ManagerProcess {
    name: String,
    config: PathBuf,
    folder: PathBuf,
    binary: PathBuf,
    variables: Vec<(String, String)>,
    process: Option<Process>,
}

impl ManagerProcess {
    /// Writes the configuration of a Manager called `name` (also its folder and log).
    pub fn configure(sandbox: &Sandbox, name: &str, config: &str) -> Result<Self> {
        let folder = sandbox.folder(name)?;
        let file = folder.join("manager.yaml");
        fs::write(&file, config).with_context(|| format!("could not write {}", file.display()))?;
        Ok(Self {
            name: name.to_owned(),
            config: file,
            folder,
            binary: own_binary("kubenova-manager")?,
            variables: Vec::new(),
            process: None,
        })
    }

    /// A variable for every verb from now on (`RUST_LOG`, `KUBENOVA_FAILPOINT`).
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// The program.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The Manager's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Runs a verb to its end and returns what it printed: `run(&["init"])`.
    pub fn run(&self, verb: &[&str]) -> Result<String> {
        self.spec(verb).run_to_end()
    }

    /// Writes the broker's configuration to `folder`.
    pub fn write_nats_config(&self, folder: &Path) -> Result<()> {
        let out = folder.to_str().context("the folder's name is not text")?;
        self.run(&["nats", "config", "--out", out]).map(drop)
    }

    /// Starts `serve`; see [`ManagerProcess::wait_listening`].
    pub fn serve(&mut self) -> Result<()> {
        self.process = Some(Process::start(self.spec(&["serve"]))?);
        Ok(())
    }

    /// Starts `bridge`, where this is the configuration of one; see [`ManagerProcess::wait_listening`].
    pub fn serve_bridge(&mut self) -> Result<()> {
        self.process = Some(Process::start(self.spec(&["bridge"]))?);
        Ok(())
    }

    /// Waits until something listens at `address` while `serve` runs.
    pub async fn wait_listening(&mut self, address: SocketAddr) -> Result<()> {
        let process = self.process.as_mut().context("the Manager was not started: call serve first")?;
        process.wait_listening("the Manager", address, BOOT_MAX).await
    }

    /// Kills it (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// Kills it if it runs, and starts it again.
    pub fn restart(&mut self) -> Result<()> {
        self.process.as_mut().context("the Manager was not started: call serve first")?.restart()
    }

    /// Asks it to end and waits.
    pub async fn stop(&mut self, grace: Duration) -> Result<()> {
        match &mut self.process {
            Some(process) => process.stop(grace).await,
            None => Ok(()),
        }
    }

    /// The serving process, if it was started.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// What `serve` printed so far.
    pub fn log(&self) -> Result<String> {
        let path = self.folder.join(format!("{}.log", self.name));
        fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
    }

    fn spec(&self, verb: &[&str]) -> ProcessSpec {
        let mut spec = ProcessSpec::new(&self.name, &self.binary, &self.folder)
            .args(["--config".into(), self.config.clone().into_os_string()])
            .args(verb.iter().copied());
        for (name, value) in &self.variables {
            spec = spec.env(name, value);
        }
        spec
    }
}
