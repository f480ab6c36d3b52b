//! An independent watch of a real cluster's applications: whether any of them ever went back, or was made twice.
//!
//! Asks the API server itself, with a client of its own. Must not: read revisions that the product wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::oracle::{self, Finding, Wrong};

/// What was seen of the applications.
#[derive(Debug, Default)]
struct Seen {
    /// The number of the write that made each, and its generation.
    present: BTreeMap<String, (u64, i64)>,
    /// The number of the write that made each when it was last seen.
    gone: BTreeMap<String, u64>,
    /// Names of a list that is coming in.
    listed: Option<BTreeSet<String>>,
    findings: Vec<Finding>,
    events: u64,
}

impl Seen {
    fn applied(&mut self, name: &str, number: u64, generation: i64, is_ending: bool) {
        self.events += 1;
        if let Some(listed) = &mut self.listed {
            listed.insert(name.to_owned());
        }
        // Clients never use a name again, so that nothing may be deleted and made again.
        if let Some(before) = self.gone.remove(name) {
            let wrong = if number <= before { Wrong::Stale } else { Wrong::Doubled };
            let text = format!("{name} came back with write {number} after write {before} was gone");
            self.findings.push(Finding::new(wrong, text));
        }
        match self.present.insert(name.to_owned(), (number, generation)) {
            Some((before, _)) if before > number => {
                let text = format!("write {number} of {name} was applied after write {before}");
                self.findings.push(Finding::new(Wrong::OutOfOrder, text));
            }
            // The end of an object raises its generation as well.
            Some((before, earlier)) if before == number && earlier < generation && !is_ending => {
                let text = format!("write {number} of {name} made generation {earlier} and {generation}");
                self.findings.push(Finding::new(Wrong::Doubled, text));
            }
            _ => {}
        }
    }

    fn deleted(&mut self, name: &str) {
        self.events += 1;
        if let Some((number, _)) = self.present.remove(name) {
            self.gone.insert(name.to_owned(), number);
        }
    }

    fn take(&mut self, event: Event<DynamicObject>) {
        match event {
            Event::Init => self.listed = Some(BTreeSet::new()),
            Event::Apply(object) | Event::InitApply(object) => {
                let number = oracle::number_of(&json!({ "spec": object.data["spec"] }));
                let metadata = &object.metadata;
                let name = metadata.name.clone().unwrap_or_default();
                let is_ending = metadata.deletion_timestamp.is_some();
                self.applied(&name, number, metadata.generation.unwrap_or_default(), is_ending);
            }
            Event::Delete(object) => self.deleted(&object.metadata.name.unwrap_or_default()),
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let absent: Vec<String> = self.present.keys().filter(|name| !listed.contains(*name)).cloned().collect();
                absent.iter().for_each(|name| self.deleted(name));
            }
        }
    }
}

/// A watch that runs until it is dropped.
pub struct Observer {
    client: Client,
    namespace: String,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Observer {
    /// Begins to watch.
    pub fn start(client: Client, namespace: &str) -> Self {
        let seen = Arc::default();
        let task = tokio::spawn(watch(client.clone(), namespace.to_owned(), Arc::clone(&seen)));
        Self { client, namespace: namespace.to_owned(), seen, task }
    }

    /// Stops watching: from now on the cluster may go back.
    pub fn suspend(&self) {
        self.task.abort();
    }

    /// Watches again, and forgets what a restore took back.
    pub fn resume(&mut self) {
        {
            let mut seen = self.seen();
            let findings = std::mem::take(&mut seen.findings);
            *seen = Seen { findings, events: seen.events, ..Seen::default() };
        }
        self.task = tokio::spawn(watch(self.client.clone(), self.namespace.clone(), Arc::clone(&self.seen)));
    }

    /// What was found since the last call.
    pub fn findings(&self) -> Vec<Finding> {
        std::mem::take(&mut self.seen().findings)
    }

    /// Changes that were seen: a watch that sees none finds nothing.
    pub fn changes(&self) -> u64 {
        self.seen().events
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(client: Client, namespace: String, seen: Arc<Mutex<Seen>>) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("core.oam.dev", "v1beta1", "Application"));
    let applications = Api::<DynamicObject>::namespaced_with(client, &namespace, &resource);
    let events = watcher::watcher(applications, watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        // An API server that is away is one of the faults.
        if let Ok(event) = event {
            seen.lock().unwrap_or_else(PoisonError::into_inner).take(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, number: u64, generation: i64) -> DynamicObject {
        serde_json::from_value(json!({
            "metadata": { "name": name, "generation": generation },
            "spec": { "components": [{ "properties": { "image": format!("shop/web:w{number}") } }] },
        }))
        .unwrap()
    }

    fn found(events: Vec<Event<DynamicObject>>) -> Vec<Wrong> {
        let mut seen = Seen::default();
        events.into_iter().for_each(|event| seen.take(event));
        seen.findings.iter().map(|finding| finding.wrong).collect()
    }

    #[test]
    fn writes_in_their_order_are_right_and_a_list_repeats_them() {
        let apply = |number, generation| Event::Apply(object("x", number, generation));
        let listed = [Event::Init, Event::InitApply(object("x", 2, 2)), Event::InitDone];
        let right = [apply(1, 1), apply(2, 2), apply(2, 2)].into_iter().chain(listed);
        assert_eq!(found(right.collect()), []);
    }

    #[test]
    fn what_goes_back_comes_twice_or_returns_is_found() {
        let apply = |number, generation| Event::Apply(object("x", number, generation));
        assert_eq!(found(vec![apply(2, 1), apply(1, 2)]), [Wrong::OutOfOrder]);
        assert_eq!(found(vec![apply(2, 1), apply(2, 2)]), [Wrong::Doubled]);
        assert_eq!(found(vec![apply(2, 1), Event::Delete(object("x", 2, 1)), apply(2, 1)]), [Wrong::Stale]);
        let unseen = vec![apply(2, 1), Event::Init, Event::InitDone, apply(2, 1)];
        assert_eq!(found(unseen), [Wrong::Stale], "deleted while the watch was away");
        let again = vec![apply(2, 1), Event::Delete(object("x", 2, 1)), apply(3, 1)];
        assert_eq!(found(again), [Wrong::Doubled], "deleted although it was only changed, and made again");
    }
}
