//! The arrows between our crates are those of the table in `docs/architecture.md`, and no Kubernetes crate stands
//! anywhere under a Manager crate.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

type Graph = BTreeMap<String, BTreeSet<String>>;

struct Metadata {
    /// Our crates and which of ours they use, development dependencies left out.
    arrows: Graph,
    /// Every crate by name with the crates it uses, as resolved.
    resolved: Graph,
}

fn metadata() -> Metadata {
    let root = kubenova_gen::repository_root();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .current_dir(root)
        .output()
        .expect("cargo runs in tests");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut names = BTreeMap::new();
    let mut arrows = Graph::new();
    for package in json["packages"].as_array().expect("packages") {
        names.insert(text(&package["id"]), text(&package["name"]));
        if package["source"].is_null() {
            let uses = package["dependencies"].as_array().expect("dependencies").iter();
            let ours = uses.filter(|it| it["kind"].is_null() && it["source"].is_null()).map(|it| text(&it["name"]));
            arrows.insert(text(&package["name"]), ours.collect());
        }
    }
    let mut resolved = Graph::new();
    for node in json["resolve"]["nodes"].as_array().expect("nodes") {
        let deps = node["deps"].as_array().expect("deps").iter();
        let normal = deps.filter(|dep| {
            dep["dep_kinds"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
        });
        let used: BTreeSet<String> = normal.map(|dep| names[&text(&dep["pkg"])].clone()).collect();
        resolved.entry(names[&text(&node["id"])].clone()).or_default().extend(used);
    }
    Metadata { arrows, resolved }
}

/// Rows of the table between the two markers: | `crate` | `used`, `used` | why |.
fn documented() -> Graph {
    let text = std::fs::read_to_string(kubenova_gen::repository_root().join("docs/architecture.md"))
        .expect("docs/architecture.md");
    let table = text.split("<!-- arrows -->").nth(1).expect("two <!-- arrows --> markers");
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        (quoted(cells[1]).into_iter().next().expect("a crate"), quoted(cells[2]))
    })
    .collect()
}

#[test]
fn the_arrows_are_the_documented_ones() {
    assert_eq!(metadata().arrows, documented(), "left: cargo metadata; right: the table in docs/architecture.md");
}

#[test]
fn no_kubernetes_crate_stands_under_the_manager() {
    let resolved = metadata().resolved;
    let mut reached = BTreeSet::new();
    let mut open = vec!["kubenova-manager".to_owned()];
    while let Some(name) = open.pop() {
        if reached.insert(name.clone()) {
            open.extend(resolved.get(&name).cloned().unwrap_or_default());
        }
    }
    assert!(reached.contains("kubenova-store"), "the walk reaches the Manager's own crates");
    let kubernetes: Vec<_> = reached
        .iter()
        .filter(|name| {
            name.starts_with("kube") && !name.starts_with("kubenova")
                || name.starts_with("k8s")
                || *name == "kubenova-crds"
        })
        .collect();
    assert!(kubernetes.is_empty(), "{kubernetes:?}");
}
