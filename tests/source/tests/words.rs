//! Texts that a user reads use the field's words.

use std::collections::{BTreeMap, BTreeSet};

/// Files that still hold replaced words. An entry without such a word fails the test: remove it.
const OPEN: &[&str] =
    &["manager/api/src/openapi/mod.rs", "manager/api/src/routes/meta/front.rs", "manager/api/src/token.rs"];

#[test]
fn no_replaced_word_comes_back() {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for place in kubenova_source::words::visible(&kubenova_source::repository_root()).unwrap() {
        let file = place.split(':').next().unwrap_or_default().to_owned();
        found.entry(file).or_default().push(place);
    }
    let gone: BTreeSet<&str> = OPEN.iter().copied().filter(|it| !found.contains_key(*it)).collect();
    found.retain(|file, _| !OPEN.contains(&file.as_str()));
    let places: Vec<String> = found.into_values().flatten().collect();
    assert!(places.is_empty(), "{} places:\n{}", places.len(), places.join("\n"));
    assert!(gone.is_empty(), "these files are clean, remove them from OPEN: {gone:#?}");
}
