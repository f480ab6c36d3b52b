//! Commands that are not sent: their rows say so, beside the sending and not on its way. A claim passes over them by itself.

use kubenova_runtime::{clock, periodic::Next};
use kubenova_store::{deletion_confirmations, error::StoreError, operations, pool::Store};

/// Ends operations whose deadline has passed, and marks deletes of tenants that wait for a person.
pub(super) async fn settle(store: &Store) -> Result<Next, StoreError> {
    let mut connection = store.acquire().await?;
    let now = clock::now();
    let expired = operations::expire(&mut connection, now).await?;
    if expired > 0 {
        tracing::info!(count = expired, "operations expired before they could be sent");
    }
    let waiting = deletion_confirmations::mark_waiting(&mut connection, now).await?;
    if waiting > 0 {
        tracing::warn!(
            count = waiting,
            "deletes of tenants wait for a person's confirmation, or until ten minutes are over; the commands of kind delete-tenant \
             that GET /api/v1/commands?state=queued shows say on which cluster"
        );
    }
    Ok(Next::Wait)
}
