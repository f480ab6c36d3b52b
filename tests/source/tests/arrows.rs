//! The arrows between our crates are those of the table in `docs/architecture.md`, and no Kubernetes crate stands
//! anywhere under a Manager crate.

use std::collections::BTreeSet;

use kubenova_source::workspace::{self, Graph};

/// Rows of the table between the two markers: | `crate` | `used`, `used` | why |.
fn documented() -> Graph {
    let text = std::fs::read_to_string(kubenova_source::repository_root().join("docs/architecture.md"))
        .expect("docs/architecture.md stands in the repository");
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
    let arrows = workspace::arrows(&workspace::packages().unwrap());
    assert_eq!(arrows, documented(), "left: the manifests; right: the table in docs/architecture.md");
}

#[test]
fn no_kubernetes_crate_stands_under_the_manager() {
    let locked = workspace::locked(&workspace::packages().unwrap()).unwrap();
    let mut reached = BTreeSet::new();
    let mut open = vec!["kubenova-manager".to_owned()];
    while let Some(name) = open.pop() {
        let used = locked.get(&name).unwrap_or_else(|| panic!("Cargo.lock lacks {name}: run cargo build"));
        if reached.insert(name) {
            open.extend(used.iter().cloned());
        }
    }
    assert!(
        reached.contains("kubenova-store") && reached.contains("axum"),
        "the walk reaches crates of ours and others"
    );
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

#[test]
fn every_declared_dependency_is_used() {
    let mut found = BTreeSet::new();
    for package in workspace::packages().unwrap() {
        found.extend(kubenova_source::unused::unused(&package).unwrap());
    }
    assert!(found.is_empty(), "no source names {found:?}");
}
