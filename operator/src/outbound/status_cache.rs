//! The latest status of every object, and which of them changed since the last report. Controllers write it; the status
//! loop reads it.

use crate::apiserver::verbs::Listed;
use jiff::SignedDuration;
use kubenova_operator_core::application::since;
use kubenova_runtime::clock;
use kubenova_schema::{kinds::ObjectKey, v1::ObjectStatus};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct StatusCache(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    wake: Notify,
    /// An application that is not ready for longer is stalled.
    ready_within: SignedDuration,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, ObjectStatus>,
    changed: BTreeSet<String>,
    /// Objects that controllers wrote since the list under way was begun; none when there is none.
    written: Option<BTreeSet<String>>,
}

/// A list of everything that is under way.
#[derive(Debug)]
#[must_use]
pub(super) struct Listing(());

impl StatusCache {
    #[must_use]
    pub fn new(ready_within: SignedDuration) -> Self {
        Self(Arc::new(Inner { ready_within, ..Inner::default() }))
    }

    /// Stores an object's status, an application's dated; a status equal to the stored one changes nothing.
    pub fn put(&self, status: ObjectStatus) {
        let mut state = self.lock();
        state.note_written(&status.key);
        let has_changed = state.put(status, self.0.ready_within);
        drop(state);
        if has_changed {
            self.0.wake.notify_one();
        }
    }

    /// Removes an object that no longer exists in the cluster.
    pub fn remove(&self, key: &str) {
        let mut state = self.lock();
        state.note_written(key);
        let has_changed = state.remove(key);
        drop(state);
        if has_changed {
            self.0.wake.notify_one();
        }
    }

    /// Begins to list everything. What controllers write until its end is newer than the list.
    pub(super) fn begin_listing(&self) -> Listing {
        self.lock().written = Some(BTreeSet::new());
        Listing(())
    }

    /// Takes the list in: what it does not have is gone, unless it is not complete.
    pub(super) fn end_listing(&self, Listing(()): Listing, listed: Listed<ObjectStatus>) {
        let Listed { objects: listed, is_complete } = listed;
        let mut state = self.lock();
        let newer = state.written.take().unwrap_or_default();
        let present: BTreeSet<&str> = listed.iter().map(|status| status.key.as_str()).collect();
        let is_gone = |key: &&String| is_complete && !present.contains(key.as_str()) && !newer.contains(*key);
        let gone = state.objects.keys().filter(is_gone);
        let gone: Vec<String> = gone.cloned().collect();
        for key in gone {
            state.remove(&key);
        }
        for status in listed.into_iter().filter(|status| !newer.contains(&status.key)) {
            state.put(status, self.0.ready_within);
        }
        drop(state);
        self.0.wake.notify_one();
    }

    /// Every object; nothing counts as changed afterwards.
    pub(super) fn snapshot(&self) -> Vec<ObjectStatus> {
        let mut state = self.lock();
        state.changed.clear();
        state.objects.values().cloned().collect()
    }

    /// At most `max` objects that changed since the last call.
    pub(super) fn take_changes(&self, max: usize) -> Vec<ObjectStatus> {
        let mut state = self.lock();
        let keys: Vec<String> = state.changed.iter().take(max).cloned().collect();
        for key in &keys {
            state.changed.remove(key);
        }
        keys.into_iter()
            .map(|key| match state.objects.get(&key) {
                Some(status) => status.clone(),
                None => ObjectStatus { key, absent: true, ..ObjectStatus::default() },
            })
            .collect()
    }

    /// Marks objects as changed whose report could not be published.
    pub(super) fn mark_changed(&self, objects: &[ObjectStatus]) {
        self.lock().changed.extend(objects.iter().map(|status| status.key.clone()));
    }

