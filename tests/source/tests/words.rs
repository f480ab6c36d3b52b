//! Texts that a user reads use the field's words.

#[test]
fn no_replaced_word_comes_back() {
    let places = kubenova_source::words::visible(&kubenova_source::repository_root()).expect("sources can be read");
    assert!(places.is_empty(), "{} places:\n{}", places.len(), places.join("\n"));
}
