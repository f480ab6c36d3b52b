//! Keys that `kubenova-manager keys` has changed are put into use by every Manager that runs, within seconds and without a restart.
//!
//! Before it: `commands/keys.rs`. After it: whoever signs or issues asks for the keys each time.

use crate::{commands::keys, settings::Settings};
use anyhow::Result;
use kubenova_runtime::{
    periodic::{Next, Periodic},
    shutdown::Shutdown,
};
use kubenova_store::{keys as stored, pool::Store};
use kubenova_trust::{current::KeyringSender, keyring};
use std::time::Duration;

/// Time between two looks: one small read each.
const EVERY: Duration = Duration::from_secs(3);
/// Waits after a look that failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Looks until a stop is requested. Keys that cannot be opened leave those in use.
pub async fn run(settings: Settings, store: Store, keyring: KeyringSender, shutdown: Shutdown) {
    Periodic::new("read keys that have changed", EVERY)
        .backoff(RETRY.0, RETRY.1)
        .run(&shutdown, || look(&settings, &store, &keyring))
        .await;
}

async fn look(settings: &Settings, store: &Store, keyring: &KeyringSender) -> Result<Next> {
    let public = stored::public(&mut *store.acquire().await?).await?;
    let fingerprint = keyring::fingerprint(public.iter().map(|(name, public)| (name.as_str(), public.as_str())));
    if fingerprint != keyring.get().fingerprint {
        let changed = keys::open(settings, store).await?;
        tracing::info!(key_set_id = changed.key_set_id, "other keys are in use: they were rotated or retired");
        keyring.replace(changed);
    }
    Ok(Next::Wait)
}
