//! The checkout that a program runs in.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// What only the root of the checkout holds.
const MARK: &str = "deploy/helm/operator/Chart.yaml";

/// The root of the checkout around the current folder. Asked while it runs: a program in a shared target folder may have
/// been compiled in another checkout.
pub fn root() -> Result<PathBuf> {
    let here = std::env::current_dir().context("there is no current folder")?;
    let found = here.ancestors().find(|folder| folder.join(MARK).is_file());
    found.map(PathBuf::from).with_context(|| format!("{} is not within a checkout of KubeNova", here.display()))
}
