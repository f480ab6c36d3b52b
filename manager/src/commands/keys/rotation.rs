//! `keys rotate` and `keys retire`: a new key beside the present one, and the end of the former one. What is written is decided in
//! `trust/rotation.rs`; Managers that run put it into use by themselves (`manager/src/key_changes.rs`).

use super::{keyring_of, stored, to_row};
use crate::{commands::say, own_identity::OwnIdentity, settings::Settings};
use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use jiff::Timestamp;
use kubenova_core::access::{Action, Role};
use kubenova_runtime::clock;
use kubenova_store::{account_jwts, audit, connection::Connection, enrollment_tokens, keys, pool::Store, sessions};
use kubenova_trust::{
    claims,
    current::CurrentKeyring,
    envelope::Envelope,
    keyring::{Keyring, StoredKey},
    rotation::{self, KeyChanges, RotatedKey, RotationState},
};
use std::{fmt::Write as _, time::Duration};

/// Who stands in the audit log.
const SUBJECT: &str = "kubenova-manager keys";
/// Longest wait until every server of the broker knows a new cluster signer: a Manager reads keys every few seconds, and gives servers what
/// they lack every second.
const BROKER_LIMIT: Duration = Duration::from_secs(60);
/// Time between two looks whether they do.
const LOOK: Duration = Duration::from_millis(300);
/// Names that are shown of clusters or tokens in the way.
const SHOWN_MAX: i64 = 20;
/// Life of the certificate with which the broker is tried.
const TRIAL_LIFE: Duration = Duration::from_secs(600);

/// A key that can be rotated.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Which {
    /// Root and issuing CA.
    Ca,
    /// The key that signs commands.
    Command,
    /// The key that signs clusters' users of the broker.
    ClusterSigner,
}

impl Which {
    const fn key(self) -> RotatedKey {
        match self {
            Self::Ca => RotatedKey::Ca,
            Self::Command => RotatedKey::Command,
            Self::ClusterSigner => RotatedKey::ClusterSigner,
        }
    }
}

/// Arguments of `keys rotate`.
#[derive(Debug, clap::Args)]
pub struct Rotate {
    /// Which key.
    key: Which,
}

/// Arguments of `keys retire`.
#[derive(Debug, clap::Args)]
pub struct Retire {
    /// Which key.
    key: Which,
    /// Retire it although something depends on it still, as when it was stolen. Clusters that know only the former key need a new
    /// enrollment token then.
    #[arg(long)]
    force: bool,
}

impl Rotate {
    pub(super) async fn run(self, settings: &Settings, store: &Store) -> Result<()> {
        let envelope = Envelope::from_file(&settings.kek_file)?;
        let key = self.key.key();
        store.transaction("rotate a key", async |tx| rotate(tx, &envelope, key, clock::now()).await).await?;
        if key == RotatedKey::ClusterSigner {
            promote(store, &envelope).await?;
        }
        say(&format!("{}\n{}", rotated(key), next_steps(key)));
        Ok(())
    }
}

async fn rotate(tx: &mut Connection, envelope: &Envelope, key: RotatedKey, now: Timestamp) -> Result<()> {
    keys::lock(tx).await?;
    let changes = rotation::rotate(key, &stored(tx).await?, envelope, now)?;
    apply(tx, key, "rotate", changes, now).await
}

/// Writes the changes, and who made them.
async fn apply(tx: &mut Connection, key: RotatedKey, verb: &str, changes: KeyChanges, now: Timestamp) -> Result<()> {
    let put: Vec<_> = changes.put.into_iter().map(to_row).collect();
    keys::replace(tx, &changes.remove, &put, now).await?;
    let entry = audit::Entry {
        at: now,
        subject: SUBJECT.to_owned(),
        role: Role::Admin,
        action: format!("{}/{verb}", Action::WriteAccess.as_str()),
        target: format!("key/{key}"),
        tenant: None,
        request_id: String::new(),
    };
    Ok(audit::insert(tx, &entry).await?)
}

