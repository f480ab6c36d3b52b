//! One request through the product, by a client that only knows REST and the cluster's API server.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kubenova_scenarios::rest::Rest;
use kubenova_scenarios::site::text;
use kubenova_scenarios::steps::COMMAND_MAX;
use serde_json::Value;

use crate::applications::{Seen, application};
use crate::raw_chain::Measured;
use crate::statistics::{Sample, row};

/// Pause between two looks over REST; it adds half of itself to t3.
const LOOK: Duration = Duration::from_millis(4);

/// How long one request took until each of its moments.
pub(crate) struct Timing {
    pub(crate) answered: Duration,
    pub(crate) seen: Duration,
    pub(crate) visible: Duration,
}

/// Writes an Application of tenant acme; the id of its command.
pub(crate) async fn put(rest: &Rest, name: &str, number: u64) -> Result<String> {
    let path = format!("/api/v1/tenants/acme/apps/{name}");
    let accepted = rest.put(&path, &application(name, number)).await?.expect(202)?;
    text(&accepted, "/commands/0/id")
}

/// Whether REST shows that the cluster has applied a command, or that another one took its place.
pub(crate) fn is_visible(command: &Value) -> Result<bool> {
    let hops = command["hops"].as_array().context("a command has hops")?;
    let is_applied = hops.iter().any(|hop| hop["name"] == "applied" || hop["name"] == "ready");
    Ok(is_applied || command["state"] == "superseded")
}

/// How long it took until a command was visible; waits for it.
pub(crate) async fn visible(rest: &Rest, command: &str, began: Instant) -> Result<Duration> {
    let path = format!("/api/v1/commands/{command}");
    loop {
        let body = rest.get(&path).await?.expect(200)?;
        if is_visible(&body)? {
            return Ok(began.elapsed());
        }
        ensure!(began.elapsed() < COMMAND_MAX, "a command was not applied: {body}");
        tokio::time::sleep(LOOK).await;
    }
}

/// A write, followed until it is seen in the cluster and over REST.
pub(crate) async fn request(rest: &Rest, seen: &Seen, name: &str, number: u64) -> Result<Timing> {
    let began = Instant::now();
    let command = put(rest, name, number).await?;
    let answered = began.elapsed();
    let visible = visible(rest, &command, began).await?;
    let seen = seen.wait(name, number).await?.saturating_duration_since(began);
    Ok(Timing { answered, seen, visible })
}

/// What many requests took.
#[derive(Debug, Default)]
pub(crate) struct Product {
    pub(crate) answered: Sample,
    pub(crate) seen: Sample,
    pub(crate) visible: Sample,
}

impl Product {
    pub(crate) fn note(&mut self, timing: &Timing) {
        self.answered.push(timing.answered);
        self.seen.push(timing.seen);
        self.visible.push(timing.visible);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.answered.extend(&other.answered);
        self.seen.extend(&other.seen);
        self.visible.extend(&other.visible);
    }

    pub(crate) fn print(&self, raw: &Measured) {
        println!("{}", row("t1-t0 answered", &self.answered, None));
        println!("{}", row("t2-t0 in the cluster", &self.seen, Some(&raw.seen)));
        println!("{}", row("t3-t0 visible over REST", &self.visible, Some(&raw.whole)));
    }
}
