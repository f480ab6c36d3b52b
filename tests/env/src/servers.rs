//! Where the programs of others, their charts, and our own binaries are found.
//!
//! Guarantees: a missing program is named, with the command that makes it.
//! Comes before everything that starts a server; `cargo dev servers` builds the set.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// How often a build's progress is looked at; a person reads along.
const LOOK: Duration = Duration::from_millis(500);

/// A set of servers: `bin/` and `charts/`.
#[derive(Clone, Debug)]
pub struct Servers {
    folder: PathBuf,
}

impl Servers {
    /// The set named by `KUBENOVA_SERVERS`, else the latest one built by `cargo dev servers`.
    pub fn find() -> Result<Self> {
        if let Some(folder) = std::env::var_os("KUBENOVA_SERVERS") {
            return Self::at(Path::new(&folder)).context("KUBENOVA_SERVERS does not name a set of servers");
        }
        let home = std::env::var_os("HOME").context("HOME is not set; set KUBENOVA_SERVERS")?;
        Self::at(&Path::new(&home).join(".cache/kubenova/sets/latest"))
            .context("no servers built yet: run `cargo dev servers`, or set KUBENOVA_SERVERS")
    }

    /// Waits until every server is built: `cargo dev` starts programs while it still builds, and
    /// names two files: the progress, and one that appears at the end. `show` is called with each
    /// new line of progress.
    pub async fn wait_until_built(mut show: impl FnMut(&str)) -> Result<Self> {
        let named = |name| std::env::var_os(name).map(PathBuf::from);
        let Some(ready) = named("KUBENOVA_SERVERS_READY") else {
            return Self::find();
        };
        let progress = named("KUBENOVA_SERVERS_PROGRESS");
        let mut shown = String::new();
        loop {
            if let Ok(outcome) = std::fs::read_to_string(&ready) {
                ensure!(outcome.trim() == "ok", "the servers were not built: {}", outcome.trim());
                return Self::find();
            }
            let line = progress.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
            if line.trim() != shown {
                shown = line.trim().to_owned();
                show(&shown);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The set in `folder`.
    pub fn at(folder: &Path) -> Result<Self> {
        if !folder.join("bin").is_dir() {
            bail!("{} has no folder bin", folder.display());
        }
        let folder = folder.canonicalize().with_context(|| format!("could not resolve {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// The folder with all programs, for `PATH`.
    pub fn programs(&self) -> PathBuf {
        self.folder.join("bin")
    }

    /// The program `name`.
    pub fn binary(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join("bin").join(name);
        if !path.is_file() {
            bail!("{} is missing: run `cargo dev servers`", path.display());
        }
        path.canonicalize().with_context(|| format!("could not resolve {}", path.display()))
    }

    /// The chart `name` (a folder with `Chart.yaml`).
    pub fn chart(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join("charts").join(name);
        if !path.join("Chart.yaml").is_file() {
            bail!("{} is missing: run `cargo dev servers`", path.display());
        }
        path.canonicalize().with_context(|| format!("could not resolve {}", path.display()))
    }
}

/// One of our own programs, from `KUBENOVA_BIN_DIR`.
pub fn own_binary(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("KUBENOVA_BIN_DIR")
        .context("KUBENOVA_BIN_DIR is not set: run through `cargo dev`, or name the folder of our binaries")?;
    let path = Path::new(&folder).join(name);
    if !path.is_file() {
        bail!("{} is missing: build it with `cargo build --bin {name}`", path.display());
    }
    path.canonicalize().with_context(|| format!("could not resolve {}", path.display()))
}

/// A program of PostgreSQL 15, as Debian installs it.
pub fn postgres_binary(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("KUBENOVA_POSTGRES_BIN")
        .map_or_else(|| PathBuf::from("/usr/lib/postgresql/15/bin"), PathBuf::from);
    let path = folder.join(name);
    if !path.is_file() {
        bail!("{} is missing: install postgresql-15, or name its bin folder in KUBENOVA_POSTGRES_BIN", path.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_the_command_that_makes_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Servers::at(folder.path()).is_err());
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        let servers = Servers::at(folder.path()).unwrap();
        let error = servers.binary("etcd").expect_err("nothing is there").to_string();
        assert!(error.contains("etcd") && error.contains("cargo dev servers"), "{error}");
    }
}
