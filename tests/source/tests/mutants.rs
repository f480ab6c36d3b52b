//! Every rule that a debug build can break is in the table of mutants, once, and the other way round.

use std::collections::BTreeSet;

use kubenova_source::{repository_root, source};
use serde::Deserialize;

/// `tests/mutants.toml`, as far as it matters here. A field that is not known is one that stands in the wrong table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    mutant: Vec<Mutant>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the other fields must be there, too")]
struct Mutant {
    name: String,
    breaks: String,
    package: String,
    test: String,
}

/// The names of the mutants of a table.
fn listed(table: &str) -> Result<Vec<String>, toml::de::Error> {
    let table: Table = toml::from_str(table)?;
    Ok(table.mutant.into_iter().map(|mutant| mutant.name).collect())
}

/// The texts that stand between `begin` and the next quotation mark.
fn between<'a>(text: &'a str, begin: &str) -> Vec<&'a str> {
    text.split(begin).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn the_table_of_mutants_is_that_of_the_source() {
    let root = repository_root();
    let table = std::fs::read_to_string(root.join("tests/mutants.toml")).expect("tests/mutants.toml is there");
    let listed = listed(&table).expect("tests/mutants.toml is a table of mutants");
    let distinct: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
    assert_eq!(distinct.len(), listed.len(), "a name stands twice in tests/mutants.toml");
    let mut built = BTreeSet::new();
    let call = concat!("mutant::is", "_on(\"");
    let folders = ["schema", "manager", "operator"].map(|folder| source::paths_below(&root.join(folder), &["rs"]));
    for path in folders.into_iter().flatten() {
        let text = std::fs::read_to_string(&path).expect("a source file is text");
        for name in between(&text, call) {
            assert!(built.insert(name.to_owned()), "{name} is broken in two places, the second is {}", path.display());
        }
    }
    let built: BTreeSet<&str> = built.iter().map(String::as_str).collect();
    assert_eq!(built, distinct, "left: the source; right: tests/mutants.toml");
}

#[test]
fn a_mutant_without_its_header_is_refused() {
    let mutant = |name: &str| format!("name = \"{name}\"\nbreaks = \"b\"\npackage = \"p\"\ntest = \"t\"\n\n");
    let (one, other) = (mutant("a"), mutant("b"));
    assert_eq!(listed(&format!("[[mutant]]\n{one}[[mutant]]\n{other}")).unwrap(), ["a", "b"]);
    let lost = listed(&format!("[[mutant]]\n{one}{other}"));
    assert!(lost.is_err(), "the second would be part of the first: {lost:?}");
}
