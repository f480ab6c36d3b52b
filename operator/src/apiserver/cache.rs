//! What is kept of every object of a kind, fed by one watch and by our own writes: looked into instead of listing.
//!
//! An entry is as old as the watch is late, so it decides nothing that cannot be taken back: a write made from one carries
//! its resourceVersion, and an absence is confirmed by a list. After a restore of etcd a watch may be silent for long; the
//! Lease was restored too then, its next renewal is a conflict, and the process starts again with an empty cache.

use super::{verbs::Object, watch};
use futures::{Stream, StreamExt as _, stream};
use kube::{Api, ResourceExt as _, core::DynamicObject, runtime::watcher::Event};
use kubenova_runtime::shutdown::Shutdown;
use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, watch as signal};

/// Cheap to clone.
#[derive(Debug)]
pub struct Cache<T>(Arc<Inner<T>>);

impl<T> Clone for Cache<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Inner<T> {
    state: Mutex<State<T>>,
    complete: signal::Sender<bool>,
    wake: Notify,
}

/// One object's change since the last look: what was kept of it then, and now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<T> {
    pub name: String,
    pub before: Option<Arc<T>>,
    pub after: Option<Arc<T>>,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        let state = State { entries: BTreeMap::new(), listed: None, changed: BTreeMap::new() };
        Self(Arc::new(Inner { state: Mutex::new(state), complete: signal::Sender::new(false), wake: Notify::new() }))
    }
}

