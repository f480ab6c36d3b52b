//! Clients that go on writing while things break, and remember what they were promised.
//!
//! Each write carries a number of its own in the image's tag, so that whatever is found in a cluster tells which write made it.
//! What was accepted is kept here; nothing is read from the product's own counters.

use std::collections::{BTreeMap, BTreeSet};
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
        }
    }

    /// Writes until `stop` says so; returns what was accepted, in order.
    ///
    /// # Errors
    /// When a write is refused, or gets no answer for two minutes.
    pub async fn run(mut self, stop: watch::Receiver<bool>) -> Result<Vec<Accepted>> {
        self.write_until(stop).await
    }

    /// [`Writer::run`] of a client that goes on later.
    ///
    /// # Errors
    /// As there.
    pub async fn write_until(&mut self, stop: watch::Receiver<bool>) -> Result<Vec<Accepted>> {
        let mut accepted = Vec::new();
        while !*stop.borrow() {
            accepted.push(self.write().await?);
            tokio::time::sleep(PACE).await;
        }
        Ok(accepted)
    }

    async fn write(&mut self) -> Result<Accepted> {
        self.number += 1;
        let index = usize::try_from(self.random.next()).unwrap_or_default() % self.clusters.len();
        let cluster = self.clusters[index].clone();
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
        let answer = self.rest.write_through(method, &path, &body, WRITE_MAX).await?;
        let key = (cluster.clone(), name.clone());
        if number.is_some() {
            self.live.insert(key)
        } else {
            self.live.remove(&key)
        };
        let command = match number {
            None if answer["state"] == "deleted" => None,
            _ => Some(text(&answer, "/commands/0/id")?),
        };
        Ok(Accepted { cluster, application: name, number, command })
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

/// What each application must be in the end: the number of its last write; none when it was deleted.
pub fn wanted(accepted: &[Accepted]) -> BTreeMap<(String, String), Option<u64>> {
    accepted.iter().map(|it| ((it.cluster.clone(), it.application.clone()), it.number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_found_again_by_its_image() {
        assert_eq!(number_in(&format!("{{\"image\":\"{}\"}}", image(1_000_042))), Some(1_000_042));
        assert_eq!(number_in("{\"image\":\"shop/web:1\"}"), None);
    }
}