    /// Resolves when something changed since the last call.
    pub(super) async fn changed(&self) {
        self.0.wake.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether it is another status than before.
    fn put(&mut self, mut status: ObjectStatus, ready_within: SignedDuration) -> bool {
        if matches!(ObjectKey::parse(&status.key), Some(ObjectKey::Application { .. })) {
            let before = self.objects.get(&status.key);
            since::date(&mut status, before, clock::now(), ready_within);
        }
        if self.objects.get(&status.key) == Some(&status) {
            return false;
        }
        self.changed.insert(status.key.clone());
        self.objects.insert(status.key.clone(), status);
        true
    }

    /// Whether it was there.
    fn remove(&mut self, key: &str) -> bool {
        let was_there = self.objects.remove(key).is_some();
        if was_there {
            self.changed.insert(key.to_owned());
        }
        was_there
    }

    fn note_written(&mut self, key: &str) {
        if let Some(written) = &mut self.written {
            written.insert(key.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_schema::v1::Condition;

    fn status(key: &str, revision: u64) -> ObjectStatus {
        ObjectStatus { key: key.to_owned(), revision, ..ObjectStatus::default() }
    }

    #[test]
    fn applications_are_dated_when_they_change() {
        let cache = StatusCache::new(SignedDuration::from_secs(600));
        let ready = |key: &str| ObjectStatus {
            conditions: vec![Condition {
                r#type: "Ready".to_owned(),
                status: "True".to_owned(),
                ..Condition::default()
            }],
            ..status(key, 1)
        };
        cache.put(ready("application/t/shop"));
        let first = cache.take_changes(10);
        assert!(!first[0].conditions[0].last_transition_time.is_empty());
        cache.put(ready("application/t/shop"));
        assert_eq!(cache.take_changes(10), [], "the same again");
        cache.put(ready("tenant/t"));
        assert_eq!(cache.take_changes(10)[0].conditions[0].last_transition_time, "", "only applications");
    }

    #[test]
    fn only_what_differs_is_a_change_and_a_removed_object_is_reported_absent() {
        let cache = StatusCache::default();
        cache.put(status("a", 1));
        cache.put(status("b", 1));
        assert_eq!(cache.snapshot().len(), 2);
        cache.put(status("a", 1));
        assert_eq!(cache.take_changes(10), []);
        cache.put(status("a", 2));
        cache.remove("b");
        cache.remove("unknown");
        let changes = cache.take_changes(10);
        assert_eq!(
            changes.iter().map(|status| (status.key.as_str(), status.absent)).collect::<Vec<_>>(),
            [("a", false), ("b", true)]
        );
        cache.mark_changed(&changes);
        assert_eq!(cache.take_changes(1).len(), 1);
    }

    #[test]
    fn a_list_ends_what_it_lacks_and_nothing_that_was_written_meanwhile() {
        let cache = StatusCache::default();
        for key in ["gone", "kept", "removed", "ended"] {
            cache.put(status(key, 1));
        }
        assert_eq!(cache.snapshot().len(), 4);
        let listing = cache.begin_listing();
        cache.put(status("new", 2));
        cache.remove("removed");
        cache.put(status("kept", 3));
        let listed = ["kept", "removed", "listed"].map(|key| status(key, 1)).to_vec();
        cache.end_listing(listing, Listed { objects: listed, is_complete: true });
        let all: Vec<_> = cache.snapshot().into_iter().map(|status| (status.key, status.revision)).collect();
        let expected = [("kept", 3), ("listed", 1), ("new", 2)].map(|(key, revision)| (key.to_owned(), revision));
        assert_eq!(all, expected);
        cache.put(status("later", 1));
        assert_eq!(cache.take_changes(10).len(), 1, "after the list as before");
    }

    #[test]
    fn a_list_that_is_not_complete_ends_nothing() {
        let cache = StatusCache::default();
        cache.put(status("not-decoded", 1));
        let listing = cache.begin_listing();
        cache.end_listing(listing, Listed { objects: vec![status("listed", 1)], is_complete: false });
        let keys: Vec<_> = cache.snapshot().into_iter().map(|status| status.key).collect();
        assert_eq!(keys, ["listed", "not-decoded"]);
    }
}