/// Puts the prepared cluster signer into use once every server of the broker lets in whom it signs.
async fn promote(store: &Store, envelope: &Envelope) -> Result<()> {
    say("waiting until every server of the broker knows the new key");
    let known = tokio::time::timeout(BROKER_LIMIT, async {
        while !is_known(store).await? {
            tokio::time::sleep(LOOK).await;
        }
        Ok::<_, anyhow::Error>(())
    });
    if let Ok(known) = known.await {
        known?;
    } else {
        let behind = account_jwts::verified(&mut *store.acquire().await?, "EDGE").await?.err().unwrap_or_default();
        let of = if behind.is_empty() { String::new() } else { format!(" ({behind})") };
        bail!(
            "not every server of the broker knows the new key yet{of}, so it is not used: see that a Manager runs and is connected to \
             the broker, then run this command again; it goes on where it was"
        );
    }
    store
        .transaction("put a key into use", async |tx| {
            keys::lock(tx).await?;
            match rotation::promote(&stored(tx).await?, envelope)? {
                Some(changes) => apply(tx, RotatedKey::ClusterSigner, "use", changes, clock::now()).await,
                None => Ok(()),
            }
        })
        .await
}

/// Whether the account's JWT that all servers have names the prepared key. True when none is prepared any more.
async fn is_known(store: &Store) -> Result<bool> {
    let mut connection = store.acquire().await?;
    let stored = stored(&mut connection).await?;
    let Some(prepared) = rotation::prepared(&stored) else { return Ok(true) };
    let verified = account_jwts::verified(&mut connection, "EDGE").await?;
    let names = |jwt: String| claims::read(&jwt).is_some_and(|claims| claims.to_string().contains(prepared));
    Ok(verified.is_ok_and(names))
}

fn rotated(key: RotatedKey) -> &'static str {
    match key {
        RotatedKey::Ca => {
            "the CA was replaced; certificates of the former one and of the new one are accepted. Managers that run issue with the new \
             one within seconds, and ask clusters to renew their credentials"
        }
        RotatedKey::Command => {
            "the command key was replaced; Managers that run sign with both within seconds, and ask clusters to renew their credentials, \
             which brings the new key"
        }
        RotatedKey::ClusterSigner => {
            "the cluster signer was replaced; users that either has signed are let in. Managers that run sign with the new one within \
             seconds, and ask clusters to renew their credentials"
        }
    }
}

fn next_steps(key: RotatedKey) -> String {
    let broker = match key {
        RotatedKey::Ca => {
            "1. kubenova-manager nats config --out <folder of the broker>; then nats-server --signal reload on each of its servers. A bridge \
             takes its certificate from there, too; whoever calls REST takes ca.crt\n"
        }
        RotatedKey::Command | RotatedKey::ClusterSigner => "",
    };
    let number = if broker.is_empty() { 1 } else { 2 };
    format!(
        "{broker}{number}. kubenova-manager keys list, until every cluster has new credentials\n{}. kubenova-manager keys retire {key}",
        number + 1
    )
}

impl Retire {
    pub(super) async fn run(self, settings: &Settings, store: &Store) -> Result<()> {
        let envelope = Envelope::from_file(&settings.kek_file)?;
        let key = self.key.key();
        let keys = stored(&mut *store.acquire().await?).await?;
        let changes = rotation::retire(key, &keys, &envelope)?;
        if !self.force {
            let current = keyring_of(&keys, &envelope, settings)?;
            let mut in_the_way = dependents(store, key, &current).await?;
            if key == RotatedKey::Ca {
                in_the_way.extend(brokers_of_former_ca(settings, after(keys, changes, &envelope, settings)?).await?);
            }
            if !in_the_way.is_empty() {
                bail!(
                    "the former key is not retired, because it is needed still:\n{}\n--force retires it all the same; clusters that know only \
                     the former key need a new enrollment token then",
                    in_the_way.join("\n")
                );
            }
        }
        store
            .transaction("retire a key", async |tx| {
                keys::lock(tx).await?;
                let changes = rotation::retire(key, &stored(tx).await?, &envelope)?;
                apply(tx, key, "retire", changes, clock::now()).await
            })
            .await?;
        let broker = match key {
            RotatedKey::Ca => {
                "\nkubenova-manager nats config again, and a reload of the broker, take the former root out of its files"
            }
            RotatedKey::Command | RotatedKey::ClusterSigner => "",
        };
        say(&format!("the former key of {key} no longer counts: Managers that run know it within seconds{broker}"));
        Ok(())
    }
}

