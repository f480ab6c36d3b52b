//! The stored files of a stopped server: copied away as a backup, and put back.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// Name of the folder of a server's backup, beside its store.
pub(crate) const BACKUP: &str = "backup";

/// Makes `to` a copy of `from`, with owners and modes.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to).with_context(|| format!("could not remove {}", to.display()))?;
    }
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().context("could not run cp")?;
    ensure!(copied.success(), "could not copy {} to {}", from.display(), to.display());
    Ok(())
}
