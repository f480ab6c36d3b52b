//! An independent reading of usage: the API server's own audit log, integrated over a ledger row's window.
//!
//! A pod counts from its `creationTimestamp` to the answer that removed it. The Operator dates a creation the same way
//! and a removal when its watch reports it; so a window that holds only creations is equal to the unit, and elsewhere the
//! difference is at most the sum of those delays, measured from the steps that the Operator recorded.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::platform::Platform;
use crate::site::{Site, text};

/// A pod from its creation to its removal, in Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// From then on it counts.
    pub created_ms: i64,
    /// From then on it does not.
    pub removed_ms: Option<i64>,
}

/// A ledger row beside what the audit log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// First millisecond of the window.
    pub start_ms: i64,
    /// First millisecond after it.
    pub end_ms: i64,
    /// Pods in count·ms, as the ledger has them.
    pub ledger: i128,
    /// Pods in count·ms, by the audit log.
    pub integral: i128,
    /// Removals within the window.
    pub removals: usize,
    /// How far apart the two may be: the summed delays of the window's removals.
    pub bound_ms: i128,
}

impl Comparison {
    /// Whether ledger and integral are as close as they must be.
    pub fn holds(&self) -> bool {
        (self.ledger - self.integral).abs() <= self.bound_ms
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = jiff::Timestamp::from_millisecond(self.start_ms).map_err(|_| std::fmt::Error)?;
        let seconds = (self.end_ms - self.start_ms) / 1000;
        write!(
            f,
            "window {start} + {seconds} s: ledger {} pod·ms, audit log {} pod·ms, difference {}, at most {} (delays of {} removals)",
            self.ledger,
            self.integral,
            self.ledger - self.integral,
            self.bound_ms,
            self.removals
        )
    }
}

/// The newest ledger row of a tenant on a cluster, compared.
pub async fn compare_newest(platform: &Platform, tenant_id: &str, site: &Site) -> Result<Comparison> {
    let mut all = compare_all(platform, tenant_id, site).await?;
    all.pop().context("there is no usage yet: a window is sealed every few seconds, once the cluster has the tenant")
}

/// Every ledger row of a tenant on a cluster, oldest first, compared.
pub async fn compare_all(platform: &Platform, tenant_id: &str, site: &Site) -> Result<Vec<Comparison>> {
    let mut rows = Vec::new();
    let mut path = format!("/api/v1/usage?tenant={tenant_id}&cluster={}", site.id);
    loop {
        let body = platform.rest.get(&path).await?.expect(200)?;
        rows.extend(body["items"].as_array().context("rows")?.iter().cloned());
        let Some(cursor) = body["nextCursor"].as_str() else { break };
        path = format!("/api/v1/usage?tenant={tenant_id}&cluster={}&cursor={cursor}", site.id);
    }
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let lives = lives(site, &format!("{}-apps", text(first, "/tenantName")?))?;
    let delays = delays(site, tenant_id, &lives)?;
    let mut compared = rows.iter().map(|row| compare(row, &lives, &delays)).collect::<Result<Vec<_>>>()?;
    compared.sort_by_key(|it| it.start_ms);
    Ok(compared)
}

fn compare(row: &Value, lives: &[Life], delays: &[Delay]) -> Result<Comparison> {
    let time = |pointer| -> Result<i64> { milliseconds(&text(row, pointer)?) };
    let (start_ms, end_ms) = (time("/windowStart")?, time("/windowEnd")?);
    let touching = || delays.iter().filter(|it| it.from_ms < end_ms && it.to_ms >= start_ms);
    Ok(Comparison {
        start_ms,
        end_ms,
        ledger: text(row, "/podCountMs")?.parse()?,
        integral: held(lives, start_ms, end_ms),
        removals: touching().count(),
        bound_ms: touching().map(|it| i128::from(it.to_ms - it.from_ms)).sum(),
    })
}

/// Every pod that the audit log saw created in a namespace. Removal of a whole namespace is not read.
pub fn lives(site: &Site, namespace: &str) -> Result<Vec<Life>> {
    let mut lives = std::collections::BTreeMap::new();
    for event in site.cluster.audit()? {
        let about_pods = event.object_ref.as_ref().is_some_and(|it| it.resource == "pods" && it.subresource.is_empty());
        let Some(pod) = event.response_object.as_ref().filter(|_| about_pods && event.code() < 300) else { continue };
        if pod.pointer("/metadata/namespace").and_then(Value::as_str) != Some(namespace) {
            continue;
        }
        let uid = text(pod, "/metadata/uid")?;
        if event.verb == "create" {
            let created_ms = milliseconds(&text(pod, "/metadata/creationTimestamp")?)?;
            lives.insert(uid, Life { created_ms, removed_ms: None });
        } else if pod.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) == 0 {
            // The answer that removed it; one with a grace period only announces that.
            let life = lives.get_mut(&uid).context("a pod was removed that was never created")?;
            life.removed_ms = life.removed_ms.or(Some(event.answered_at.as_millisecond()));
        }
    }
    Ok(lives.into_values().collect())
}

/// From a removal in the audit log to the Operator's step, or the other way round.
#[derive(Debug, Clone, Copy)]
struct Delay {
    from_ms: i64,
    to_ms: i64,
}

/// The delay of every removal: both sides in order of time.
fn delays(site: &Site, tenant_id: &str, lives: &[Life]) -> Result<Vec<Delay>> {
    let mut removed: Vec<i64> = lives.iter().filter_map(|life| life.removed_ms).collect();
    removed.sort_unstable();
    let mut observed = Vec::new();
    for line in site.steps()?.lines() {
        let step: Value = serde_json::from_str(line).context("a step is JSON")?;
        if step["meter"] == "podCountMs" && step["tenant"] == tenant_id && text(&step, "/delta")?.starts_with('-') {
            observed.push(step["at_ms"].as_i64().context("a step has a time")?);
        }
    }
    observed.sort_unstable();
    ensure!(removed.len() == observed.len(), "{} removals in the audit log, {} steps", removed.len(), observed.len());
    Ok(removed.into_iter().zip(observed).map(|(a, b)| Delay { from_ms: a.min(b), to_ms: a.max(b) }).collect())
}

/// Count·ms within a window.
fn held(lives: &[Life], start_ms: i64, end_ms: i64) -> i128 {
    let within = |life: &Life| life.removed_ms.unwrap_or(end_ms).min(end_ms) - life.created_ms.max(start_ms);
    lives.iter().map(|life| i128::from(within(life).max(0))).sum()
}

fn milliseconds(time: &str) -> Result<i64> {
    Ok(time.parse::<jiff::Timestamp>()?.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_within_the_window_counts() {
        let life = |created_ms, removed_ms| Life { created_ms, removed_ms };
        let lives = [life(0, None), life(700, None), life(2000, None), life(0, Some(600)), life(0, Some(400))];
        assert_eq!(held(&lives, 500, 1500), 1000 + 800 + 100);
    }

    #[test]
    fn as_close_as_the_delays_and_no_farther() {
        let lives = [Life { created_ms: 0, removed_ms: Some(600) }];
        let row = |ledger: &str| serde_json::json!({ "windowStart": "1970-01-01T00:00:00Z", "windowEnd": "1970-01-01T00:00:01Z", "podCountMs": ledger });
        let delays = [Delay { from_ms: 600, to_ms: 620 }];
        assert!(compare(&row("620"), &lives, &delays).unwrap().holds());
        assert!(!compare(&row("621"), &lives, &delays).unwrap().holds());
        assert!(!compare(&row("601"), &lives, &[]).unwrap().holds(), "without removals to the unit");
    }
}