impl<T: Send + Sync + 'static> Cache<T> {
    /// Follows the objects until the process stops. One that cannot be decoded counts as absent.
    pub async fn follow<K>(self, api: Api<K>, keep: fn(&K) -> T, shutdown: Shutdown)
    where
        K: Object<DynamicType = ()> + Send + Sync + 'static,
    {
        let mut events = pin!(watch::events(api, ""));
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                Some(event) = events.next() => self.take(event, keep),
            }
        }
    }

    fn take<K: Object<DynamicType = ()>>(&self, event: Event<DynamicObject>, keep: fn(&K) -> T) {
        match event {
            Event::Init => self.lock().listed = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                let seen = self.seen(object, keep);
                self.lock().list(seen);
            }
            Event::InitDone => {
                self.lock().list_ended();
                self.0.complete.send_replace(true);
            }
            Event::Apply(object) => match self.seen(object, keep) {
                (name, version, Some(kept)) => self.lock().put(name, version, kept),
                (name, version, None) => self.lock().remove(&name, version),
            },
            Event::Delete(object) => self.lock().remove(&object.name_any(), version(&object)),
        }
        self.0.wake.notify_one();
    }

    /// Name, version and what is kept of it; decoded only if it is another version than the kept one.
    fn seen<K>(&self, object: DynamicObject, keep: fn(&K) -> T) -> (String, u64, Option<Arc<T>>)
    where
        K: Object<DynamicType = ()>,
    {
        let (name, version) = (object.name_any(), version(&object));
        let same = self.lock().entries.get(&name).filter(|entry| entry.version == version).cloned();
        let kept = match same {
            Some(entry) => Some(entry.kept),
            None => watch::typed(object).map(|object| Arc::new(keep(&object))),
        };
        (name, version, kept)
    }

    /// Keeps what a write has answered, which the watch shows only later.
    pub fn wrote<K: kube::Resource>(&self, object: &K, kept: T) {
        self.lock().put(object.name_any(), version(object), Arc::new(kept));
        self.0.wake.notify_one();
    }

    /// The same for the reader of the changes, to whom its own write is none: else each would be looked at once more.
    pub fn reader_wrote<K: kube::Resource>(&self, object: &K, kept: T) {
        self.lock().put_unnoticed(&object.name_any(), version(object), Arc::new(kept));
    }

    /// Resolves once every object has been seen.
    pub async fn complete(&self) {
        let mut complete = self.0.complete.subscribe();
        let _sender_is_ours = complete.wait_for(|complete| *complete).await.is_ok();
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<T>> {
        self.lock().entries.get(name).map(|entry| Arc::clone(&entry.kept))
    }

    #[must_use]
    pub fn all(&self) -> Vec<Arc<T>> {
        self.lock().entries.values().map(|entry| Arc::clone(&entry.kept)).collect()
    }

    #[must_use]
    pub fn find(&self, is_it: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        self.lock().entries.values().find(|entry| is_it(&entry.kept)).map(|entry| Arc::clone(&entry.kept))
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().entries.len()
    }

    /// Names that begin so.
    #[must_use]
    pub fn names_from(&self, prefix: &str) -> Vec<String> {
        let state = self.lock();
        let names = state.entries.range(prefix.to_owned()..).map(|(name, _)| name);
        names.take_while(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// Changes since the last look, without end; several of one object are one. For one reader.
    pub fn changes(&self) -> impl Stream<Item = Vec<Change<T>>> + Send + use<T> {
        stream::unfold(self.clone(), |cache| async move {
            loop {
                let changed = cache.lock().take_changes();
                if !changed.is_empty() {
                    return Some((changed, cache));
                }
                cache.0.wake.notified().await;
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// API servers number every write of a cluster in order. 0, which any version replaces, for one that does not.
fn version(object: &impl kube::Resource) -> u64 {
    object.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default()
}

#[derive(Debug)]
struct State<T> {
    entries: BTreeMap<String, Entry<T>>,
    /// What the list under way has shown so far.
    listed: Option<BTreeMap<String, Entry<T>>>,
    /// What was kept of each changed object at the last look.
    changed: BTreeMap<String, Option<Arc<T>>>,
}

#[derive(Debug)]
struct Entry<T> {
    version: u64,
    kept: Arc<T>,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self { version: self.version, kept: Arc::clone(&self.kept) }
    }
}

impl<T> State<T> {
    fn put(&mut self, name: String, version: u64, kept: Arc<T>) {
        if let Some(before) = self.put_unnoticed(&name, version, kept) {
            self.changed.entry(name).or_insert(before);
        }
    }

    /// What was kept before, if this is newer. An older version than the kept one is an event that came after our own write.
    fn put_unnoticed(&mut self, name: &str, version: u64, kept: Arc<T>) -> Option<Option<Arc<T>>> {
        let entry = Entry { version, kept };
        if let Some(listed) = &mut self.listed {
            insert_newer(listed, name, entry.clone());
        }
        insert_newer(&mut self.entries, name, entry)
    }

    fn remove(&mut self, name: &str, version: u64) {
        if let Some(listed) = &mut self.listed {
            remove_older(listed, name, version);
        }
        if let Some(before) = remove_older(&mut self.entries, name, version) {
            self.changed.entry(name.to_owned()).or_insert(Some(before));
        }
    }

    fn list(&mut self, (name, version, kept): (String, u64, Option<Arc<T>>)) {
        if let (Some(listed), Some(kept)) = (&mut self.listed, kept) {
            insert_newer(listed, &name, Entry { version, kept });
        }
    }

    /// What the list did not show is gone.
    fn list_ended(&mut self) {
        let Some(listed) = self.listed.take() else { return };
        let mut before = std::mem::replace(&mut self.entries, listed);
        for (name, entry) in &self.entries {
            match before.remove(name) {
                Some(same) if same.version == entry.version => {}
                other => {
                    self.changed.entry(name.clone()).or_insert(other.map(|entry| entry.kept));
                }
            }
        }
        for (name, entry) in before {
            self.changed.entry(name).or_insert(Some(entry.kept));
        }
    }

    fn take_changes(&mut self) -> Vec<Change<T>> {
        let after = |name: &str| self.entries.get(name).map(|entry| Arc::clone(&entry.kept));
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|(name, before)| Change { after: after(&name), name, before }).collect()
    }
}

/// What was kept before, if this is newer.
fn insert_newer<T>(entries: &mut BTreeMap<String, Entry<T>>, name: &str, entry: Entry<T>) -> Option<Option<Arc<T>>> {
    match entries.get_mut(name) {
        Some(present) if present.version >= entry.version => None,
        Some(present) => Some(Some(std::mem::replace(present, entry).kept)),
        None => {
            entries.insert(name.to_owned(), entry);
            Some(None)
        }
    }
}

fn remove_older<T>(entries: &mut BTreeMap<String, Entry<T>>, name: &str, version: u64) -> Option<Arc<T>> {
    if entries.get(name)?.version > version {
        return None;
    }
    entries.remove(name).map(|entry| entry.kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::tenant::{NovaTenant, TenantSpec};
    use serde_json::json;

    fn object(name: &str, version: u64) -> DynamicObject {
        let mut tenant = NovaTenant::new(name, TenantSpec::default());
        tenant.metadata.resource_version = Some(version.to_string());
        serde_json::from_value(serde_json::to_value(tenant).unwrap()).unwrap()
    }

    fn kept(tenant: &NovaTenant) -> String {
        format!("{}@{}", tenant.name_any(), tenant.resource_version().unwrap())
    }

    fn cache(events: impl IntoIterator<Item = Event<DynamicObject>>) -> Cache<String> {
        let cache = Cache::default();
        events.into_iter().for_each(|event| cache.take(event, kept));
        cache
    }

    fn all(cache: &Cache<String>) -> Vec<String> {
        cache.all().iter().map(|kept| (**kept).clone()).collect()
    }

    fn changed(cache: &Cache<String>) -> Vec<(String, Option<String>, Option<String>)> {
        let text = |kept: Option<Arc<String>>| kept.map(|kept| (*kept).clone());
        let changes = cache.lock().take_changes();
        changes.into_iter().map(|change| (change.name, text(change.before), text(change.after))).collect()
    }

    #[test]
    fn a_list_shows_everything_at_its_end_and_what_it_lacks_is_gone() {
        let cache = cache([Event::Init, Event::InitApply(object("a", 1)), Event::InitApply(object("b", 2))]);
        assert!(all(&cache).is_empty() && !*cache.0.complete.borrow());
        cache.take(Event::InitDone, kept);
        assert!(*cache.0.complete.borrow());
        assert_eq!(all(&cache), ["a@1", "b@2"]);
        assert_eq!(changed(&cache).len(), 2);
        for event in [Event::Init, Event::InitApply(object("b", 2)), Event::InitDone] {
            assert_eq!(cache.get("b").as_deref().map(String::as_str), Some("b@2"), "the former list stands meanwhile");
            cache.take(event, kept);
        }
        assert_eq!(changed(&cache), [("a".to_owned(), Some("a@1".to_owned()), None)], "b is unchanged");
    }

    #[test]
    fn an_event_from_before_our_own_write_changes_nothing() {
        let cache = cache([Event::Init, Event::InitDone]);
        let written: NovaTenant = object("a", 7).try_parse().unwrap();
        cache.wrote(&written, "ours".to_owned());
        cache.take(Event::Apply(object("a", 5)), kept);
        cache.take(Event::Delete(object("a", 6)), kept);
        cache.take(Event::Apply(object("a", 7)), kept);
        assert_eq!(all(&cache), ["ours"]);
        cache.take(Event::Apply(object("a", 8)), kept);
        assert_eq!(all(&cache), ["a@8"]);
        assert_eq!(changed(&cache), [("a".to_owned(), None, Some("a@8".to_owned()))], "several changes are one");
        cache.take(Event::Delete(object("a", 9)), kept);
        assert_eq!(changed(&cache), [("a".to_owned(), Some("a@8".to_owned()), None)]);
    }

    #[test]
    fn a_write_of_the_reader_is_kept_and_is_no_change_to_it() {
        let cache = cache([Event::Init, Event::InitApply(object("a", 1)), Event::InitDone]);
        assert_eq!(changed(&cache).len(), 1);
        let written: NovaTenant = object("a", 2).try_parse().unwrap();
        cache.reader_wrote(&written, "ours".to_owned());
        cache.take(Event::Apply(object("a", 2)), kept);
        assert_eq!((all(&cache), changed(&cache)), (vec!["ours".to_owned()], vec![]));
        cache.take(Event::Apply(object("a", 3)), kept);
        assert_eq!(changed(&cache), [("a".to_owned(), Some("ours".to_owned()), Some("a@3".to_owned()))]);
    }

    #[test]
    fn what_is_written_while_a_list_is_read_outlives_the_list() {
        let cache = cache([Event::Init, Event::InitDone, Event::Init, Event::InitApply(object("a", 1))]);
        let written: NovaTenant = object("b", 4).try_parse().unwrap();
        cache.wrote(&written, "ours".to_owned());
        cache.take(Event::InitDone, kept);
        assert_eq!(all(&cache), ["a@1", "ours"]);
    }

    #[test]
    fn an_object_that_cannot_be_decoded_counts_as_absent() {
        let mut broken = object("a", 2);
        broken.data["spec"] = json!(7);
        let cache = cache([Event::Init, Event::InitApply(object("a", 1)), Event::InitDone, Event::Apply(broken)]);
        assert!(all(&cache).is_empty());
    }

    #[test]
    fn names_are_found_by_their_beginning() {
        let list = ["application.t1.a", "application.t1.b", "application.t2.a", "tenant.t1"];
        let list = list.map(|name| Event::InitApply(object(name, 1)));
        let cache = cache([Event::Init].into_iter().chain(list).chain([Event::InitDone]));
        assert_eq!(cache.names_from("application.t1."), ["application.t1.a", "application.t1.b"]);
    }

    #[tokio::test]
    async fn a_reader_waits_for_the_next_change() {
        let cache: Cache<String> = cache([Event::Init, Event::InitDone]);
        let mut changes = pin!(cache.changes());
        assert!(futures::poll!(changes.next()).is_pending());
        cache.take(Event::Apply(object("a", 1)), kept);
        let names: Vec<String> = changes.next().await.unwrap().into_iter().map(|change| change.name).collect();
        assert_eq!(names, ["a"]);
    }
}
