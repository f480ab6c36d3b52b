//! What was applied for a component, so that what a newer chart no longer has can be removed.
//!
//! Pruning removes single orphans. Switching a component off removes its webhooks, its controller and what belongs to
//! it, and nothing of its own kinds: with a CRD go all its objects, and tenants' isolation and workloads must stay.

use super::{object::Key, waves::is_built_in};
use serde_json::Value;

/// Kinds that stay, whatever a newer chart says.
const NEVER_PRUNED: [&str; 5] =
    ["CustomResourceDefinition", "Namespace", "CapsuleConfiguration", "Secret", "PersistentVolumeClaim"];

/// The lines of an inventory, sorted.
#[must_use]
pub fn lines(objects: &[Value]) -> Vec<String> {
    let mut lines: Vec<String> = objects.iter().filter_map(Key::of).map(|key| key.to_string()).collect();
    lines.sort();
    lines.dedup();
    lines
}

/// The union of two inventories: what stands in status while a new version is being applied, so that a crash between
/// applying and recording loses nothing.
#[must_use]
pub fn union(old: &[String], new: &[String]) -> Vec<String> {
    let mut all: Vec<String> = old.iter().chain(new).cloned().collect();
    all.sort();
    all.dedup();
    all
}

/// What goes when a component is switched off, in this order: webhooks, which nothing would answer any longer; the controller;
/// what only it used.
#[must_use]
pub fn removal(lines: &[String]) -> [Vec<Key>; 3] {
    let [mut webhooks, mut workloads, mut rest] = [const { Vec::new() }; 3];
    let keys = lines.iter().filter_map(|line| line.parse::<Key>().ok());
    for key in keys.filter(|key| !NEVER_PRUNED.contains(&key.kind.as_str()) && is_built_in(&key.group)) {
        match (key.group.as_str(), key.kind.as_str()) {
            (_, "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => webhooks.push(key),
            ("apps" | "batch", _) => workloads.push(key),
            _ => rest.push(key),
        }
    }
    [webhooks, workloads, rest]
}

/// What of an inventory stays when its component is switched off.
#[must_use]
pub fn kept(lines: &[String]) -> Vec<String> {
    let removed: Vec<String> = removal(lines).iter().flatten().map(ToString::to_string).collect();
    lines.iter().filter(|line| !removed.contains(line)).cloned().collect()
}

/// What the old inventory has, the new one lacks, and may be removed. Lines that cannot be parsed are left alone.
#[must_use]
pub fn orphans(old: &[String], new: &[String]) -> Vec<Key> {
    let new: Vec<Key> = new.iter().filter_map(|line| line.parse().ok()).collect();
    old.iter()
        .filter_map(|line| line.parse::<Key>().ok())
        .filter(|key| !NEVER_PRUNED.contains(&key.kind.as_str()))
        .filter(|key| !new.iter().any(|kept| kept.same_object(key)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn what_a_newer_chart_lacks_is_an_orphan() {
        let old = inventory(&["/v1/ConfigMap/n/a", "/v1/ConfigMap/n/b", "apps/v1/Deployment/n/d"]);
        let new = inventory(&["/v1/ConfigMap/n/a", "apps/v1/Deployment/n/d"]);
        let left: Vec<String> = orphans(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(left, ["/v1/ConfigMap/n/b"]);
        assert!(orphans(&new, &old).is_empty());
    }

    #[test]
    fn a_new_version_of_a_kind_is_not_an_orphan() {
        let old = inventory(&["policy/v1beta1/PodDisruptionBudget/n/p"]);
        let new = inventory(&["policy/v1/PodDisruptionBudget/n/p"]);
        assert!(orphans(&old, &new).is_empty());
    }

    #[test]
    fn kinds_that_hold_other_peoples_things_are_never_removed() {
        let old = inventory(&[
            "apiextensions.k8s.io/v1/CustomResourceDefinition//tenants.capsule.clastix.io",
            "/v1/Namespace//capsule-system",
            "capsule.clastix.io/v1beta2/CapsuleConfiguration//default",
            "not a key",
        ]);
        assert!(orphans(&old, &[]).is_empty());
    }

    #[test]
    fn switching_off_removes_webhooks_first_and_nothing_that_tenants_need() {
        let lines = inventory(&[
            "/v1/ConfigMap/n/a",
            "/v1/Namespace//n",
            "/v1/Secret/n/s",
            "admissionregistration.k8s.io/v1/MutatingWebhookConfiguration//w",
            "apiextensions.k8s.io/v1/CustomResourceDefinition//tenants.capsule.clastix.io",
            "apps/v1/Deployment/n/d",
            "capsule.clastix.io/v1beta2/CapsuleConfiguration//default",
            "core.oam.dev/v1beta1/ComponentDefinition/n/webservice",
            "policy/v1/PodDisruptionBudget/n/d",
        ]);
        let steps = removal(&lines).map(|step| step.iter().map(|key| key.kind.clone()).collect::<Vec<_>>().join(" "));
        assert_eq!(steps, ["MutatingWebhookConfiguration", "Deployment", "ConfigMap PodDisruptionBudget"]);
        let kept = kept(&lines);
        assert_eq!(kept.len(), lines.len() - 4);
        assert!(removal(&kept).iter().all(Vec::is_empty), "a second time finds nothing");
    }

    #[test]
    fn a_union_is_sorted_and_without_doubles() {
        assert_eq!(union(&inventory(&["b", "a"]), &inventory(&["a", "c"])), ["a", "b", "c"]);
    }
}
