//! Everything that the cluster has, in parts that fit into a message each. A part says from which key to which it is everything, so that
//! the Manager can tell what vanished while no Operator watched, whatever part arrives and in whatever order.

use kubenova_schema::{
    message, streams,
    v1::{ObjectStatus, StatusReport},
};

/// Objects in one report: an object's status is below 16 KiB, mostly far below it.
pub const OBJECTS_MAX: usize = 50;
/// Bytes of one report: what a cluster may send, less the headers.
const REPORT_BYTES_MAX: usize = streams::CLUSTER_MESSAGE_BYTES_MAX - 4 * 1024;
/// Bytes of a report without objects, at most; a key has less than 400.
const HEAD_BYTES: usize = 1024;

/// A part of a snapshot.
#[derive(Debug, Clone, PartialEq)]
struct Part {
    /// It is everything above this key,
    after_key: String,
    /// which are these objects,
    objects: Vec<ObjectStatus>,
    /// up to the end, else up to the key of its last object.
    last: bool,
}

/// The reports of everything that the cluster has. Where an object could not be read, they are those of changes: nothing that they lack
/// counts as gone.
#[must_use]
pub fn reports(objects: Vec<ObjectStatus>, is_complete: bool) -> Vec<StatusReport> {
    let report = |Part { after_key, objects, last }: Part| {
        if is_complete {
            StatusReport { snapshot: true, after_key, last, objects, ..StatusReport::default() }
        } else {
            StatusReport { objects, ..StatusReport::default() }
        }
    };
    parts(objects).into_iter().map(report).filter(|report| report.snapshot || !report.objects.is_empty()).collect()
}

/// The parts of a snapshot of these objects, by key; one without objects when there are none.
fn parts(mut objects: Vec<ObjectStatus>) -> Vec<Part> {
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    let (mut parts, mut after_key) = (Vec::new(), String::new());
    loop {
        let rest = objects.split_off(fitting(&objects));
        let highest = objects.last().map(|object| object.key.clone()).unwrap_or_default();
        let last = rest.is_empty();
        parts.push(Part { after_key: std::mem::replace(&mut after_key, highest), objects, last });
        if last {
            return parts;
        }
        objects = rest;
    }
}

/// How many of these objects fit into one report; at least one.
#[must_use]
pub fn fitting(objects: &[ObjectStatus]) -> usize {
    let mut count = objects.len().min(OBJECTS_MAX);
    while count > 1 && bytes(&objects[..count]) > REPORT_BYTES_MAX {
        count /= 2;
    }
    count
}

/// Bytes of a report with these objects.
fn bytes(objects: &[ObjectStatus]) -> usize {
    message::to_json(&StatusReport { objects: objects.to_vec(), ..StatusReport::default() }).len() + HEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_report_holds_as_many_objects_as_a_message_has_room_for() {
        let objects = |count: usize, bytes: usize| {
            vec![ObjectStatus { key: "tenant/x".into(), detail: "x".repeat(bytes), ..ObjectStatus::default() }; count]
        };
        assert_eq!(fitting(&objects(3, 10)), 3);
        assert_eq!(fitting(&objects(70, 10)), OBJECTS_MAX);
        let large = objects(OBJECTS_MAX, 16 * 1024);
        let count = fitting(&large);
        assert!(count > 1 && bytes(&large[..count]) <= REPORT_BYTES_MAX, "{count}");
        assert_eq!(fitting(&objects(2, 2 * REPORT_BYTES_MAX)), 1, "one is sent alone whatever its size");
    }

    #[test]
    fn a_snapshot_that_lacks_an_object_does_not_claim_to_be_everything() {
        let object = ObjectStatus { key: "tenant/x".into(), ..ObjectStatus::default() };
        let claims = |objects: Vec<ObjectStatus>, is_complete: bool| {
            reports(objects, is_complete).iter().map(|report| (report.snapshot, report.last)).collect::<Vec<_>>()
        };
        assert_eq!(claims(vec![object.clone()], true), [(true, true)]);
        assert_eq!(claims(vec![object], false), [(false, false)]);
        assert_eq!(claims(vec![], true), [(true, true)], "that nothing is there is said, too");
        assert_eq!(claims(vec![], false), []);
    }

    proptest! {
        /// Whatever there is, every key is in the range of one part, and every object is in the part whose range has its key.
        #[test]
        fn every_key_is_in_the_range_of_exactly_one_part(
            names in prop::collection::btree_set("[a-z]{1,3}", 0..170),
            probe in "[a-z]{0,4}",
        ) {
            let object = |name: &String| ObjectStatus { key: format!("tenant/{name}"), ..ObjectStatus::default() };
            let parts = parts(names.iter().rev().map(object).collect());
            let covers = |part: &Part, key: &str| {
                let through = part.objects.last().map(|object| object.key.as_str());
                key > part.after_key.as_str() && (part.last || through.is_some_and(|through| key <= through))
            };
            let keys = names.iter().map(|name| format!("tenant/{name}"));
            for key in keys.clone().chain([format!("tenant/{probe}"), "zone/last".to_owned(), "a".to_owned()]) {
                let covering: Vec<&Part> = parts.iter().filter(|part| covers(part, &key)).collect();
                prop_assert_eq!(covering.len(), 1, "{}", key);
                let named = covering[0].objects.iter().any(|object| object.key == key);
                prop_assert_eq!(named, keys.clone().any(|known| known == key));
            }
            prop_assert!(parts.iter().all(|part| part.objects.len() <= OBJECTS_MAX));
        }
    }
}
