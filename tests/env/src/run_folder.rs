//! The folder of one run: everything a run writes lies in it.
//!
//! Guarantees: removed when the run succeeds; kept and named when it fails; folders of dead runs
//! older than a day are removed by the next run. A folder is "alive" while its owner holds a lock,
//! so a killed owner needs no cleaning up after itself.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

/// Where runs live unless `KUBENOVA_RUNS` names another folder.
const RUNS_DEFAULT: &str = "/tmp/kubenova-runs";
/// Long enough to look at yesterday's failure, short enough not to fill a disk.
const KEEP: Duration = Duration::from_secs(24 * 3600);
/// The lock file; also what marks a folder as ours.
const ALIVE: &str = "alive";

/// A run's folder, owned by the process outside the sandbox.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    _alive: Flock<File>,
}

impl RunFolder {
    /// Removes dead folders older than a day and makes a new one.
    pub(crate) fn create() -> Result<Self> {
        let runs = runs_folder();
        fs::create_dir_all(&runs).with_context(|| {
            format!("could not make {}; set KUBENOVA_RUNS to a folder you may write", runs.display())
        })?;
        clean(&runs, KEEP);
        let path = tempfile::Builder::new()
            .prefix(&format!("{}-", std::process::id()))
            .rand_bytes(4)
            .tempdir_in(&runs)
            .with_context(|| format!("could not make a folder in {}", runs.display()))?
            .keep();
        let alive = lock(&path).context("could not lock the run's folder")?;
        Ok(Self { path, _alive: alive })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the folder; called when the run succeeded.
    pub(crate) fn remove(self) -> Result<()> {
        remove(&self.path)
    }
}

/// One folder a user: no other user can write to what root made.
fn runs_folder() -> PathBuf {
    let default = || OsString::from(format!("{RUNS_DEFAULT}-{}", nix::unistd::getuid()));
    std::env::var_os("KUBENOVA_RUNS").unwrap_or_else(default).into()
}

fn lock(folder: &Path) -> Result<Flock<File>> {
    let file = File::create(folder.join(ALIVE))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

/// Removes folders in `runs` that no process holds and that are older than `keep`. What cannot be
/// removed is left: another user's run is none of our business.
fn clean(runs: &Path, keep: Duration) {
    let Ok(entries) = fs::read_dir(runs) else {
        return;
    };
    for folder in entries.flatten().map(|entry| entry.path()) {
        let alive = folder.join(ALIVE);
        let old = fs::metadata(&alive)
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|made| made.elapsed().ok())
            .is_some_and(|age| age >= keep);
        let Ok(file) = File::open(&alive) else {
            continue;
        };
        if old && Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
            let _ = remove(&folder);
        }
    }
}

/// `remove_dir_all`, also when a server left a folder that even its owner may not write.
fn remove(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).with_context(|| format!("could not remove {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dead_and_old_folders_are_cleaned() {
        let runs = tempfile::tempdir().unwrap();
        let (held, dead, foreign) = ("held", "dead", "foreign");
        for name in [held, dead, foreign] {
            fs::create_dir(runs.path().join(name)).unwrap();
        }
        let _lock = lock(&runs.path().join(held)).unwrap();
        drop(lock(&runs.path().join(dead)).unwrap());
        clean(runs.path(), KEEP);
        assert!(runs.path().join(dead).exists(), "younger than a day");
        clean(runs.path(), Duration::ZERO);
        assert!(runs.path().join(held).exists(), "its run is alive");
        assert!(!runs.path().join(dead).exists(), "its run is dead and it is old");
        assert!(runs.path().join(foreign).exists(), "not a run of ours");
    }
}
