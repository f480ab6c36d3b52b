//! Where things are: the repository, the cache, and the folders inside the cache.
//!
//! Guarantees absolute paths, and that no built thing lands in the repository.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The folders everything else is derived from.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The root of the repository.
    pub(crate) repository: PathBuf,
    /// What is built once and kept: `KUBENOVA_CACHE`, or `~/.cache/kubenova`.
    pub(crate) cache: PathBuf,
    /// Where Rust builds go: `CARGO_TARGET_DIR`, or `target` in the cache.
    pub(crate) target: PathBuf,
}

impl Places {
    /// Finds them from the environment and the working folder.
    pub(crate) fn find() -> Result<Self> {
        let repository = repository()?;
        let cache = match set_variable("KUBENOVA_CACHE") {
            Some(path) => absolute(&path)?,
            None => match set_variable("HOME") {
                Some(home) => home.join(".cache/kubenova"),
                None => {
                    bail!("HOME is not set; set KUBENOVA_CACHE to a folder for servers and builds")
                }
            },
        };
        let target = match set_variable("CARGO_TARGET_DIR") {
            Some(path) => absolute(&path)?,
            None => cache.join("target"),
        };
        Ok(Self { repository, cache, target })
    }

    /// The pinned tools, one Go module each.
    pub(crate) fn tools(&self) -> PathBuf {
        self.repository.join("tests/servers")
    }

    /// Built tools, one folder for each version.
    pub(crate) fn servers(&self) -> PathBuf {
        self.cache.join("servers")
    }

    /// Links to the tools that belong together.
    pub(crate) fn sets(&self) -> PathBuf {
        self.cache.join("sets")
    }

    /// Development tools that are no servers, such as cargo-deny.
    pub(crate) fn helpers(&self) -> PathBuf {
        self.cache.join("tools")
    }

    /// What campaigns generate and compile.
    pub(crate) fn campaigns(&self) -> PathBuf {
        self.cache.join("campaigns")
    }

    /// The logs of all runs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.cache.join("logs")
    }

    /// A fresh folder for the logs of this run; only the newest few runs are kept.
    pub(crate) fn new_logs(&self, command: &str) -> Result<PathBuf> {
        let logs = self.logs();
        let mine = logs.join(format!("{command}-{}", std::process::id()));
        if mine.exists() {
            // An earlier run had the same process id.
            std::fs::remove_dir_all(&mine).with_context(|| format!("could not remove {}", mine.display()))?;
        }
        std::fs::create_dir_all(&mine).with_context(|| format!("could not create {}", mine.display()))?;
        forget_old_runs(&logs);
        Ok(mine)
    }
}

/// Runs whose logs are kept; enough to look back over an afternoon.
const RUNS_KEPT: usize = 20;

fn forget_old_runs(logs: &Path) {
    let Ok(entries) = std::fs::read_dir(logs) else {
        return;
    };
    let mut runs: Vec<_> =
        entries.flatten().filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    runs.sort();
    let surplus = runs.len().saturating_sub(RUNS_KEPT);
    for (_, path) in runs.drain(..surplus) {
        // Old logs are a convenience: whoever still holds them open loses nothing.
        let _ = std::fs::remove_dir_all(path);
    }
}

fn repository() -> Result<PathBuf> {
    // `cargo run` sets this to tests/dev, whatever the working folder is.
    if let Some(here) = set_variable("CARGO_MANIFEST_DIR")
        && let Some(root) = here.ancestors().nth(2)
        && is_repository(root)
    {
        return Ok(root.to_path_buf());
    }
    let here = std::env::current_dir().context("could not read the working folder")?;
    match here.ancestors().find(|folder| is_repository(folder)) {
        Some(root) => Ok(root.to_path_buf()),
        None => bail!("{} is not in the KubeNova repository; change into it first", here.display()),
    }
}

fn is_repository(folder: &Path) -> bool {
    folder.join("tests/servers").is_dir() && folder.join("Cargo.toml").is_file()
}

fn set_variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("could not make {} absolute", path.display()))
}
