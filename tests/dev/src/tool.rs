//! One pinned tool: what its folder under `tests/servers` says, and the name its build gets.
//!
//! The name holds a hash of every file of the folder and of the Go version, so a build is never
//! taken for another one. Reading a tool starts no program.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// A Go package and the name of the binary that comes out of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Binary {
    /// The package's import path.
    pub(crate) package: String,
    /// The file name in `bin`.
    pub(crate) name: String,
}

/// A folder of a Go module that holds a chart.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chart {
    /// The module's path.
    pub(crate) module: String,
    /// The chart's folder inside the module.
    pub(crate) folder: String,
    /// The folder name in `charts`.
    pub(crate) name: String,
}

/// What `tool.toml` says. Unknown keys are errors, so that a misspelled one is not ignored.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// What the tool is for.
    pub(crate) summary: String,
    /// What is needed first is built first.
    pub(crate) order: u64,
    /// A cold build on two cores, measured.
    pub(crate) estimate_seconds: u64,
    /// Linker flags beside `-s -w`.
    #[serde(default)]
    pub(crate) ldflags: String,
    /// At least one.
    #[serde(default, rename = "binary")]
    pub(crate) binaries: Vec<Binary>,
    /// Mostly none.
    #[serde(default, rename = "chart")]
    pub(crate) charts: Vec<Chart>,
}

/// A tool as it stands in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tool {
    /// The folder's name.
    pub(crate) name: String,
    /// The folder: a Go module.
    pub(crate) folder: PathBuf,
    /// What to build.
    pub(crate) recipe: Recipe,
    /// Twelve hexadecimal digits over all its files and the Go version.
    pub(crate) hash: String,
}

impl Tool {
    /// The name of its build: `etcd-0123456789ab`.
    pub(crate) fn build_name(&self) -> String {
        format!("{}-{}", self.name, self.hash)
    }
}

/// Reads every tool under `folder`, in the order of need.
pub(crate) fn read_all(folder: &Path, go_version: &str) -> Result<Vec<Tool>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))?;
    let mut tools = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("could not list {}", folder.display()))?.path();
        if path.is_dir() {
            tools.push(read(&path, go_version)?);
        }
    }
    ensure!(!tools.is_empty(), "{} holds no tools", folder.display());
    tools.sort_by(|a, b| (a.recipe.order, &a.name).cmp(&(b.recipe.order, &b.name)));
    Ok(tools)
}

fn read(folder: &Path, go_version: &str) -> Result<Tool> {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let path = folder.join("tool.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let recipe = parse(&text).with_context(|| format!("could not use {}", path.display()))?;
    let hash = hash(folder, go_version)?;
    Ok(Tool { name, folder: folder.to_path_buf(), recipe, hash })
}

/// Parses a `tool.toml`; `tests/servers/README.md` lists the keys.
pub(crate) fn parse(text: &str) -> Result<Recipe> {
    let mut recipe: Recipe = toml::from_str(text).context("see tests/servers/README.md for the keys")?;
    recipe.ldflags = recipe.ldflags.trim().replace('\n', " ");
    ensure!(!recipe.binaries.is_empty(), "there is no [[binary]]");
    let names = recipe.binaries.iter().map(|it| &it.name).chain(recipe.charts.iter().map(|it| &it.name));
    for name in names {
        let plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
        ensure!(plain, "\"{name}\" must be a plain file name");
    }
    if recipe.binaries.len() > 1 {
        // One `go build` for all of them names each after its package.
        for Binary { package, name } in &recipe.binaries {
            let last = package.rsplit('/').next();
            ensure!(last == Some(name), "with several binaries, \"{name}\" must be the last element of \"{package}\"");
        }
    }
    Ok(recipe)
}

/// Twelve hexadecimal digits over the Go version and each file's name and content.
pub(crate) fn hash(folder: &Path, go_version: &str) -> Result<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))? {
        let path = entry.with_context(|| format!("could not list {}", folder.display()))?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    let mut parts = vec![go_version.as_bytes().to_vec()];
    for path in files {
        let content = std::fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
        parts.push(path.file_name().map(|name| name.as_encoded_bytes().to_vec()).unwrap_or_default());
        parts.push(content);
    }
    Ok(digest(&parts))
}

