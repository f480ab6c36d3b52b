//! An independent reading of usage: pods' own creation times in the cluster, integrated over a ledger row's window.
//!
//! Equal to the unit in a window whose only steps are creations; elsewhere within the delay of the events.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::platform::Platform;
use crate::site::{Site, text};

/// A ledger row beside what kubectl says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// First millisecond of the window.
    pub start_ms: i64,
    /// First millisecond after it.
    pub end_ms: i64,
    /// Pods in count·ms, as the ledger has them.
    pub ledger: i128,
    /// Pods in count·ms, from the pods' own creation times.
    pub integral: i128,
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = (self.end_ms - self.start_ms) / 1000;
        write!(
            f,
            "window of {seconds} s: ledger {} pod·ms, integral over kubectl's creation times {} pod·ms, difference {} (0 unless pods were deleted)",
            self.ledger,
            self.integral,
            self.ledger - self.integral
        )
    }
}

/// The newest ledger row with pods of a tenant on a cluster, compared.
pub async fn compare(platform: &Platform, tenant_id: &str, site: &Site) -> Result<Comparison> {
    let body =
        platform.rest.get(&format!("/api/v1/usage?tenant={tenant_id}&cluster={}", site.id)).await?.expect(200)?;
    let rows = body["items"].as_array().context("rows")?;
    let newest = rows.iter().max_by_key(|row| row["windowStart"].as_str().unwrap_or_default().to_owned());
    row(site, newest.context("there is no usage yet")?)
}

/// One ledger row, compared.
pub fn row(site: &Site, row: &Value) -> Result<Comparison> {
    let time = |pointer| -> Result<i64> { Ok(text(row, pointer)?.parse::<jiff::Timestamp>()?.as_millisecond()) };
    let (start_ms, end_ms) = (time("/windowStart")?, time("/windowEnd")?);
    let ledger = text(row, "/podCountMs")?.parse()?;
    let namespace = format!("{}-apps", text(row, "/tenantName")?);
    let printed = site.cluster.kubectl_ok(&["get", "pods", "-n", &namespace, "-o", "json"])?;
    let list: Value = serde_json::from_str(&printed).context("kubectl prints JSON")?;
    let created: Vec<i64> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pod| Ok(text(pod, "/metadata/creationTimestamp")?.parse::<jiff::Timestamp>()?.as_millisecond()))
        .collect::<Result<_>>()?;
    Ok(Comparison { start_ms, end_ms, ledger, integral: since_creation(&created, start_ms, end_ms) })
}

/// Count·ms within a window of things that exist from their creation on.
fn since_creation(created_ms: &[i64], start_ms: i64, end_ms: i64) -> i128 {
    created_ms.iter().map(|at| i128::from((end_ms - (*at).max(start_ms)).max(0))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_within_the_window_counts() {
        assert_eq!(since_creation(&[0, 500, 2000, 1000], 500, 1500), 1000 + 1000 + 500);
    }
}
