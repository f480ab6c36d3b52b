//! The latest status of every object, and which of them changed since the last report. Controllers write it; the status
//! loop reads it.

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
}

impl StatusCache {
    #[must_use]
    pub fn new(ready_within: SignedDuration) -> Self {
        Self(Arc::new(Inner { ready_within, ..Inner::default() }))
    }

    /// Stores an object's status, an application's dated; a status equal to the stored one changes nothing.
    pub fn put(&self, mut status: ObjectStatus) {
        let mut state = self.lock();
        if matches!(ObjectKey::parse(&status.key), Some(ObjectKey::Application { .. })) {
            let before = state.objects.get(&status.key);
            since::date(&mut status, before, clock::now(), self.0.ready_within);
        }
        if state.objects.get(&status.key) == Some(&status) {
            return;
        }
        state.changed.insert(status.key.clone());
        state.objects.insert(status.key.clone(), status);
        drop(state);
        self.0.wake.notify_one();
    }

    /// Removes an object that no longer exists in the cluster.
    pub fn remove(&self, key: &str) {
        let mut state = self.lock();
        if state.objects.remove(key).is_some() {
            state.changed.insert(key.to_owned());
            drop(state);
            self.0.wake.notify_one();
        }
    }

    /// Every object; nothing counts as changed afterwards.
    pub(super) fn snapshot(&self) -> Vec<ObjectStatus> {
        let mut state = self.lock();
        state.changed.clear();
        state.objects.values().cloned().collect()
    }

    pub(super) fn keys(&self) -> BTreeSet<String> {
        self.lock().objects.keys().cloned().collect()
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
}