/// The keys as they are after these changes.
fn after(keys: Vec<StoredKey>, changes: KeyChanges, envelope: &Envelope, settings: &Settings) -> Result<Keyring> {
    let KeyChanges { remove, put } = changes;
    let stays = |key: &StoredKey| !remove.contains(&key.name) && put.iter().all(|put| put.name != key.name);
    let mut left: Vec<StoredKey> = keys.into_iter().filter(stays).collect();
    left.extend(put);
    keyring_of(&left, envelope, settings)
}

/// What depends on the former key still, a line each.
async fn dependents(store: &Store, key: RotatedKey, current: &Keyring) -> Result<Vec<String>> {
    let mut connection = store.acquire().await?;
    let mut lines = Vec::new();
    let (count, names) = sessions::without_key_set(&mut connection, &current.key_set_id, SHOWN_MAX).await?;
    if count > 0 {
        lines.push(format!(
            "- clusters that have not said yet that they have new credentials: {}; one that is gone for good is detached or purged \
             (DELETE /api/v1/clusters/{{cluster}})",
            some_of(&names, count)
        ));
    }
    if key == RotatedKey::Ca
        && let Some(since) = keys::created_at(&mut connection, key.row()).await?
    {
        // A Manager may have made one with the former root before it read the new one.
        let before = since.checked_add(BROKER_LIMIT).unwrap_or(since);
        let (count, names) =
            enrollment_tokens::open_of_before(&mut connection, before, clock::now(), SHOWN_MAX).await?;
        if count > 0 {
            lines.push(format!(
                "- enrollment tokens that pin the former root and are not used, of clusters {}; revoke or replace them",
                some_of(&names, count)
            ));
        }
    }
    Ok(lines)
}

fn some_of(names: &[String], count: i64) -> String {
    let shown = i64::try_from(names.len()).unwrap_or(i64::MAX);
    let names = names.join(", ");
    if count > shown { format!("{names}, and {} others", count - shown) } else { names }
}

/// Servers of the broker that do not work with the new root alone, a line each.
async fn brokers_of_former_ca(settings: &Settings, after: Keyring) -> Result<Vec<String>> {
    let folder = tempfile::tempdir().context("could not make a temporary folder")?;
    let identity =
        OwnIdentity::issue(&CurrentKeyring::fixed(after), &settings.public_names, TRIAL_LIFE, folder.path())?;
    let ping_interval = Duration::from_secs(settings.nats.ping_interval_seconds);
    let mut lines = Vec::new();
    for url in &settings.nats.urls {
        let bus = identity.bus_settings(std::slice::from_ref(url), ping_interval);
        if let Err(error) = kubenova_bus::connect(bus).await {
            let error = kubenova_runtime::telemetry::chain(&error);
            lines.push(format!(
                "- the broker at {url} does not work with the new CA alone ({error}): kubenova-manager nats config again, and nats-server \
                 --signal reload"
            ));
        }
    }
    Ok(lines)
}

