//! Keys that `kubenova-manager keys` has changed are put into use by every Manager that runs, within seconds and without a restart.
//!
//! A Manager that cannot open them, because they are sealed with another key-encryption key than the one that it was started with, is not
//! ready: it goes on with the former ones, which count for as long as the rotation is not finished, and asks no cluster to renew.
//!
//! Before it: `commands/keys.rs`. After it: whoever signs or issues asks for the keys each time.

use crate::commands::keys;
use anyhow::Result;
use kubenova_runtime::{
    periodic::{Next, Periodic},
    probe::Gates,
    shutdown::Shutdown,
};
use kubenova_store::{connection::Connection, error::StoreError, keys as stored, pool::Store};
use kubenova_trust::{current::KeyringSender, envelope::Envelope, keyring};
use std::time::Duration;

/// Time between two looks: one small read each.
const EVERY: Duration = Duration::from_secs(3);
/// Waits after a look that failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// The gate that is closed while the keys in the database cannot be opened.
const KEYS: &str = "keys";

/// What a look needs.
#[derive(Debug)]
pub struct KeyWatch {
    /// Postgres.
    pub store: Store,
    /// The key-encryption key, as it was when the process started.
    pub envelope: Envelope,
    /// Host part of every SPIFFE id.
    pub trust_domain: String,
    /// Puts keys into use.
    pub keyring: KeyringSender,
    /// Shown by `/readyz`.
    pub gates: Gates,
}

/// Looks until a stop is requested.
pub async fn run(watch: KeyWatch, shutdown: Shutdown) {
    Periodic::new("read keys that have changed", EVERY).backoff(RETRY.0, RETRY.1).run(&shutdown, || watch.look()).await;
}

/// Fingerprint of the keys in the database, as [`Keyring::fingerprint`](kubenova_trust::keyring::Keyring) has that of those in use.
pub(crate) async fn stored_fingerprint(connection: &mut Connection) -> Result<String, StoreError> {
    let public = stored::public(connection).await?;
    Ok(keyring::fingerprint(public.iter().map(|(name, public)| (name.as_str(), public.as_str()))))
}

impl KeyWatch {
    async fn look(&self) -> Result<Next> {
        if stored_fingerprint(&mut *self.store.acquire().await?).await? == self.keyring.get().fingerprint {
            self.settled();
            return Ok(Next::Wait);
        }
        match keys::open_with(&self.envelope, &self.store, &self.trust_domain).await {
            Ok(changed) => {
                tracing::info!(key_set_id = changed.key_set_id, "other keys are in use: they were rotated or retired");
                self.keyring.replace(changed);
                self.settled();
                Ok(Next::Wait)
            }
            Err(error) => {
                self.keyring.set_outdated(true);
                let message = format!(
                    "the keys in the database were changed and cannot be opened, so those of before are used: {error:#}; restart this \
                     Manager with the kekFile of now"
                );
                self.gates.set(KEYS, Some(message));
                Err(error)
            }
        }
    }

    fn settled(&self) {
        self.keyring.set_outdated(false);
        self.gates.set(KEYS, None);
    }
}
