//! `keys`: the keys of this installation, their rotation, and another key-encryption key for them. Most other commands begin by opening
//! them.

mod rotation;

use super::{say, write_secret};
use crate::settings::Settings;
use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use data_encoding::BASE64;
use kubenova_runtime::random;
use kubenova_store::{connection::Connection, keys, keys::KeyRow, pool::Store};
use kubenova_trust::{
    envelope::{Envelope, Sealed},
    keyring::{self, Keyring, StoredKey},
};
use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
};

/// Commands about keys.
#[derive(Debug, Subcommand)]
pub enum KeysVerb {
    /// List the keys: name, key-encryption key, public half. Shows no secret.
    List,
    /// Seal every key with another key-encryption key, in one transaction. The keys themselves stay the same: nothing that is
    /// connected notices.
    Rewrap(Rewrap),
    /// Make a new key beside the present one: both count until the former one is retired, and clusters are asked to renew their
    /// credentials. Nothing is disconnected for good, and no Manager needs a restart.
    Rotate(rotation::Rotate),
    /// End that the former key of a rotation counts. Refused while anything depends on it.
    Retire(rotation::Retire),
}

/// Arguments of `keys rewrap`.
#[derive(Debug, clap::Args)]
pub struct Rewrap {
    /// File of the new key-encryption key; it is made when it does not exist. Back it up before you go on.
    #[arg(long)]
    to: PathBuf,
}

impl KeysVerb {
    pub(super) async fn run(self, settings: &Settings) -> Result<()> {
        let store = settings.connect().await?;
        match self {
            Self::List => {
                let mut connection = store.acquire().await?;
                let rows = keys::all(&mut connection).await?;
                let mut text = table(&rows);
                let keys: Vec<StoredKey> = rows.into_iter().map(to_stored).collect();
                let opened = Envelope::from_file(&settings.kek_file)
                    .map_err(anyhow::Error::from)
                    .and_then(|envelope| keyring_of(&keys, &envelope, &settings.trust_domain));
                match opened {
                    Ok(keyring) => {
                        text.push_str(&rotation::progress(&mut connection, &keys, &keyring.key_set_id).await?);
                    }
                    Err(error) => {
                        let _infallible = writeln!(
                            text,
                            "\nwhich clusters have credentials of the present keys is not shown: {error:#}"
                        );
                    }
                }
                std::io::stdout().write_all(text.as_bytes()).context("could not print the keys")
            }
            Self::Rewrap(rewrap) => rewrap.run(settings, &store).await,
            Self::Rotate(rotate) => rotate.run(settings, &store).await,
            Self::Retire(retire) => retire.run(settings, &store).await,
        }
    }
}

fn table(rows: &[KeyRow]) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or_default().max(4);
    let mut text = format!("{:width$}  {:16}  PUBLIC\n", "NAME", "KEY-ENCRYPTION");
    for row in rows {
        // The chain of a certificate authority is a text of many lines.
        let public = if row.public.contains('\n') { "(certificates)" } else { &row.public };
        let _infallible = writeln!(text, "{:width$}  {:16}  {public}", row.name, row.kek_id);
    }
    text
}

impl Rewrap {
    async fn run(self, settings: &Settings, store: &Store) -> Result<()> {
        let from = Envelope::from_file(&settings.kek_file)?;
        if !self.to.exists() {
            make_kek(&self.to)?;
            say(&format!("made {}", self.to.display()));
        }
        let to = Envelope::from_file(&self.to)?;
        if to.id() == from.id() {
            bail!(
                "{} holds the key-encryption key that is in use, {}: name another file",
                self.to.display(),
                from.id()
            );
        }
        let count = store.transaction("seal the keys again", async |tx| rewrap(tx, &from, &to).await).await?;
        say(&format!(
            "{count} keys are sealed with key-encryption key {} now, before with {}\n\
             set kekFile to {} before a Manager is started again; those that run need nothing. Keep {} for as long as a backup of \
             the database from before may be restored",
            to.id(),
            from.id(),
            self.to.display(),
            settings.kek_file.display(),
        ));
        Ok(())
    }
}

/// A new key-encryption key.
pub(super) fn make_kek(path: &Path) -> Result<()> {
    write_secret(path, &format!("{}\n", BASE64.encode(&random::bytes::<32>())))
}

