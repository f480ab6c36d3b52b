//! Clients that go on writing while things break, and remember what they were promised.
//!
//! Each write carries a number of its own in the image's tag, so that whatever is found in a cluster tells which write made it.
//! What was accepted is kept here; nothing is read from the product's own counters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::rest::Rest;
use crate::seed::SplitMix64;
use crate::site::text;

/// A write is repeated so long while the Manager or its database is away.
const WRITE_MAX: Duration = Duration::from_secs(120);
/// Pause between two writes of a client: what breaks is looked at, not how much a debug build on a busy machine can carry.
const PACE: Duration = Duration::from_millis(400);
/// Applications that a client keeps on each cluster.
const APPLICATIONS: u64 = 3;

/// A write that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the application.
    pub application: String,
    /// The number in the image's tag; none for a delete.
    pub number: Option<u64>,
    /// Id of its command; none for a delete of what was never sent to its cluster.
    pub command: Option<String>,
    /// A restore of the database may have taken it back: whether it is carried out depends on what its cluster holds of it.
    pub may_be_lost: bool,
}

/// What a restore of the database takes back: all that is accepted from the beginning of its backup until it is restored.
#[derive(Debug, Clone, Default)]
pub struct LossWindow(Arc<AtomicU64>);

impl LossWindow {
    /// The backup begins.
    pub fn begin(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// The backup is restored.
    pub fn end(&self) {
        self.begin();
    }

    /// How often it began and ended: odd in between.
    fn turns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Whether what was asked for at that time, and answered now, may be lost.
    fn touches(&self, since: u64) -> bool {
        let now = self.turns();
        now != since || !now.is_multiple_of(2)
    }
}

/// A client that writes applications of one tenant on its own clusters, one write after the other.
#[derive(Debug)]
pub struct Writer {
    rest: Rest,
    tenant: String,
    clusters: Vec<String>,
    random: SplitMix64,
    /// Its writes are numbered from here.
    number: u64,
    live: BTreeSet<(String, String)>,
    /// Clusters that it has written to, of the first ones: each gets a write before chance decides.
    visited: usize,
    window: LossWindow,
    /// Applications with a write that may be lost: the database may know nothing of them, or of how they ended.
    doubtful: BTreeSet<(String, String)>,
}

impl Writer {
    /// A client whose numbers begin at `index` million.
    pub fn new(rest: &Rest, tenant: &str, clusters: Vec<String>, seed: u64, index: u64) -> Self {
        Self {
            rest: rest.clone(),
            tenant: tenant.to_owned(),
            clusters,
            random: SplitMix64::new(seed ^ index.wrapping_mul(0x9e37)),
            number: index * 1_000_000,
            live: BTreeSet::new(),
            visited: 0,
            window: LossWindow::default(),
            doubtful: BTreeSet::new(),
        }
    }

    /// The same client, which knows when the database is going to be restored.
    #[must_use]
    pub fn with_window(self, window: &LossWindow) -> Self {
        Self { window: window.clone(), ..self }
    }

    /// Writes until `stop` says so and each of its clusters has a write; returns what was accepted, in order.
    ///
    /// # Errors
    /// When a write is refused, or gets no answer for two minutes.
    pub async fn run(mut self, stop: watch::Receiver<bool>) -> Result<Vec<Accepted>> {
        let mut accepted = self.write_until(stop).await?;
        while self.visited < self.clusters.len() {
            accepted.extend(self.write().await?);
        }
        Ok(accepted)
    }

    /// Writes until `stop` says so, as a client that goes on later; returns what was accepted, in order.
    ///
    /// # Errors
    /// As there.
    pub async fn write_until(&mut self, stop: watch::Receiver<bool>) -> Result<Vec<Accepted>> {
        let mut accepted = Vec::new();
        while !*stop.borrow() {
            accepted.extend(self.write().await?);
            tokio::time::sleep(PACE).await;
        }
        Ok(accepted)
    }

    fn next_cluster(&mut self) -> String {
        let drawn = usize::try_from(self.random.next()).unwrap_or_default() % self.clusters.len();
        let index = if self.visited < self.clusters.len() { self.visited } else { drawn };
        self.visited += 1;
        self.clusters[index].clone()
    }

