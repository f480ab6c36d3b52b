//! The latest status of every object, and which of them changed since the last report. Controllers write it; the status
//! loop reads it.

use crate::apiserver::verbs::Listed;
use futures::{Stream, stream};
use jiff::SignedDuration;
use kubenova_operator_core::{application::since, tenant::applications::Applications};
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
    wake_tenants: Notify,
    /// An application that is not ready for longer is stalled.
    ready_within: SignedDuration,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, ObjectStatus>,
    changed: BTreeSet<String>,
    /// Tenants of whose applications one changed since the last look.
    tenants: BTreeSet<String>,
    /// A list has ended.
    is_listed: bool,
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
            self.wake();
        }
    }

    /// Removes an object that no longer exists in the cluster.
    pub fn remove(&self, key: &str) {
        let mut state = self.lock();
        state.note_written(key);
        let has_changed = state.remove(key);
        drop(state);
        if has_changed {
            self.wake();
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
        // An object that cannot be read is another kind's: of an Application only its metadata has a type.
        if !state.is_listed {
            state.is_listed = true;
            let State { objects, tenants, .. } = &mut *state;
            tenants.extend(objects.keys().filter_map(|key| tenant_of_application(key)));
        }
        drop(state);
        self.wake();
    }

    /// The applications of a tenant; none until all have been listed.
    #[must_use]
    pub fn applications_of(&self, tenant_id: &str) -> Option<Applications> {
        let state = self.lock();
        let prefix = ObjectKey::Application { tenant_id: tenant_id.to_owned(), name: String::new() }.to_string();
        let from_prefix = state.objects.range(prefix.clone()..);
        let own = from_prefix.take_while(|(key, _)| key.starts_with(&prefix)).map(|(_, status)| status);
        state.is_listed.then(|| Applications::of(own))
    }

    /// Ids of tenants of whose applications one changed since the last look, without end. For one reader.
    pub fn tenants_with_changes(&self) -> impl Stream<Item = Vec<String>> + Send + use<> {
        stream::unfold(self.clone(), |cache| async move {
            loop {
                let tenants = std::mem::take(&mut cache.lock().tenants);
                if !tenants.is_empty() {
                    return Some((tenants.into_iter().collect(), cache));
                }
                cache.0.wake_tenants.notified().await;
            }
        })
    }

    fn wake(&self) {
        self.0.wake.notify_one();
        self.0.wake_tenants.notify_one();
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
        self.tenants.extend(tenant_of_application(&status.key));
        self.changed.insert(status.key.clone());
        self.objects.insert(status.key.clone(), status);
        true
    }

    /// Whether it was there.
    fn remove(&mut self, key: &str) -> bool {
        let was_there = self.objects.remove(key).is_some();
        if was_there {
            self.tenants.extend(tenant_of_application(key));
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

fn tenant_of_application(key: &str) -> Option<String> {
    match ObjectKey::parse(key) {
        Some(ObjectKey::Application { tenant_id, .. }) => Some(tenant_id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt as _, StreamExt as _};
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
    fn a_tenant_s_applications_are_counted_once_all_have_been_listed() {
        const T: &str = "0198c7f2-5d5e-7c3a-9a55-0a4e7a1b2c3d";
        let cache = StatusCache::default();
        let mut tenants = Box::pin(cache.tenants_with_changes());
        let key = format!("application/{T}/shop");
        cache.put(status(&key, 1));
        cache.put(status("tenant/0198c7f2-5d5e-7c3a-9a55-0a4e7a1b2c3e", 1));
        assert_eq!(tenants.next().now_or_never(), Some(Some(vec![T.to_owned()])));
        assert_eq!(cache.applications_of(T), None, "there may be more of them");
        let listing = cache.begin_listing();
        cache.end_listing(listing, Listed { objects: vec![status(&key, 1)], is_complete: true });
        assert_eq!(cache.applications_of(T), Some(Applications::of([&status(&key, 1)])));
        assert_eq!(cache.applications_of("another"), Some(Applications::default()));
        assert_eq!(tenants.next().now_or_never(), Some(Some(vec![T.to_owned()])), "it was not counted before");
        cache.remove(&key);
        assert_eq!(tenants.next().now_or_never(), Some(Some(vec![T.to_owned()])));
        assert_eq!(tenants.next().now_or_never(), None);
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
