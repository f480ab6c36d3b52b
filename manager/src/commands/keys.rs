//! Opens the keys in the database; most commands begin with it.

use crate::settings::Settings;
use anyhow::{Context as _, Result};
use kubenova_store::{keys, keys::KeyRow, pool::Store};
use kubenova_trust::{
    envelope::{Envelope, Sealed},
    keyring::{Keyring, StoredKey},
};

/// Reads and opens every key.
///
/// # Errors
/// When the database does not answer, a key is missing, or `kekFile` holds another key-encryption key.
pub(crate) async fn open(settings: &Settings, store: &Store) -> Result<Keyring> {
    let envelope = Envelope::from_file(&settings.kek_file)?;
    let mut connection = store.acquire().await?;
    let rows = keys::all(&mut connection).await.context("could not read the keys: run kubenova-manager init first")?;
    let stored: Vec<StoredKey> = rows.into_iter().map(to_stored).collect();
    Ok(Keyring::open(&stored, &envelope, &settings.trust_domain)?)
}

fn to_stored(row: KeyRow) -> StoredKey {
    StoredKey { name: row.name, public: row.public, sealed: Sealed { key_id: row.kek_id, bytes: row.sealed } }
}

/// As the store has it.
pub(crate) fn to_row(key: StoredKey) -> KeyRow {
    KeyRow { name: key.name, public: key.public, kek_id: key.sealed.key_id, sealed: key.sealed.bytes }
}
