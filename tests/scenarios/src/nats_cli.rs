//! The real `nats` CLI with the read-only context that `kubenova-manager nats config` writes for administrators.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The CLI with one context.
#[derive(Debug, Clone)]
pub struct NatsCli {
    /// The program.
    pub program: PathBuf,
    /// Folder in which the CLI finds `nats/context/<name>.json`.
    pub config_home: PathBuf,
    /// Name of the context.
    pub context: String,
}

impl NatsCli {
    /// Runs it and returns what it printed.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).output().context("could not start the nats CLI")?;
        if !output.status.success() {
            bail!(
                "nats {} failed: {}{}",
                args.join(" "),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it and expects it to be refused; returns what it said.
    pub fn refused(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).output().context("could not start the nats CLI")?;
        if output.status.success() {
            bail!("nats {} was allowed: {}", args.join(" "), String::from_utf8_lossy(&output.stdout));
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("XDG_CONFIG_HOME", &self.config_home)
            .args(["--context", &self.context, "--timeout", "5s"])
            .args(args);
        command
    }
}
