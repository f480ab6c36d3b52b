//! Rings when a command was written, so that the relay looks at once. Only a convenience: the relay's poll is the truth.
//!
//! Before it: `store/outbox.rs` notifies in the writer's transaction. After it: `relay`.

use kubenova_runtime::{backoff, shutdown::Shutdown};
use kubenova_store::{error::StoreError, pool::Store};
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;

/// Listens until a stop is asked for; a lost connection is made again.
pub async fn run(store: Store, wake: Arc<Notify>, shutdown: Shutdown) {
    let mut waits = backoff::forever();
    while !shutdown.is_requested() {
        tokio::select! {
            () = shutdown.requested() => return,
            ended = listen(&store, &wake) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "not listening for new commands; the relay polls");
                }
            }
        }
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(15))) => {}
        }
    }
}

async fn listen(store: &Store, wake: &Notify) -> Result<(), StoreError> {
    let mut listener = store.listen().await?;
    // Commands may have been written before this connection listened.
    wake.notify_one();
    loop {
        listener.notified().await?;
        wake.notify_one();
    }
}
