//! Whether a live object still is what was applied, decided without comparing values.
//!
//! The API server stores another form than the one it is given (`1.0` as `1`, empty strings left out, labels rewritten
//! by webhooks), so a comparison of values finds differences that no apply can remove. Two facts are compared instead:
//! the digest of what was applied last, written as an annotation with the apply itself, and the managed fields, which
//! lose a field of ours when another client changes it.
//!
//! A client that takes a field back after each repair is left alone for growing pauses: two controllers that write the
//! same field would otherwise do so for ever.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kubenova_crds::FIELD_MANAGER;
use kubenova_schema::signature::sha256_hex;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Annotation with the SHA-256 of what the Operator applied last, see [`stamp`].
pub const APPLIED_SHA256: &str = "kubenova.io/applied-sha256";

/// Pause after the first repair that did not last. Long enough for a person's second edit to be a new one.
const CONTESTED_PAUSE_MIN: SignedDuration = SignedDuration::from_secs(10);
/// Longest pause between two repairs of an object that others keep changing.
const CONTESTED_PAUSE_MAX: SignedDuration = SignedDuration::from_hours(1);

/// Writes the digest of a desired object into its annotations. The last thing to do before it is applied.
pub fn stamp(desired: &mut Value) {
    let digest = digest(desired);
    if let Some(object) = desired.as_object_mut()
        && let Some(metadata) = object.entry("metadata").or_insert_with(|| Value::Object(Map::new())).as_object_mut()
        && let Some(annotations) =
            metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new())).as_object_mut()
    {
        annotations.insert(APPLIED_SHA256.to_owned(), digest.into());
    }
}

fn digest(desired: &Value) -> String {
    sha256_hex(desired.to_string().as_bytes())
}

/// How a live object differs from the desired one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// It was applied from exactly this, and every field is still ours.
    None,
    /// It was applied from something else.
    Outdated,
    /// Other clients have changed these fields since, or removed them.
    Drifted { fields: Vec<String> },
}

/// Compares a live object with a stamped desired one.
#[must_use]
pub fn compare(live: &ObjectMeta, desired: &Value) -> Difference {
    let applied = live.annotations.as_ref().and_then(|annotations| annotations.get(APPLIED_SHA256));
    let expected = desired.pointer("/metadata/annotations").and_then(|annotations| annotations.get(APPLIED_SHA256));
    if expected.is_none() || applied.map(String::as_str) != expected.and_then(Value::as_str) {
        return Difference::Outdated;
    }
    let owned: Vec<&Value> = live
        .managed_fields
        .iter()
        .flatten()
        .filter(|entry| is_ours(entry))
        .filter_map(|entry| entry.fields_v1.as_ref().map(|fields| &fields.0))
        .collect();
    let mut fields = Vec::new();
    collect_not_owned(&body_of(desired), &owned, "", &mut fields);
    if fields.is_empty() { Difference::None } else { Difference::Drifted { fields } }
}

/// What of a live object is ours, as one value. It stays the same until the object is replaced or another client changes
/// or removes a field of ours; what others write beside, a status first of all, does not move it.
#[must_use]
pub fn ownership(live: &ObjectMeta) -> String {
    let owned = live.managed_fields.iter().flatten().filter(|entry| is_ours(entry)).map(|entry| &entry.fields_v1);
    let owned: Vec<&Value> = owned.flatten().map(|fields| &fields.0).collect();
    sha256_hex(serde_json::json!([live.uid, owned]).to_string().as_bytes())
}

fn is_ours(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply")
}

/// What of an object has managed fields: everything but its identity.
fn body_of(desired: &Value) -> Value {
    let mut body = desired.clone();
    if let Some(object) = body.as_object_mut() {
        object.remove("apiVersion");
        object.remove("kind");
    }
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata
            .retain(|field, _| matches!(field.as_str(), "labels" | "annotations" | "finalizers" | "ownerReferences"));
    }
    body
}

