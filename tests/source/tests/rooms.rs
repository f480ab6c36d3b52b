//! Things that may stand in one place only: SQL in the store, subjects in the schema, Kubernetes calls in the
//! Operator's apiserver module, clock and randomness in the runtime.

use std::{fs, path::Path};

/// Every Rust source below these folders as (path from the root, text).
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let root = kubenova_source::repository_root();
    let mut found = Vec::new();
    for folder in folders {
        walk(&root, &root.join(folder), &mut found);
    }
    assert!(!found.is_empty(), "no sources below {folders:?}");
    found
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a source folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(root, &path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let name = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
            found.push((name, fs::read_to_string(&path).expect("a source file")));
        }
    }
}

/// Lines outside `allowed` that hold one of the texts, comments left out.
fn offenders(folders: &[&str], allowed: &[&str], texts: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, source) in sources(folders) {
        if allowed.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        for (index, line) in source.lines().enumerate() {
            let code = line.trim_start();
            if !code.starts_with("//") && texts.iter().any(|text| code.contains(text)) {
                found.push(format!("{name}:{}: {code}", index + 1));
            }
        }
    }
    found
}

#[test]
fn sql_is_used_in_the_store_only() {
    let found = offenders(
        &["manager", "operator", "schema", "crds"],
        &["manager/store/"],
        &["sqlx::", "use sqlx", "query!(", "query_as!(", "query_scalar!("],
    );
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn subjects_stand_in_the_schema_only() {
    let found = offenders(
        &["manager", "operator", "schema", "crds"],
        &["schema/src/subjects.rs", "schema/src/streams.rs"],
        &["\"kn.v1.", "\"kn.js", "\"KN_"],
    );
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn kubernetes_calls_stand_in_the_apiserver_module_only() {
    let found = offenders(
        &["operator"],
        &["operator/src/apiserver/"],
        &["PatchParams", "PostParams", "ListParams", "DeleteParams", "WatchParams", "watcher::", "Request::new"],
    );
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn clock_and_randomness_stand_in_the_runtime_only() {
    let found = offenders(
        &["manager", "operator", "schema", "crds"],
        &["schema/runtime/"],
        &["SystemTime::now", "Timestamp::now", "Uuid::now_v7", "Uuid::new_v4", "SystemRandom::new"],
    );
    assert!(found.is_empty(), "{found:#?}");
}
