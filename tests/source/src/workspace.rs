//! Our crates as their manifests declare them, and the whole dependency graph as `Cargo.lock` records it.
//!
//! Reads `cargo metadata --no-deps` and `Cargo.lock` only. Neither needs a crate to have been downloaded, so the answer
//! is the same on a machine that has built nothing yet; `cargo metadata` with dependencies would want the sources of
//! crates that only other platforms build.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

/// Crate name to the names of the crates it uses.
pub type Graph = BTreeMap<String, BTreeSet<String>>;

/// For what a crate declares a dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DependencyKind {
    /// `[dev-dependencies]`
    Dev,
    /// `[build-dependencies]`
    Build,
}

/// One line of a manifest's dependency table.
#[derive(Debug, Clone, Deserialize)]
pub struct Dependency {
    /// Name of the crate it names.
    pub name: String,
    /// Name by which the source calls it, where that differs.
    pub rename: Option<String>,
    /// `None` for `[dependencies]`.
    pub kind: Option<DependencyKind>,
    /// Folder, when it is a crate of ours.
    pub path: Option<PathBuf>,
    /// Features that this line switches on.
    pub features: Vec<String>,
}

impl Dependency {
    /// The name in source code: hyphens become underscores.
    #[must_use]
    pub fn identifier(&self) -> String {
        self.rename.as_ref().unwrap_or(&self.name).replace('-', "_")
    }
}

/// A crate of this workspace.
#[derive(Debug, Clone, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its `Cargo.toml`.
    pub manifest_path: PathBuf,
    /// What the manifest declares, all kinds.
    pub dependencies: Vec<Dependency>,
    /// `[package.metadata]`.
    pub metadata: Option<serde_json::Value>,
}

impl Package {
    /// It is below `tests`, and no part of the product.
    pub fn is_for_tests(&self) -> bool {
        self.folder().parent().is_some_and(|parent| parent.ends_with("tests"))
    }

    /// The folder of its manifest.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.manifest_path.parent().map(PathBuf::from).unwrap_or_default()
    }

    /// True when a file below [`Self::folder`] belongs to a crate in a folder of its own between the two.
    #[must_use]
    pub fn leaves_to_another_crate(&self, path: &Path) -> bool {
        let folder = self.folder();
        path.ancestors().skip(1).take_while(|it| *it != folder).any(|it| it.join("Cargo.toml").is_file())
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// The crates of this workspace.
///
/// # Errors
/// When cargo cannot read a manifest.
pub fn packages() -> anyhow::Result<Vec<Package>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(crate::repository_root())
        .output()
        .context("could not run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("could not read cargo metadata")?;
    Ok(metadata.packages)
}

/// Our crates and which crates of ours each uses, development dependencies left out.
#[must_use]
pub fn arrows(packages: &[Package]) -> Graph {
    let ours = |package: &Package| {
        let used = package.dependencies.iter().filter(|it| it.kind.is_none() && it.path.is_some());
        used.map(|it| it.name.clone()).collect()
    };
    packages.iter().map(|package| (package.name.clone(), ours(package))).collect()
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<LockedPackage>,
}

#[derive(Deserialize)]
struct LockedPackage {
    name: String,
    #[serde(default)]
    dependencies: Vec<String>,
}

/// Every crate of `Cargo.lock` with the crates it uses: on any platform, with any feature that is on somewhere. Of our
/// own crates the lock file mixes in development dependencies, so theirs come from the manifests.
///
/// # Errors
/// When `Cargo.lock` cannot be read.
pub fn locked(packages: &[Package]) -> anyhow::Result<Graph> {
    let text =
        std::fs::read_to_string(crate::repository_root().join("Cargo.lock")).context("could not read Cargo.lock")?;
    let lock: Lock = toml::from_str(&text).context("could not parse Cargo.lock")?;
    let mut graph = Graph::new();
    for package in lock.package {
        // "name", or "name version" where several versions are locked.
        let used = package.dependencies.iter().filter_map(|it| it.split(' ').next()).map(str::to_owned);
        graph.entry(package.name).or_default().extend(used);
    }
    for package in packages {
        let normal = package.dependencies.iter().filter(|it| it.kind.is_none()).map(|it| it.name.clone());
        graph.insert(package.name.clone(), normal.collect());
    }
    Ok(graph)
}