/// Adds the paths of `desired` that none of the `owned` sets (FieldsV1) holds. Empty values do not count: whether the
/// API server keeps them, and their ownership, differs between kinds.
fn collect_not_owned(desired: &Value, owned: &[&Value], path: &str, fields: &mut Vec<String>) {
    match desired {
        Value::Object(map) => {
            for (name, value) in map.iter().filter(|(_, value)| !is_empty(value)) {
                let key = format!("f:{name}");
                let nodes: Vec<&Value> = owned.iter().filter_map(|set| set.get(&key)).collect();
                descend(value, &nodes, &format!("{path}.{name}"), fields);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate().filter(|(_, item)| !is_empty(item)) {
                let nodes: Vec<&Value> = owned.iter().filter_map(|set| list_entry(set, index, item)).collect();
                descend(item, &nodes, &format!("{path}[{index}]"), fields);
            }
        }
        _ => {}
    }
}

fn descend(value: &Value, nodes: &[&Value], path: &str, fields: &mut Vec<String>) {
    // `{}` owns everything below it: a scalar, or a list or map that the schema treats as one value.
    if nodes.iter().any(|node| node.as_object().is_some_and(Map::is_empty)) {
        return;
    }
    if nodes.is_empty() || !(value.is_object() || value.is_array()) {
        fields.push(path.trim_start_matches('.').to_owned());
        return;
    }
    collect_not_owned(value, nodes, path, fields);
}

/// The entry of a list item in a set: by its key fields (`k:`), its value (`v:`) or its position (`i:`).
fn list_entry<'a>(set: &'a Value, index: usize, item: &Value) -> Option<&'a Value> {
    let matches = |entry: &str| match entry.split_once(':') {
        // Key fields that the item leaves out were filled in by the API server.
        Some(("k", keys)) => serde_json::from_str::<Map<String, Value>>(keys)
            .is_ok_and(|keys| keys.iter().all(|(name, value)| item.get(name).is_none_or(|present| present == value))),
        Some(("v", value)) => serde_json::from_str::<Value>(value).is_ok_and(|value| value == *item),
        Some(("i", position)) => position.parse::<usize>().is_ok_and(|position| position == index),
        _ => false,
    };
    set.as_object()?.iter().find(|(entry, _)| matches(entry)).map(|(_, node)| node)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// Repairs of one object's drift so far. Kept in memory: after a restart an object is repaired once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repairs {
    count: u32,
    last: Timestamp,
}

impl Repairs {
    fn pause(self) -> SignedDuration {
        let doublings = self.count.saturating_sub(1).min(16);
        CONTESTED_PAUSE_MIN.saturating_mul(2_i32.pow(doublings)).min(CONTESTED_PAUSE_MAX)
    }

    /// Long past: the next drift is a new one.
    #[must_use]
    pub fn is_forgotten(self, now: Timestamp) -> bool {
        now.duration_since(self.last) >= self.pause().saturating_mul(2)
    }
}

/// Fields of ours that other clients take back after each repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contention {
    pub fields: Vec<String>,
    /// Field managers that hold any of them now; none when they were removed.
    pub writers: Vec<String>,
    /// Time to the next repair.
    pub pause: SignedDuration,
}

/// Fields that a message names: enough to find the writer, short enough for an event.
const FIELDS_NAMED_MAX: usize = 3;

impl Contention {
    fn of(live: &ObjectMeta, desired: &Value, fields: Vec<String>, pause: SignedDuration) -> Self {
        let body = body_of(desired);
        let others = live.managed_fields.iter().flatten().filter(|entry| !is_ours(entry));
        let writers = others.filter_map(|entry| {
            let owned = entry.fields_v1.as_ref().map(|fields| &fields.0)?;
            let mut missing = Vec::new();
            collect_not_owned(&body, &[owned], "", &mut missing);
            fields.iter().any(|field| !is_below_any(field, &missing)).then(|| entry.manager.clone())?
        });
        let writers: BTreeSet<String> = writers.collect();
        Self { fields, writers: writers.into_iter().collect(), pause }
    }