/// What `keys list` says of rotations that are not finished.
pub(super) async fn progress(connection: &mut Connection, keys: &[StoredKey], key_set_id: &str) -> Result<String> {
    let mut text = String::new();
    for key in RotatedKey::ALL {
        let state = key.state(keys);
        if state == RotationState::Settled {
            continue;
        }
        if text.is_empty() {
            text.push('\n');
        }
        if state == RotationState::Prepared {
            let _infallible =
                writeln!(text, "{key}: a new key is made and not in use; kubenova-manager keys rotate {key} goes on");
            continue;
        }
        let since = keys::created_at(connection, key.row()).await?.map(clock::rfc3339_ms).unwrap_or_default();
        let (count, names) = sessions::without_key_set(connection, key_set_id, SHOWN_MAX).await?;
        let clusters = if count == 0 {
            format!("every cluster has new credentials; kubenova-manager keys retire {key} ends it")
        } else {
            format!("{count} clusters have no new credentials yet: {}", some_of(&names, count))
        };
        let _infallible = writeln!(text, "{key}: rotated at {since}, the former key still counts; {clusters}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_store::{account_jwts::AccountRow, error::StoreError, pool::Limits};
    use kubenova_test_postgres::Database;
    use std::collections::BTreeSet;

    struct World {
        store: Store,
        envelope: Envelope,
        database: Database,
    }

    impl World {
        async fn new() -> Self {
            let database = Database::new().await;
            let store = Store::open_with(database.url(), 4, Limits::default()).unwrap();
            let envelope = Envelope::from_bytes(&[1; 32]).unwrap();
            let made = kubenova_trust::keyring::make_missing(&BTreeSet::new(), &envelope, clock::now()).unwrap();
            let rows: Vec<_> = made.into_iter().map(to_row).collect();
            let insert = async |tx: &mut Connection| keys::insert(tx, &rows, clock::now()).await;
            let inserted: Result<(), StoreError> = store.transaction("test", insert).await;
            inserted.unwrap();
            Self { store, envelope, database }
        }

        async fn rotate(&self, key: RotatedKey) -> Result<()> {
            self.store.transaction("test", async |tx| rotate(tx, &self.envelope, key, clock::now()).await).await
        }

        async fn keys(&self) -> Vec<StoredKey> {
            stored(&mut self.store.acquire().await.unwrap()).await.unwrap()
        }

        fn keyring(&self, keys: &[StoredKey]) -> Keyring {
            Keyring::open(keys, &self.envelope, "kubenova.test").unwrap()
        }

        async fn progress(&self) -> String {
            let keys = self.keys().await;
            let id = self.keyring(&keys).key_set_id;
            progress(&mut self.store.acquire().await.unwrap(), &keys, &id).await.unwrap()
        }
    }

    #[tokio::test]
    async fn a_rotation_is_recorded_shown_and_refused_while_the_last_one_is_not_finished() {
        let world = World::new().await;
        assert_eq!(world.progress().await, "");
        world.rotate(RotatedKey::Command).await.unwrap();
        let again = world.rotate(RotatedKey::Command).await.unwrap_err();
        assert!(format!("{again:#}").contains("keys retire command"), "{again:#}");
        let shown = world.progress().await;
        assert!(
            shown.contains("command: rotated at") && shown.contains("every cluster has new credentials"),
            "{shown}"
        );
        let records = world.database.texts("select action from audit_pending where target = 'key/command'").await;
        assert_eq!(records.len(), 1, "one rotation was made: {records:?}");
    }

    #[tokio::test]
    async fn a_cluster_signer_is_used_once_the_broker_names_it_and_not_before() {
        let world = World::new().await;
        world.rotate(RotatedKey::ClusterSigner).await.unwrap();
        assert!(!is_known(&world.store).await.unwrap(), "no server has been asked");
        let ring = world.keyring(&world.keys().await);
        let accounts = ring.nkeys.account_jwts(&Default::default(), &Default::default(), clock::now()).unwrap();
        let edge = accounts.into_iter().find(|account| account.name == "EDGE").unwrap().signed;
        let row = AccountRow {
            account: "EDGE".to_owned(),
            claims_sha256: edge.claims_sha256,
            issued_at: edge.issued_at,
            jwt: edge.jwt,
        };
        let mut connection = world.store.acquire().await.unwrap();
        account_jwts::store(&mut connection, &row).await.unwrap();
        assert!(!is_known(&world.store).await.unwrap(), "servers may lack it");
        account_jwts::record_behind(&mut connection, &row, "", clock::now()).await.unwrap();
        assert!(is_known(&world.store).await.unwrap());
        promote(&world.store, &world.envelope).await.unwrap();
        assert_eq!(RotatedKey::ClusterSigner.state(&world.keys().await), RotationState::Overlapping);
    }
}
