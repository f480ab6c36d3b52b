//! The bill of materials of an image, as CycloneDX 1.5: what each tool that made a part says is in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::contents::Contents;
use crate::{Image, VERSION, output_of};

/// Where it is in the image.
pub const PLACE: &str = "usr/share/kubenova/sbom.cdx.json";

/// One component; ordered, so that the same contents give the same document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    name: String,
    version: String,
    /// `cargo`, `golang`, `helm` or `deb`.
    kind: &'static str,
}

impl Part {
    fn json(&self) -> Value {
        let Self { name, version, kind } = self;
        let name_in_url = if *kind == "deb" { format!("debian/{name}") } else { name.clone() };
        let kind_of_part = if *kind == "helm" { "application" } else { "library" };
        json!({
            "type": kind_of_part, "name": name, "version": version, "purl": format!("pkg:{kind}/{name_in_url}@{version}"),
        })
    }
}

/// The document about an image.
pub fn of(image: Image, contents: &Contents, repository: &Path) -> Result<String> {
    let mut parts = crates(image, repository)?;
    for program in &contents.go_programs {
        parts.extend(modules(program)?);
    }
    for chart in &contents.charts {
        parts.insert(chart_part(chart)?);
    }
    parts.extend(packages(contents)?);
    ensure!(!parts.is_empty(), "nothing is in image {}", image.name());
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": format!("kubenova/{}", image.name()), "version": VERSION}},
        "components": parts.iter().map(Part::json).collect::<Vec<_>>(),
    });
    serde_json::to_string_pretty(&document).context("a document is JSON")
}

/// The crates that cargo links into the program.
fn crates(image: Image, repository: &Path) -> Result<BTreeSet<Part>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository).args(["tree", "--offline", "--package", image.program()]);
    let listed = output_of(cargo.args(["--edges", "normal", "--prefix", "none", "--format", "{p}"]))?;
    Ok(listed.lines().filter_map(crate_part).collect())
}

/// `serde v1.0.1 (proc-macro)`, or one of ours with its folder.
fn crate_part(line: &str) -> Option<Part> {
    let mut words = line.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    Some(Part { name: name.to_owned(), version: version.to_owned(), kind: "cargo" })
}

/// The modules that a Go program says it was built from.
fn modules(program: &Path) -> Result<BTreeSet<Part>> {
    let listed = output_of(Command::new("go").args(["version", "-m"]).arg(program))?;
    Ok(listed.lines().filter_map(module_part).collect())
}

/// A line `dep <path> <version> <sum>`, separated by tabs.
fn module_part(line: &str) -> Option<Part> {
    let mut words = line.trim().split('\t');
    let is_module = words.next().is_some_and(|word| ["dep", "=>"].contains(&word));
    let (name, version) = (words.next()?, words.next()?);
    is_module.then(|| Part { name: name.to_owned(), version: version.to_owned(), kind: "golang" })
}

fn chart_part(chart: &Path) -> Result<Part> {
    let file = chart.join("Chart.yaml");
    let text = fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().trim_matches('"').to_owned())
            .with_context(|| format!("{} has no {name}", file.display()))
    };
    Ok(Part { name: field("name:")?, version: field("version:")?, kind: "helm" })
}

/// The Debian packages of the shared libraries, and of the certificates.
fn packages(contents: &Contents) -> Result<BTreeSet<Part>> {
    if contents.of_debian.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut names = BTreeSet::from(["ca-certificates".to_owned()]);
    for file in &contents.of_debian {
        // A library may have been installed before /lib became a link to /usr/lib.
        let usr = Path::new("/usr").join(file.strip_prefix("/").unwrap_or(file));
        let canonical = file.canonicalize().unwrap_or_else(|_| file.clone());
        let owner = [file, &usr, &canonical]
            .into_iter()
            .find_map(|file| output_of(Command::new("dpkg").arg("-S").arg(file)).ok());
        let owner = owner.with_context(|| format!("no Debian package has {}", file.display()))?;
        names.extend(owner.split(':').next().map(str::to_owned));
    }
    names
        .into_iter()
        .map(|name| {
            let version =
                output_of(Command::new("dpkg-query").args(["--show", "--showformat", "${Version}"]).arg(&name))?;
            Ok(Part { name, version: version.trim().to_owned(), kind: "deb" })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_tools_are_parts() {
        let part = |name: &str, version: &str, kind| Some(Part { name: name.into(), version: version.into(), kind });
        assert_eq!(crate_part("serde v1.0.228 (proc-macro) (*)"), part("serde", "1.0.228", "cargo"));
        assert_eq!(crate_part(""), None);
        assert_eq!(module_part("\tdep\tgithub.com/a/b\tv1.2.3\th1:x="), part("github.com/a/b", "v1.2.3", "golang"));
        assert_eq!(module_part("\tbuild\tCGO_ENABLED=0"), None);
        let json = part("libc6", "2.36-9", "deb").unwrap().json();
        assert_eq!(json["purl"], "pkg:deb/debian/libc6@2.36-9");
    }
}