    /// What happens and what to do about it.
    #[must_use]
    pub fn message(&self) -> String {
        let who = match self.writers.as_slice() {
            [] => "another client keeps removing".to_owned(),
            writers => format!("{} keeps changing", writers.join(", ")),
        };
        let named = self.fields.iter().take(FIELDS_NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        let more = match self.fields.len().saturating_sub(FIELDS_NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "{who} fields that KubeNova applies: {named}{more}; stop that client, or change the desired state at the \
             Manager; until then KubeNova repairs the object less and less often"
        )
    }
}

/// Whether the field, or a parent of it, is one of these paths.
fn is_below_any(field: &str, paths: &[String]) -> bool {
    paths.iter().any(|path| {
        field.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    })
}

/// What to do about a live object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing: it is as desired.
    Keep,
    /// Apply it.
    Apply,
    /// Apply it, since others changed these fields.
    Repair { fields: Vec<String>, repairs: Repairs },
    /// Nothing for a while: others changed fields again right after a repair.
    LeaveContested(Contention),
}

/// Decides what to do about an object that may not be there.
#[must_use]
pub fn decide(live: Option<&ObjectMeta>, desired: &Value, repairs: Option<Repairs>, now: Timestamp) -> Action {
    let Some(live) = live else { return Action::Apply };
    match compare(live, desired) {
        Difference::Outdated => Action::Apply,
        Difference::None => Action::Keep,
        Difference::Drifted { fields } => {
            let earlier = repairs.filter(|repairs| !repairs.is_forgotten(now));
            match earlier {
                Some(earlier) if now.duration_since(earlier.last) < earlier.pause() => {
                    let pause = earlier.pause() - now.duration_since(earlier.last);
                    Action::LeaveContested(Contention::of(live, desired, fields, pause))
                }
                earlier => {
                    let count = earlier.map_or(0, |repairs| repairs.count).saturating_add(1);
                    Action::Repair { fields, repairs: Repairs { count, last: now } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::FieldsV1;
    use proptest::prelude::*;
    use serde_json::json;

    fn stamped(mut desired: Value) -> Value {
        stamp(&mut desired);
        desired
    }

    /// The live metadata after an apply of `desired` that left us these fields.
    fn live(desired: &Value, owned: Value) -> ObjectMeta {
        let applied = desired["metadata"]["annotations"][APPLIED_SHA256].as_str().unwrap();
        ObjectMeta {
            annotations: Some([(APPLIED_SHA256.to_owned(), applied.to_owned())].into()),
            managed_fields: Some(vec![ManagedFieldsEntry {
                manager: Some(FIELD_MANAGER.to_owned()),
                operation: Some("Apply".to_owned()),
                fields_v1: Some(FieldsV1(owned)),
                ..ManagedFieldsEntry::default()
            }]),
            ..ObjectMeta::default()
        }
    }

    /// Fields as the API server records them for a schema without lists keyed by a field: maps one by one, lists whole.
    fn own_all(desired: &Value) -> Value {
        match desired {
            Value::Object(map) if !map.is_empty() => {
                map.iter().map(|(name, value)| (format!("f:{name}"), own_all(value))).collect::<Map<_, _>>().into()
            }
            _ => json!({}),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn an_application_is_in_place_whatever_form_it_is_stored_in() {
        let spec = json!({
            "components": [{"name": "web", "type": "webservice", "properties": {"replicas": 1.0, "cpu": 1e3, "big": 12_345_678_901_234_567_890_u64}, "externalRevision": ""}],
            "workflow": {"steps": [{"name": "a", "type": "deploy", "if": "", "timeout": "", "meta": {"alias": ""}}]},
        });
        let metadata =
            json!({"name": "shop", "namespace": "acme-apps", "labels": {"capsule.clastix.io/managed-by": "x"}});
        let desired = stamped(
            json!({"apiVersion": "core.oam.dev/v1beta1", "kind": "Application", "metadata": metadata, "spec": spec}),
        );
        let owned = json!({
            "f:metadata": {"f:annotations": {"f:kubenova.io/applied-sha256": {}}, "f:labels": {"f:capsule.clastix.io/managed-by": {}}},
            "f:spec": {"f:components": {}, "f:workflow": {"f:steps": {}}},
        });
        assert_eq!(compare(&live(&desired, owned), &desired), Difference::None);
    }

    #[test]
    fn another_document_is_outdated_and_so_is_an_object_without_the_annotation() {
        let desired = stamped(json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}}));
        let other = stamped(json!({"metadata": {"name": "a"}, "spec": {"replicas": 2}}));
        assert_eq!(compare(&live(&desired, own_all(&desired)), &other), Difference::Outdated);
        assert_eq!(compare(&ObjectMeta::default(), &desired), Difference::Outdated);
    }

    #[test]
    fn a_field_that_another_client_changed_is_named() {
        let desired = stamped(
            json!({"metadata": {"name": "a", "labels": {"team": "x"}}, "spec": {"components": [{"name": "web"}], "policies": [1]}}),
        );
        let owned = json!({
            "f:metadata": {"f:annotations": {"f:kubenova.io/applied-sha256": {}}, "f:labels": {"f:team": {}}},
            "f:spec": {".": {}, "f:policies": {}},
        });
        let drifted = Difference::Drifted { fields: vec!["spec.components".to_owned()] };
        assert_eq!(compare(&live(&desired, owned), &desired), drifted);
    }

    #[test]
    fn list_items_are_found_by_key_value_and_position() {
        let desired = stamped(json!({
            "metadata": {"finalizers": ["kubenova.io/tenant"]},
            "ports": [{"port": 80, "name": "web"}],
            "rules": [{"verbs": "get"}],
        }));
        let owned = |port: &str, rule: &str| {
            json!({
                "f:metadata": {"f:annotations": {"f:kubenova.io/applied-sha256": {}}, "f:finalizers": {"v:\"kubenova.io/tenant\"": {}}},
                "f:ports": {port: {".": {}, "f:port": {}, "f:name": {}}},
                "f:rules": {rule: {"f:verbs": {}}},
            })
        };
        let all = owned(r#"k:{"port":80,"protocol":"TCP"}"#, "i:0");
        assert_eq!(compare(&live(&desired, all), &desired), Difference::None);
        let other = owned(r#"k:{"port":81,"protocol":"TCP"}"#, "i:1");
        let lost = Difference::Drifted { fields: vec!["ports[0]".to_owned(), "rules[0]".to_owned()] };
        assert_eq!(compare(&live(&desired, other), &desired), lost);
    }

    #[test]
    fn empty_values_are_not_missed() {
        let desired =
            stamped(json!({"metadata": {}, "spec": {"podSelector": {}, "none": null, "list": [], "kept": 1}}));
        let owned = json!({"f:metadata": {"f:annotations": {}}, "f:spec": {"f:kept": {}}});
        assert_eq!(compare(&live(&desired, owned), &desired), Difference::None);
    }

    #[test]
    fn drift_is_repaired_at_once_and_a_contested_field_is_left_for_growing_pauses() {
        let desired = stamped(json!({"metadata": {}, "spec": {"a": 1}}));
        let taken = live(&desired, json!({"f:metadata": {"f:annotations": {}}}));
        let (mut repairs, mut repaired_at) = (None, Vec::new());
        for second in 0..3600 {
            match decide(Some(&taken), &desired, repairs, at(second)) {
                Action::Repair { repairs: next, fields } => {
                    assert_eq!(fields, ["spec"]);
                    repairs = Some(next);
                    repaired_at.push(second);
                }
                Action::LeaveContested(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(repaired_at, [0, 10, 30, 70, 150, 310, 630, 1270, 2550]);
        assert!(matches!(
            decide(Some(&taken), &desired, repairs, at(20_000)),
            Action::Repair { repairs: Repairs { count: 1, .. }, .. }
        ));
    }

    #[test]
    fn a_contention_names_who_writes_the_fields_and_what_to_do() {
        let desired = stamped(json!({"metadata": {"labels": {"a": "1"}}, "spec": {"replicas": 1, "paused": false}}));
        let annotations = json!({"f:annotations": {}});
        let mut taken = live(&desired, json!({"f:metadata": annotations, "f:spec": {"f:paused": {}}}));
        let mut other = |manager: &str, owned: Value| {
            taken.managed_fields.get_or_insert_default().push(ManagedFieldsEntry {
                manager: Some(manager.to_owned()),
                operation: Some("Update".to_owned()),
                fields_v1: Some(FieldsV1(owned)),
                ..ManagedFieldsEntry::default()
            });
        };
        other("autoscaler", json!({"f:spec": {"f:replicas": {}}}));
        other("status-writer", json!({"f:status": {"f:ready": {}}}));
        other("neighbor", json!({"f:metadata": {"f:annotations": {"f:theirs": {}}}, "f:spec": {"f:paused": {}}}));
        let repairs = Some(Repairs { count: 1, last: at(0) });
        let Action::LeaveContested(contention) = decide(Some(&taken), &desired, repairs, at(1)) else {
            panic!("repaired a second ago");
        };
        assert_eq!(contention.fields, ["metadata.labels", "spec.replicas"]);
        assert_eq!(contention.writers, ["autoscaler"]);
        assert_eq!(contention.pause, SignedDuration::from_secs(9));
        let message = contention.message();
        assert!(
            message.starts_with(
                "autoscaler keeps changing fields that KubeNova applies: metadata.labels, spec.replicas; stop"
            ),
            "{message}"
        );
        let removed = Contention { writers: Vec::new(), fields: vec!["a".to_owned(); 5], ..contention };
        assert!(removed.message().contains("another client keeps removing"), "{}", removed.message());
        assert!(removed.message().contains("a, a, a and 2 more"), "{}", removed.message());
    }

    #[test]
    fn what_is_ours_does_not_move_with_what_others_write() {
        let desired = stamped(json!({"metadata": {"name": "a"}, "spec": {"a": 1}}));
        let applied = live(&desired, own_all(&desired));
        let before = ownership(&applied);
        let mut reported = applied.clone();
        reported.resource_version = Some("8".to_owned());
        reported.managed_fields.get_or_insert_default().push(ManagedFieldsEntry {
            manager: Some("kube-apiserver".to_owned()),
            operation: Some("Update".to_owned()),
            subresource: Some("status".to_owned()),
            fields_v1: Some(FieldsV1(json!({"f:status": {"f:conditions": {}}}))),
            ..ManagedFieldsEntry::default()
        });
        assert_eq!(ownership(&reported), before);
        let taken = live(&desired, json!({"f:metadata": {"f:annotations": {}}}));
        assert_ne!(ownership(&taken), before, "a field was changed");
        let replaced = ObjectMeta { uid: Some("other".to_owned()), ..applied };
        assert_ne!(ownership(&replaced), before, "another object of the same name");
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z]{1,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever is applied: with all its fields ours it is in place, without any of them it has drifted, unless it
        /// says nothing.
        #[test]
        fn what_is_owned_whole_is_in_place_and_what_is_not_owned_has_drifted(spec in json_value()) {
            let desired = stamped(json!({"metadata": {"name": "a"}, "spec": spec}));
            prop_assert_eq!(compare(&live(&desired, own_all(&desired)), &desired), Difference::None);
            let without_spec = json!({"f:metadata": {"f:annotations": {}}});
            let found = compare(&live(&desired, without_spec), &desired);
            prop_assert_eq!(found == Difference::None, is_empty(&desired["spec"]));
        }

        /// One apply, then nothing, whatever the stored values are: they are not looked at.
        #[test]
        fn an_apply_settles(spec in json_value()) {
            let desired = stamped(json!({"metadata": {"name": "a"}, "spec": spec}));
            prop_assert_eq!(decide(None, &desired, None, at(0)), Action::Apply);
            let applied = live(&desired, own_all(&desired));
            for second in 1..10 {
                prop_assert_eq!(decide(Some(&applied), &desired, None, at(second)), Action::Keep);
            }
        }

        /// Stamping is stable: a document built again has the same digest, another one another.
        #[test]
        fn the_digest_follows_the_content(spec in json_value(), other in json_value()) {
            let object = |spec: &Value| stamped(json!({"metadata": {"name": "a"}, "spec": spec}));
            prop_assert_eq!(object(&spec), object(&spec));
            let (text, other_text) = (spec.to_string(), other.to_string());
            prop_assert_eq!(object(&spec) == object(&other), text == other_text);
        }
    }
}
