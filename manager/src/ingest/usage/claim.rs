//! Counts usage that came before its tenant was known here: after a restore of the database, of tenants that `recover adopt`
//! brought back. The same path as a window that just came: ledger row and billing event in one transaction.

use super::insert_rows;
use crate::ingest::durable::Ingest;
use jiff::Timestamp;
use kubenova_runtime::{
    clock,
    periodic::{Next, Periodic},
    shutdown::Shutdown,
};
use kubenova_store::{
    connection::Connection,
    error::StoreError,
    ledger::WindowRows,
    unclaimed_usage::{self, Claimed},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;

/// Time between two looks: rows wait only after a restore.
const EVERY: Duration = Duration::from_secs(15);
/// Rows that are counted in one transaction.
const BATCH: i64 = 200;

/// Counts until a stop is requested. Several Managers at once do no harm: each row is taken by one.
pub async fn run(ingest: Ingest, billing: Arc<Notify>, shutdown: Shutdown) {
    Periodic::new("count unclaimed usage", EVERY)
        .run(&shutdown, || async {
            let count =
                ingest.store.transaction("count unclaimed usage", async |tx| count(tx, clock::now()).await).await?;
            if count == 0 {
                return Ok::<_, StoreError>(Next::Wait);
            }
            tracing::info!(records = count, "counted usage of tenants that were unknown when it came");
            billing.notify_one();
            Ok(Next::AtOnce)
        })
        .await;
}

/// Moves rows into the ledger; how many.
async fn count(tx: &mut Connection, now: Timestamp) -> Result<usize, StoreError> {
    let claimed = unclaimed_usage::claim(tx, BATCH).await?;
    for Claimed { cluster, window, revision, quality, coverage_ms, gaps, incarnation, row } in &claimed {
        let of = WindowRows {
            cluster,
            window: *window,
            revision: *revision,
            quality,
            coverage_ms: *coverage_ms,
            gaps,
            incarnation,
            received_at: now,
        };
        insert_rows(tx, &of, std::slice::from_ref(row)).await?;
    }
    Ok(claimed.len())
}
