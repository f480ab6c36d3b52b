//! Usage through all faults: every window that the real cluster sealed is in the ledger, none twice, and each row is one event.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::platform::Platform;
use kubenova_scenarios::site::{NAMESPACE, Site};
use kubenova_scenarios::steps::{self, COMMAND_MAX};

/// What was counted.
#[derive(Debug)]
pub(crate) struct Usage {
    /// Windows that the cluster sealed and still holds.
    pub(crate) sealed: usize,
    /// Windows that the Manager has received.
    pub(crate) received: usize,
    /// Rows of the ledger.
    pub(crate) rows: u64,
    /// Windows of a tenant that are billed twice.
    pub(crate) twice: u64,
}

/// Waits until the Manager has every window that the cluster sealed, and every row is published.
pub(crate) async fn check(platform: &Platform, site: &Site) -> Result<Usage> {
    let sealed = sealed(site)?;
    let received = poll::until("every sealed window to be in the ledger", COMMAND_MAX, || async {
        let received = received(platform)?;
        let missing: Vec<String> = sealed.difference(&received).cloned().collect();
        Ok(Step::when(missing.is_empty(), received.len(), format!("missing {missing:?}")))
    })
    .await?;
    steps::wait_billed(platform).await?;
    let count =
        |sql: &str| -> Result<u64> { platform.postgres.query("kubenova", sql)?.trim().parse().context("a count") };
    let rows = count("select count(*) from ledger")?;
    let twice = count(
        "select count(*) from (select 1 from ledger group by cluster_id, tenant_id, window_start having count(*) > 1) as twice",
    )?;
    Ok(Usage { sealed: sealed.len(), received, rows, twice })
}

/// Windows as they are named in the cluster.
fn sealed(site: &Site) -> Result<BTreeSet<String>> {
    let path = r#"jsonpath={range .items[?(@.status.manifest)]}{.metadata.name}{"\n"}{end}"#;
    let printed = site.cluster.kubectl_ok(&["get", "novausagereports", "-n", NAMESPACE, "-o", path])?;
    Ok(printed.lines().map(str::to_owned).collect())
}

fn received(platform: &Platform) -> Result<BTreeSet<String>> {
    let sql = "select 'w' || extract(epoch from window_start)::bigint || '-' || seconds from usage_windows";
    Ok(platform.postgres.query("kubenova", sql)?.lines().map(str::to_owned).collect())
}