    /// One write; none when it is about what a restored database has forgotten.
    async fn write(&mut self) -> Result<Option<Accepted>> {
        self.number += 1;
        let cluster = self.next_cluster();
        let slot = self.random.next() % APPLICATIONS;
        let present = self.live.iter().find(|(on, name)| *on == cluster && name.starts_with(&format!("s{slot}-")));
        let deletes = self.random.next().is_multiple_of(4);
        let path = format!("/api/v1/tenants/{}/apps", self.tenant);
        let (method, path, name, number) = match present.cloned() {
            None => (Method::POST, path, format!("s{slot}-{}", self.number), Some(self.number)),
            Some((_, name)) if deletes => (Method::DELETE, format!("{path}/{name}"), name, None),
            Some((_, name)) => (Method::PUT, format!("{path}/{name}"), name, Some(self.number)),
        };
        let body =
            json!({ "name": name, "image": image(self.number), "cpu": "1m", "memory": "1Mi", "clusters": [cluster] });
        let body = if method == Method::DELETE { Value::Null } else { body };
        let asked = self.window.turns();
        let answer = self.rest.write_until_answered(method, &path, &body, WRITE_MAX).await?;
        let may_be_lost = self.window.touches(asked);
        let key = (cluster.clone(), name.clone());
        if may_be_lost {
            self.doubtful.insert(key.clone());
        }
        if matches!(answer.status, 404 | 409) && self.doubtful.contains(&key) {
            self.live.remove(&key);
            // It may have been carried out before its answer was lost with the database.
            let in_doubt = Accepted { cluster, application: name, number, command: None, may_be_lost };
            return Ok(may_be_lost.then_some(in_doubt));
        }
        let answer = answer.accepted()?;
        if number.is_some() {
            self.live.insert(key)
        } else {
            self.live.remove(&key)
        };
        let command = match number {
            None if answer["state"] == "deleted" => None,
            _ => Some(text(&answer, "/commands/0/id")?),
        };
        Ok(Some(Accepted { cluster, application: name, number, command, may_be_lost }))
    }
}

const IMAGE: &str = "shop/web:w";

/// The image of a write.
pub fn image(number: u64) -> String {
    format!("{IMAGE}{number}")
}

/// The number of the write that a text names an image of.
pub fn number_in(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once(IMAGE)?;
    rest.split(|it: char| !it.is_ascii_digit()).next()?.parse().ok()
}

/// What an application may be: the number of the write that made it, none when it is not there.
pub type Allowed = BTreeSet<Option<u64>>;

/// What each application may be in the end, by cluster and name: what its last write made of it. When that may be lost, also what
/// any write since the last certain one made of it.
pub fn allowed(accepted: &[Accepted]) -> BTreeMap<(String, String), Allowed> {
    let mut all: BTreeMap<_, Allowed> = BTreeMap::new();
    for write in accepted {
        let key = (write.cluster.clone(), write.application.clone());
        let states = all.entry(key).or_insert_with(|| Allowed::from([None]));
        if !write.may_be_lost {
            states.clear();
        }
        states.insert(write.number);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_found_again_by_its_image() {
        assert_eq!(number_in(&format!("{{\"image\":\"{}\"}}", image(1_000_042))), Some(1_000_042));
        assert_eq!(number_in("{\"image\":\"shop/web:1\"}"), None);
    }

    #[test]
    fn what_is_answered_between_the_beginning_of_a_backup_and_its_restore_may_be_lost() {
        let window = LossWindow::default();
        let before = window.turns();
        assert!(!window.touches(before));
        window.begin();
        assert!(window.touches(before), "asked before and answered within");
        assert!(window.touches(window.turns()));
        let within = window.turns();
        window.end();
        assert!(window.touches(within) && window.touches(before));
        assert!(!window.touches(window.turns()));
    }

    #[test]
    fn only_a_certain_write_ends_the_doubt_about_earlier_ones() {
        let write = |number, may_be_lost| Accepted {
            cluster: "a".into(),
            application: "x".into(),
            number,
            command: None,
            may_be_lost,
        };
        let of = |writes: &[Accepted]| allowed(writes).into_values().next().unwrap();
        let doubt = [write(Some(1), false), write(Some(2), true), write(None, true)];
        assert_eq!(of(&doubt), Allowed::from([None, Some(1), Some(2)]));
        assert_eq!(of(&[write(Some(1), true)]), Allowed::from([None, Some(1)]));
        let certain = [&doubt[..], &[write(Some(4), false)]].concat();
        assert_eq!(of(&certain), Allowed::from([Some(4)]));
    }
}