/// Twelve hexadecimal digits over the parts; each is preceded by its length, so that moving a
/// byte from one part to the next gives another digest.
pub(crate) fn digest(parts: &[impl AsRef<[u8]>]) -> String {
    let mut sha = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        sha.update((part.len() as u64).to_be_bytes());
        sha.update(part);
    }
    sha.finalize().iter().take(6).fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETCD: &str =
        "summary = 'a store'\norder = 2\nestimate_seconds = 46\n[[binary]]\npackage = 'a/b'\nname = 'etcd'\n";

    #[test]
    fn the_tools_of_this_repository_are_well_formed() {
        // Read while it runs: in a shared target folder this may have been compiled in another checkout.
        let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and cargo dev set it");
        let folder = Path::new(&package).join("../servers");
        let tools = read_all(&folder, "go1").unwrap();
        let names: Vec<_> = tools.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names[0], "nats-server", "the demo needs the broker first");
        for name in ["etcd", "kubernetes", "kwok", "capsule", "kubevela", "helm", "nats"] {
            assert!(names.contains(&name), "{name}");
        }
        let mut outputs: Vec<_> =
            tools.iter().flat_map(|tool| &tool.recipe.binaries).map(|binary| &binary.name).collect();
        let count = outputs.len();
        outputs.sort();
        outputs.dedup();
        assert_eq!(outputs.len(), count, "two tools build a binary of the same name");
    }

    #[test]
    fn a_small_recipe_parses() {
        let recipe = parse(ETCD).unwrap();
        assert_eq!(recipe.estimate_seconds, 46);
        assert_eq!(recipe.binaries, [Binary { package: "a/b".into(), name: "etcd".into() }]);
        assert!(recipe.charts.is_empty() && recipe.ldflags.is_empty());
    }

    #[test]
    fn flags_on_several_lines_become_one() {
        let recipe = parse(&format!("ldflags = \"\"\"\n-X a=1\n-X b=2\"\"\"\n{ETCD}")).unwrap();
        assert_eq!(recipe.ldflags, "-X a=1 -X b=2");
    }

    #[test]
    fn mistakes_are_named() {
        let refused = |text: &str| format!("{:#}", parse(text).unwrap_err());
        assert!(refused(&ETCD.replace("summary", "sumary")).contains("unknown field `sumary`"));
        assert!(refused(&ETCD.replace("summary = 'a store'\n", "")).contains("missing field `summary`"));
        assert!(refused(&ETCD.replace("46", "'46'")).contains("estimate_seconds"));
        assert!(refused(&ETCD.replace("46", "-46")).contains("estimate_seconds"));
        assert!(refused(&ETCD.replace("'etcd'", "'../etcd'")).contains("plain file name"));
        assert!(refused(&ETCD.replace("[[binary]]", "[binary]")).contains("expected a sequence"));
        assert!(refused("summary = 'x'\norder = 1\nestimate_seconds = 1").contains("no [[binary]]"));
        assert!(refused(&format!("{ETCD}[[binary]]\npackage = 'a/c'\nname = 'd'")).contains("last element"));
    }

    #[test]
    fn the_hash_follows_files_names_and_go() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("go.mod"), "module a").unwrap();
        let first = hash(folder.path(), "go1").unwrap();
        assert_eq!(first.len(), 12);
        assert_eq!(first, hash(folder.path(), "go1").unwrap());
        assert_ne!(first, hash(folder.path(), "go2").unwrap());
        std::fs::write(folder.path().join("go.mod"), "module b").unwrap();
        let second = hash(folder.path(), "go1").unwrap();
        assert_ne!(first, second);
        std::fs::rename(folder.path().join("go.mod"), folder.path().join("go.sum")).unwrap();
        assert_ne!(second, hash(folder.path(), "go1").unwrap());
    }

    #[test]
    fn the_digest_keeps_parts_apart() {
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
    }
}
