//! Wakes the relay when a command was written. Only an optimization: the relay's poll finds every command.
//!
//! Before it: `store/outbox.rs` notifies in the writer's transaction. After it: `relay`.

use kubenova_runtime::{retry::Retry, shutdown::Shutdown};
use kubenova_store::{error::StoreError, pool::Store};
use std::sync::Arc;
use tokio::sync::Notify;

/// Listens until a stop is requested; a lost connection is made again.
pub async fn run(store: Store, wake: Arc<Notify>, shutdown: Shutdown) {
    Retry::new("listen for new commands").keep_running(&shutdown, || listen(&store, &wake)).await;
}

async fn listen(store: &Store, wake: &Notify) -> Result<(), StoreError> {
    let mut listener = store.listen().await?;
    // A command may have been written before this connection listened.
    wake.notify_one();
    loop {
        listener.notified().await?;
        wake.notify_one();
    }
}
