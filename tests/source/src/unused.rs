//! Dependencies that a crate declares and its source never names.
//!
//! The same question that cargo-machete answers, asked of syntax instead of text, so that what only tests use is
//! recognized; a dependency that is wanted for a feature or by generated code only is listed where cargo-machete wants it
//! too: `[package.metadata.cargo-machete] ignored`, with the reason in a comment.

use std::collections::BTreeSet;

use crate::source::{self, SourceFile};
use crate::workspace::{Dependency, DependencyKind, Package};

/// What the source of a crate names, by who compiles it.
#[derive(Debug, Default)]
struct Names {
    product: BTreeSet<String>,
    test: BTreeSet<String>,
    build: BTreeSet<String>,
}

/// One sentence for each dependency of a crate that could go.
///
/// # Errors
/// When a source file cannot be read or parsed.
pub fn unused(package: &Package) -> anyhow::Result<Vec<String>> {
    let names = names(package)?;
    let ignored = ignored(package);
    let mut found = Vec::new();
    for dependency in package.dependencies.iter().filter(|it| !ignored.contains(&it.name)) {
        if let Some(why) = complaint(dependency, package, &names) {
            found.push(format!("{}: {} {why}", package.name, dependency.name));
        }
    }
    Ok(found)
}

fn complaint(dependency: &Dependency, package: &Package, names: &Names) -> Option<&'static str> {
    let identifier = dependency.identifier();
    let twice = || {
        let normal = package.dependencies.iter().find(|it| it.kind.is_none() && it.name == dependency.name);
        normal.is_some_and(|normal| dependency.features.iter().all(|it| normal.features.contains(it)))
    };
    match dependency.kind {
        None if names.product.contains(&identifier) => None,
        None if names.test.contains(&identifier) => Some("is used by tests only: move it to [dev-dependencies]"),
        Some(DependencyKind::Build) if names.build.contains(&identifier) => None,
        Some(DependencyKind::Dev) if twice() => Some("is in [dependencies] already: remove it from [dev-dependencies]"),
        Some(DependencyKind::Dev) if names.test.contains(&identifier) => None,
        _ => Some("is declared and never named: remove it"),
    }
}

/// The crates of `[package.metadata.cargo-machete] ignored`.
fn ignored(package: &Package) -> BTreeSet<String> {
    let listed = package.metadata.as_ref().and_then(|it| it["cargo-machete"]["ignored"].as_array());
    listed.into_iter().flatten().filter_map(|it| it.as_str().map(str::to_owned)).collect()
}

fn names(package: &Package) -> anyhow::Result<Names> {
    let folder = package.folder();
    let mut names = Names::default();
    let files = source::files_below(&folder.join("src"))?;
    let test_paths = source::test_paths(&files);
    for file in &files {
        add(file, test_paths.iter().any(|it| file.path.starts_with(it)), &mut names);
    }
    for folder in ["tests", "benches", "examples"].map(|it| folder.join(it)) {
        // Their own crates below (tests/env, tests/dev, …) are not this crate's tests.
        for file in source::files_below(&folder)?.iter().filter(|it| !package.leaves_to_another_crate(&it.path)) {
            add(file, true, &mut names);
        }
    }
    let build = folder.join("build.rs");
    if build.is_file() {
        let file = SourceFile::read(&build)?;
        names.build.extend(source::mentions(&file.syntax).into_iter().filter_map(|it| it.segments.into_iter().next()));
    }
    Ok(names)
}

fn add(file: &SourceFile, test: bool, names: &mut Names) {
    for mention in source::mentions(&file.syntax) {
        let Some(first) = mention.segments.into_iter().next() else { continue };
        let set = if test || mention.test { &mut names.test } else { &mut names.product };
        set.insert(first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn package(folder: &Path, dependencies: &[(&str, Option<DependencyKind>)]) -> Package {
        let dependency = |(name, kind): &(&str, Option<DependencyKind>)| Dependency {
            name: (*name).into(),
            rename: None,
            kind: *kind,
            path: None,
            features: Vec::new(),
        };
        Package {
            name: "mine".into(),
            manifest_path: folder.join("Cargo.toml"),
            dependencies: dependencies.iter().map(dependency).collect(),
            metadata: Some(serde_json::json!({"cargo-machete": {"ignored": ["only-a-feature"]}})),
        }
    }

    #[test]
    fn what_is_declared_and_never_named_is_reported_once() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("src")).unwrap();
        let source = "use a_b::C; #[cfg(test)] mod tests { use only_tests::D; use dev::E; }";
        std::fs::write(folder.path().join("src/lib.rs"), source).unwrap();
        let dev = Some(DependencyKind::Dev);
        let declared = [
            ("a-b", None),
            ("never", None),
            ("only-a-feature", None),
            ("only-tests", None),
            ("dev", dev),
            ("a-b", dev),
        ];
        assert_eq!(
            unused(&package(folder.path(), &declared)).unwrap(),
            [
                "mine: never is declared and never named: remove it",
                "mine: only-tests is used by tests only: move it to [dev-dependencies]",
                "mine: a-b is in [dependencies] already: remove it from [dev-dependencies]",
            ]
        );
    }
}
