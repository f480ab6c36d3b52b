//! The committed derived files are what the code says.

#[test]
fn derived_files_are_fresh() {
    let root = kubenova_gen::repository_root();
    for file in kubenova_gen::derived_files().unwrap() {
        let present = std::fs::read_to_string(root.join(&file.path)).unwrap_or_default();
        assert!(present == file.content, "{} is stale: run `cargo dev gen`", file.path.display());
    }
}
