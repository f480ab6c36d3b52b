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
        "docs/attacks.md",
        "docs/development.md",
        "docs/glossary.md",
        OPERATIONS_INDEX,
    ];
    let paths = paths.map(|it| root.join(it)).into_iter().chain(operations());
    paths
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("the document stands in the repository");
            (path, text)
        })
        .collect()
}

const OPERATIONS_INDEX: &str = "docs/operations/README.md";

/// The pages of operations, without their index.
fn operations() -> Vec<PathBuf> {
    let root = repository_root();
    let mut pages = source::paths_below(&root.join("docs/operations"), &["md"]);
    pages.retain(|page| *page != root.join(OPERATIONS_INDEX));
    pages
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

/// The commands in the blocks of `console`.
fn commands(text: &str) -> Vec<&str> {
    let blocks = text.split("```console").skip(1).filter_map(|rest| rest.split("```").next());
    let mut commands = Vec::new();
    for block in blocks {
        let mut is_continued = false;
        for line in block.lines() {
            if line.starts_with("$ ") || is_continued {
                commands.push(line.trim_start_matches("$ "));
                is_continued = line.ends_with('\\');
            }
        }
    }
    commands
}

/// The variables of the shell in a command.
fn variables(command: &str) -> Vec<&str> {
    let is_name = |it: char| it.is_ascii_uppercase() || it == '_';
    let names = command.split('$').skip(1).map(|rest| rest.split(|it| !is_name(it)).next().unwrap_or_default());
    names.filter(|name| !name.is_empty()).collect()
}

/// Whether a page says what a variable is: it sets it, or names one of the index at its top, or one of its own where it is used.
fn says(page: &str, index: &str, variable: &str) -> bool {
    let top = page.split("\n## ").next().unwrap_or_default();
    let place = if index.contains(&format!("| `${variable}` |")) { top } else { page };
    page.contains(&format!("$ export {variable}=")) || place.contains(&format!("`${variable}`"))
}

fn can_be_pasted(command: &str) -> bool {
    let is_placeholder = |word: &str| word.starts_with('<') && word.ends_with('>');
    !command.contains('…') && !command.contains("--config ") && !command.split(' ').any(is_placeholder)
}

#[test]
fn commands_of_operations_can_be_pasted_and_each_page_says_at_its_top_which_variables_they_need() {
    let root = repository_root();
    let read = |path: &Path| std::fs::read_to_string(path).expect("the document stands in the repository");
    let (index, overview) = (read(&root.join(OPERATIONS_INDEX)), read(&root.join("README.md")));
    let mut problems = Vec::new();
    for path in operations() {
        let (page, name) = (read(&path), path.file_name().unwrap().to_string_lossy().into_owned());
        if !index.contains(&format!("({name})")) || !overview.contains(&format!("(docs/operations/{name})")) {
            problems.push(format!("{name}: README.md or {OPERATIONS_INDEX} does not link it"));
        }
        if !page.split("\n## ").next().unwrap_or_default().contains("](README.md#variables)") {
            problems.push(format!("{name}: its top does not say where variables are explained"));
        }
        for command in commands(&page) {
            if !can_be_pasted(command) {
                problems.push(format!("{name}: cannot be pasted: {command}"));
            }
            let unsaid = variables(command).into_iter().filter(|it| !says(&page, &index, it));
            problems.extend(unsaid.map(|it| format!("{name}: does not say what ${it} is: {command}")));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
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
