//! Has the relay look at a cluster when a command for it was written. Only an optimization: the relay's poll finds every command.
//!
//! Before it: `store/outbox_notification.rs` notifies in the writer's transaction. After it: `relay`.

use crate::relay::Signals;
use kubenova_runtime::{retry::Retry, shutdown::Shutdown};
use kubenova_store::{error::StoreError, outbox_notification::Notification, pool::Store};
use std::sync::Arc;

/// Listens until a stop is requested; a lost connection is made again.
pub async fn run(store: Store, signals: Arc<Signals>, shutdown: Shutdown) {
    Retry::new("listen for new commands").keep_running(&shutdown, || listen(&store, &signals)).await;
}

async fn listen(store: &Store, signals: &Signals) -> Result<(), StoreError> {
    let mut listener = store.listen().await?;
    // A command may have been written before this connection listened.
    signals.any();
    loop {
        match listener.notified().await? {
            Notification::Clusters(clusters) => clusters.iter().for_each(|cluster| signals.cluster(cluster)),
            Notification::Any => signals.any(),
        }
    }
}
