//! The committed derived files are what the code says.

#[test]
fn derived_files_are_fresh() {
    let root = kubenova_gen::repository_root();
    for file in kubenova_gen::derived_files().unwrap() {
        let present = std::fs::read_to_string(root.join(&file.path)).unwrap_or_default();
        assert!(present == file.content, "{} is stale: run `cargo dev gen`", file.path.display());
    }
}

/// The compiler sees a query without its file; only this test sees a file without its query.
#[test]
fn no_file_of_a_query_that_is_gone() {
    let root = kubenova_gen::repository_root();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let sources = root.join("manager/store/src");
    let mut source = String::new();
    let mut folders = vec![sources];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                source.push_str(&words(&std::fs::read_to_string(entry.path()).unwrap().replace("\\\"", "\"")));
            }
        }
    }
    let mut count = 0;
    for entry in std::fs::read_dir(root.join(".sqlx")).unwrap().flatten() {
        let file: serde_json::Value = serde_json::from_slice(&std::fs::read(entry.path()).unwrap()).unwrap();
        let query = words(file["query"].as_str().unwrap());
        assert!(source.contains(&query), "{:?}: no source has {query:?}; run `cargo dev gen`", entry.file_name());
        count += 1;
    }
    assert!(count > 0, "there are queries");
}