/// Seals every key again; all or none.
async fn rewrap(tx: &mut Connection, from: &Envelope, to: &Envelope) -> Result<usize> {
    keys::lock(tx).await?;
    let rows = keys::all(tx).await?;
    for row in &rows {
        // One that an interrupted attempt by hand has sealed already.
        if row.kek_id == to.id() {
            continue;
        }
        let sealed = Sealed { key_id: row.kek_id.clone(), bytes: row.sealed.clone() };
        let secret = from
            .open(keyring::place(&row.name), &sealed)
            .with_context(|| format!("key \"{}\" was not sealed again, and no other either", row.name))?;
        let again = to.seal(keyring::place(&row.name), &secret);
        keys::replace_sealed(tx, &row.name, &again.key_id, &again.bytes).await?;
    }
    Ok(rows.len())
}

/// Reads and opens every key.
///
/// # Errors
/// When the database does not answer, a key is missing, or `kekFile` holds another key-encryption key.
pub(crate) async fn open(settings: &Settings, store: &Store) -> Result<Keyring> {
    open_with(&Envelope::from_file(&settings.kek_file)?, store, &settings.trust_domain).await
}

/// The same with a key-encryption key that was read before.
///
/// # Errors
/// When the database does not answer, a key is missing, or they are sealed with another key-encryption key.
pub(crate) async fn open_with(envelope: &Envelope, store: &Store, trust_domain: &str) -> Result<Keyring> {
    let stored = stored(&mut *store.acquire().await?).await?;
    keyring_of(&stored, envelope, trust_domain)
}

async fn stored(connection: &mut Connection) -> Result<Vec<StoredKey>> {
    let rows = keys::all(connection).await.context("could not read the keys: run kubenova-manager init first")?;
    Ok(rows.into_iter().map(to_stored).collect())
}

fn keyring_of(stored: &[StoredKey], envelope: &Envelope, trust_domain: &str) -> Result<Keyring> {
    Ok(Keyring::open(stored, envelope, trust_domain)?)
}

fn to_stored(row: KeyRow) -> StoredKey {
    StoredKey { name: row.name, public: row.public, sealed: Sealed { key_id: row.kek_id, bytes: row.sealed } }
}

/// As the store has it.
pub(crate) fn to_row(key: StoredKey) -> KeyRow {
    KeyRow { name: key.name, public: key.public, kek_id: key.sealed.key_id, sealed: key.sealed.bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_runtime::clock;
    use kubenova_store::{error::StoreError, pool::Limits};
    use kubenova_test_postgres::Database;
    use std::collections::BTreeSet;

    async fn opens(store: &Store, envelope: &Envelope) -> bool {
        let rows = keys::all(&mut store.acquire().await.unwrap()).await.unwrap();
        let stored: Vec<StoredKey> = rows.into_iter().map(to_stored).collect();
        Keyring::open(&stored, envelope, "kubenova.test").is_ok()
    }

    #[tokio::test]
    async fn all_keys_are_sealed_again_or_none_and_stay_the_same_keys() {
        let database = Database::new().await;
        let store = Store::open_with(database.url(), 4, Limits::default()).unwrap();
        let [old, new, wrong] = [1, 2, 3].map(|byte| Envelope::from_bytes(&[byte; 32]).unwrap());
        let rows: Vec<KeyRow> =
            keyring::make_missing(&BTreeSet::new(), &old, clock::now()).unwrap().into_iter().map(to_row).collect();
        let insert = async |tx: &mut Connection| keys::insert(tx, &rows, clock::now()).await;
        let inserted: Result<(), StoreError> = store.transaction("test", insert).await;
        inserted.unwrap();

        let refused = store.transaction("test", async |tx| rewrap(tx, &wrong, &new).await).await;
        assert!(format!("{:#}", refused.unwrap_err()).contains("no other either"));
        assert!(opens(&store, &old).await && !opens(&store, &new).await);

        let count = store.transaction("test", async |tx| rewrap(tx, &old, &new).await).await.unwrap();
        assert_eq!(count, rows.len());
        assert!(opens(&store, &new).await && !opens(&store, &old).await);
        let after = keys::all(&mut store.acquire().await.unwrap()).await.unwrap();
        assert!(after.iter().zip(&rows).all(|(after, _)| after.kek_id == new.id()));
        let public =
            |rows: &[KeyRow]| rows.iter().map(|row| (row.name.clone(), row.public.clone())).collect::<BTreeSet<_>>();
        assert_eq!(public(&after), public(&rows));
        let shown = table(&after);
        assert!(shown.contains(new.id()) && shown.lines().count() == rows.len() + 1, "{shown}");
    }
}
