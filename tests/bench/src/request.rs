//! One request through the product, by a client that only knows REST and the cluster's API server.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use kubenova_runtime::clock;
use kubenova_scenarios::rest::Rest;
use kubenova_scenarios::site::text;
use kubenova_scenarios::steps::COMMAND_MAX;
use serde_json::Value;

use crate::applications::{Seen, application};
use crate::raw_chain::Measured;
use crate::statistics::{Sample, milliseconds, row};

/// Pause between two looks over REST; it adds half of itself to t3.
const LOOK: Duration = Duration::from_millis(4);

/// Hops of a command whose times are of this machine's clock, as everything here runs on one machine: what the Manager recorded, and
/// what the cluster reported.
pub(crate) const HOPS: [&str; 5] = ["queued", "sent", "stored", "applied", "acknowledged"];

/// How long one request took until each of its moments.
pub(crate) struct Timing {
    answered: Duration,
    seen: Duration,
    visible: Duration,
    /// Until each of [`HOPS`], to the millisecond; none of a hop that the command had not passed when it was visible.
    hops: [Option<Duration>; HOPS.len()],
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

/// How long it took until a command was visible, and how it was then; waits for it.
pub(crate) async fn visible(rest: &Rest, command: &str, began: Instant) -> Result<(Duration, Value)> {
    let path = format!("/api/v1/commands/{command}");
    loop {
        let body = rest.get(&path).await?.expect(200)?;
        if is_visible(&body)? {
            return Ok((began.elapsed(), body));
        }
        ensure!(began.elapsed() < COMMAND_MAX, "a command was not applied: {body}");
        tokio::time::sleep(LOOK).await;
    }
}

/// A write, followed until it is seen in the cluster, and then until it is seen over REST: looking there before would take processor
/// time from what is measured, and the raw chain has nothing like it.
pub(crate) async fn request(rest: &Rest, seen: &Seen, name: &str, number: u64) -> Result<Timing> {
    let (began, at) = (Instant::now(), clock::now());
    let command = put(rest, name, number).await?;
    let answered = began.elapsed();
    let seen = seen.wait(name, number).await?.saturating_duration_since(began);
    let (visible, command) = visible(rest, &command, began).await?;
    Ok(Timing { answered, seen, visible, hops: HOPS.map(|hop| until(&command, hop, at)) })
}

/// Time from a moment until a command passed a hop.
fn until(command: &Value, hop: &str, from: Timestamp) -> Option<Duration> {
    let passed = command["hops"].as_array()?.iter().find(|passed| passed["name"] == hop)?;
    let at: Timestamp = passed["at"].as_str()?.parse().ok()?;
    Some(Duration::try_from(at.duration_since(from)).unwrap_or_default())
}

/// What many requests took.
#[derive(Debug, Default)]
pub(crate) struct Product {
    pub(crate) answered: Sample,
    pub(crate) seen: Sample,
    pub(crate) visible: Sample,
    hops: [Sample; HOPS.len()],
}

impl Product {
    pub(crate) fn note(&mut self, timing: &Timing) {
        self.answered.push(timing.answered);
        self.seen.push(timing.seen);
        self.visible.push(timing.visible);
        for (sample, hop) in self.hops.iter_mut().zip(timing.hops) {
            hop.into_iter().for_each(|took| sample.push(took));
        }
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
    /// Where the time goes: from the request until each hop, in the order in which a command passes them.
    pub(crate) fn print_hops(&self) {
        println!("\n| time from the request until | n | p50 ms | p99 ms |\n| --- | --- | --- | --- |");
        let moments = [("answered over REST", &self.answered), ("seen in the cluster", &self.seen)];
        let mut moments: Vec<_> = HOPS.into_iter().zip(&self.hops).chain(moments).collect();
        moments.sort_by_key(|(_, sample)| sample.percentile(50));
        for (name, sample) in moments {
            println!(
                "| {name} | {} | {:.1} | {:.1} |",
                sample.len(),
                milliseconds(sample, 50),
                milliseconds(sample, 99)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_time_until_a_hop_is_none_while_it_is_not_passed_and_never_negative() {
        let command = json!({ "hops": [{ "name": "stored", "at": "2026-01-01T00:00:01.250Z" }] });
        let until = |hop, from: &str| until(&command, hop, from.parse().unwrap());
        assert_eq!(until("stored", "2026-01-01T00:00:01Z"), Some(Duration::from_millis(250)));
        assert_eq!(until("stored", "2026-01-01T00:00:02Z"), Some(Duration::ZERO));
        assert_eq!(until("applied", "2026-01-01T00:00:01Z"), None);
    }
}
