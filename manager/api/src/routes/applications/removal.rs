//! Removing an application from clusters: at once where nothing of it was ever sent, else by a delete command that the
//! application waits for.

use crate::error::ApiError;
use jiff::Timestamp;
use kubenova_core::{
    application::{Application, Removal},
    change::Change,
    cluster::ClusterId,
    tenant::Tenant,
};
use kubenova_store::{application_removal, outbox::EnqueuedCommand, wire, write_tx::WriteTx};

/// Removes an application from some of its clusters. The caller holds it by `applications::find_for_update`.
pub(crate) async fn remove_from(
    tx: &mut WriteTx,
    tenant: &Tenant,
    application: &Application,
    clusters: &[ClusterId],
    now: Timestamp,
) -> Result<Vec<EnqueuedCommand>, ApiError> {
    let key = wire::application_key(application).to_string();
    let histories = application_removal::histories(tx.connection(), application.id, &key, clusters).await?;
    let decided = |wanted: Removal| -> Vec<ClusterId> {
        histories
            .iter()
            .filter(|history| Removal::decide(history.ever_sent, history.delete_state) == wanted)
            .map(|history| history.cluster_id.clone())
            .collect()
    };
    let forgotten = decided(Removal::Forget);
    application_removal::cancel_queued(tx.connection(), &key, &forgotten, now).await?;
    application_removal::unplace(tx.connection(), application.id, &forgotten).await?;
    let change = Change::ApplicationDeleted { tenant: tenant.name.clone(), application: application.clone() };
    let enqueued = tx.enqueue_commands(&decided(Removal::Command), &change).await?;
    application_removal::await_removal(tx.connection(), application.id, &enqueued).await?;
    Ok(enqueued)
}
