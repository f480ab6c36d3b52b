//! Words that this project once used for things which Kubernetes, NATS and Postgres engineers call otherwise. They must
//! not come back into texts that a user reads: documents, charts, OpenAPI, messages.
//!
//! `docs/glossary.md` explains the terms that are ours.

use std::path::Path;

use syn::visit::Visit;

use crate::source::{self, SourceFile};

/// Words, each with what to write instead. Two words stand for the phrase.
const REPLACED: &[(&[&str], &str)] = &[
    (&["wish", "wishes", "wished", "wishing"], "desired state"),
    (&["lane", "lanes"], "queue of a cluster"),
    (&["pulse", "pulses"], "heartbeat"),
    (&["bell"], "listener"),
    (&["poison", "poisoned", "poisonous"], "dead letter"),
    (&["stranger", "strangers"], "an unknown sender; an unplaced tenant"),
    (&["teller", "tellers"], "status reporter"),
    (&["story", "stories"], "scenario; conditions"),
    (&["sighting", "sightings"], "observation"),
    (&["leftover", "leftovers"], "orphan"),
    (&["sweep", "sweeps", "swept", "sweeping"], "delete"),
    (&["tidy", "tidies", "tidied", "tidying"], "prune"),
    (&["walls"], "isolation"),
    (&["mend", "mends", "mended", "mending"], "fix"),
    (&["anew"], "again, from the start"),
    (&["hear", "hears", "heard"], "receive; observe"),
    (&["told"], "reported; sent"),
    (&["judge", "judges", "judged", "judging"], "check; decide"),
    (&["brake", "brakes"], "limit"),
    (&["nobody", "somebody"], "name the actor"),
    (&["people"], "name the actor: administrators, users, operators"),
    (&["an order", "the orders", "signed order", "orders for", "old order", "old orders", "every order"], "command"),
];

/// Where a replaced word is another project's own.
const ALLOWED: &[&str] = &["go mod tidy"];

/// A replaced word in a text, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Line of the text, from 1.
    pub line: usize,
    /// The word as found.
    pub word: String,
    /// What to write instead.
    pub instead: &'static str,
}

/// The replaced words in a text.
#[must_use]
pub fn replaced_in(text: &str) -> Vec<Found> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let lower = ALLOWED.iter().fold(line.to_lowercase(), |line, allowed| line.replace(allowed, ""));
        let words: Vec<&str> = lower.split(|it: char| !it.is_alphanumeric()).filter(|it| !it.is_empty()).collect();
        for (index_of_word, word) in words.iter().enumerate() {
            let pair = words.get(index_of_word + 1).map(|next| format!("{word} {next}"));
            let entry = REPLACED.iter().find_map(|(old, instead)| {
                let hit = old.iter().find(|old| *old == word || pair.as_deref() == Some(old))?;
                Some((*hit, *instead))
            });
            if let Some((hit, instead)) = entry {
                found.push(Found { line: index + 1, word: hit.to_owned(), instead });
            }
        }
    }
    found
}

/// The replaced words in a Rust file's string literals and documentation comments, outside tests.
#[must_use]
pub fn replaced_in_source(file: &SourceFile) -> Vec<Found> {
    let mut literals = Literals::default();
    literals.visit_file(&file.syntax);
    let mut found = Vec::new();
    for (line, text) in literals.found {
        found.extend(replaced_in(&text).into_iter().map(|it| Found { line: line + it.line - 1, ..it }));
    }
    found
}

/// String literals with their lines; a doc comment is one to syn.
#[derive(Default)]
struct Literals {
    found: Vec<(usize, String)>,
}

impl Literals {
    fn tokens(&mut self, tokens: proc_macro2::TokenStream) {
        for token in tokens {
            match token {
                proc_macro2::TokenTree::Group(group) => self.tokens(group.stream()),
                proc_macro2::TokenTree::Literal(literal) => {
                    let line = literal.span().start().line;
                    if let syn::Lit::Str(text) = syn::Lit::new(literal) {
                        self.found.push((line, text.value()));
                    }
                }
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Literals {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !source::is_for_tests(&module.attrs) {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
        self.found.push((literal.span().start().line, literal.value()));
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.tokens(list.tokens.clone());
    }
}

/// Every place below the root where a user could read a replaced word, as `path:line: "word": write …`.
///
/// # Errors
/// When a file cannot be read or parsed.
pub fn visible(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut add = |path: &Path, found: Vec<Found>| {
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        lines.extend(found.into_iter().map(|it| format!("{name}:{}: \"{}\": write {}", it.line, it.word, it.instead)));
    };
    for folder in ["docs", "deploy"] {
        for path in source::paths_below(&root.join(folder), &["md", "json", "yaml", "yml", "txt", "tpl", "conf"]) {
            add(&path, replaced_in(&std::fs::read_to_string(&path)?));
        }
    }
    for name in ["README.md", "CHANGELOG.md", "SECURITY.md"] {
        add(&root.join(name), replaced_in(&std::fs::read_to_string(root.join(name))?));
    }
    for folder in ["schema", "crds", "manager", "operator", "tests"] {
        // This file lists the words.
        for path in source::paths_below(&root.join(folder), &["rs"]).into_iter().filter(|it| !it.ends_with(file!())) {
            let within = path.strip_prefix(root.join(folder)).unwrap_or(&path);
            let is_test = within.components().any(|it| it.as_os_str() == "tests") && folder != "tests";
            if !is_test {
                add(&path, replaced_in_source(&SourceFile::read(&path)?));
            }
        }
        for path in source::paths_below(&root.join(folder), &["md", "proto", "toml"]) {
            add(&path, replaced_in(&std::fs::read_to_string(&path)?));
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_word_is_found_with_its_line_and_nothing_inside_another_word() {
        let found = replaced_in("The bellows stay.\nA Wish, and an order.");
        let words: Vec<_> = found.iter().map(|it| (it.line, it.word.as_str())).collect();
        assert_eq!(words, [(2, "wish"), (2, "an order")]);
        assert!(replaced_in("in order to keep the storage tidily walled, go mod tidy").is_empty());
    }

    #[test]
    fn messages_and_doc_comments_are_read_and_tests_are_not() {
        let text =
            "/// A wish.\nfn f() { println!(\"poison {}\", 1); }\n#[cfg(test)] mod tests { const A: &str = \"lane\"; }";
        let file = SourceFile { path: "a.rs".into(), text: text.into(), syntax: syn::parse_file(text).unwrap() };
        let found: Vec<_> = replaced_in_source(&file).into_iter().map(|it| (it.line, it.word)).collect();
        assert_eq!(found, [(1, "wish".to_owned()), (2, "poison".to_owned())]);
    }
}
