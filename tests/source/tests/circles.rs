//! No two files of a crate import each other in a circle, so each can be read after the ones it names.

use std::collections::BTreeSet;
use std::path::PathBuf;

use kubenova_source::{circles, repository_root, source, workspace};

/// Circles that are still to be broken, as their files. An entry without its circle fails the test: remove it.
const OPEN: &[&[&str]] = &[&["manager/api/src/body.rs", "manager/api/src/yaml/mod.rs"]];

/// The roots of a crate: its library, its program, and each of `src/bin`.
fn roots(package: &workspace::Package) -> Vec<PathBuf> {
    let folder = package.folder().join("src");
    let mut roots: Vec<PathBuf> = ["lib.rs", "main.rs"].map(|it| folder.join(it)).into_iter().collect();
    roots.extend(source::paths_below(&folder.join("bin"), &["rs"]));
    roots.retain(|it| it.is_file());
    roots
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let prefix = format!("{}/", repository_root().display());
    let mut open: BTreeSet<Vec<String>> =
        OPEN.iter().map(|files| files.iter().map(|it| (*it).to_owned()).collect()).collect();
    let mut found = String::new();
    for package in workspace::packages().unwrap() {
        let roots = roots(&package);
        assert!(!roots.is_empty(), "{} has no source", package.name);
        for circle in roots.iter().flat_map(|root| circles::circles(root).unwrap()) {
            let files: BTreeSet<String> = circle.imports.iter().map(|it| it.0.replace(&prefix, "")).collect();
            if !open.remove(&files.into_iter().collect::<Vec<_>>()) {
                found.push_str(&format!("{}:\n{circle}", package.name).replace(&prefix, ""));
            }
        }
    }
    assert!(found.is_empty(), "files that import each other in a circle:\n{found}");
    assert!(open.is_empty(), "these circles are gone, remove them from OPEN: {open:#?}");
}
