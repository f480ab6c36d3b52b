//! What the documents name exists: files, folders, links, and the tests that guard an invariant.

use std::path::{Path, PathBuf};

use kubenova_source::{repository_root, source};

/// The documents that describe the repository as it is; decisions and benchmarks describe a day.
fn documents() -> Vec<(PathBuf, String)> {
    let root = repository_root();
    let paths = [
        "README.md",
        "SECURITY.md",
        "docs/architecture.md",
        "docs/development.md",
        "docs/glossary.md",
        "docs/operations/nats.md",
        "docs/operations/audit.md",
        "docs/operations/restore.md",
    ];
    paths
        .map(|it| {
            (root.join(it), std::fs::read_to_string(root.join(it)).expect("the document stands in the repository"))
        })
        .into_iter()
        .collect()
}

/// The texts between backticks, outside blocks of code.
fn quoted(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

/// Whether a quoted text is a path of the repository: one with a folder, and an extension or a slash at its end.
fn is_path(text: &str) -> bool {
    let extensions = ["rs", "md", "toml", "json", "yaml"];
    let ends_well =
        text.ends_with('/') || Path::new(text).extension().is_some_and(|it| extensions.iter().any(|e| it == *e));
    text.contains('/') && ends_well && !text.starts_with(['/', '~', '<']) && !text.contains([' ', '<', '*', '$', ':'])
}

#[test]
fn every_path_and_link_in_the_documents_exists() {
    let root = repository_root();
    let mut missing = Vec::new();
    for (document, text) in documents() {
        let paths = quoted(&text).into_iter().filter(|it| is_path(it)).map(|it| (it, root.join(it)));
        let folder = document.parent().unwrap();
        let links = text.split("](").skip(1).filter_map(|it| it.split(')').next()).filter(|it| !it.contains("://"));
        let links = links.map(|it| (it, folder.join(it.split('#').next().unwrap_or_default())));
        let all: Vec<_> = paths.chain(links).collect();
        missing.extend(
            all.into_iter().filter(|(_, path)| !path.exists()).map(|(it, _)| format!("{}: {it}", document.display())),
        );
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Rows read: | statement | `path/of/a/test.rs` `name_of_the_test`, … |. A path without a name stands for the whole file.
#[test]
fn every_invariant_has_the_test_it_names() {
    let root = repository_root();
    let text = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let (_, invariants) = text.split_once("## Invariants").expect("a section of invariants");
    let rows: Vec<&str> = invariants.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    assert!(rows.len() > 10, "{} rows", rows.len());
    for row in rows {
        let mut source = String::new();
        for word in quoted(row.rsplit('|').nth(1).unwrap_or_default()) {
            if is_path(word) {
                let path = root.join(word);
                let files = if path.is_dir() { source::paths_below(&path, &["rs"]) } else { vec![path] };
                source = files.iter().map(|it| std::fs::read_to_string(it).unwrap_or_default()).collect();
                assert!(source.contains("#[test]") || source.contains("::test"), "{word} holds no test: {row}");
            } else {
                assert!(source.contains(&format!("fn {word}(")), "there is no test {word}: {row}");
            }
        }
        assert!(!source.is_empty(), "no test is named: {row}");
    }
}
