//! No two files of a crate import each other in a circle, so each can be read after the ones it names.

use std::path::PathBuf;

use kubenova_source::{circles, repository_root, source, workspace};

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
    let mut found = String::new();
    for package in workspace::packages().unwrap() {
        let roots = roots(&package);
        assert!(!roots.is_empty(), "{} has no source", package.name);
        for circle in roots.iter().flat_map(|root| circles::circles(root).unwrap()) {
            found.push_str(&format!("{}:\n{circle}", package.name).replace(&prefix, ""));
        }
    }
    assert!(found.is_empty(), "files that import each other in a circle:\n{found}");
}
