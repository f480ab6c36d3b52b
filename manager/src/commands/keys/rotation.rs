//! `keys rotate` and `keys retire`: a new key beside the present one, and the end of the former one. What is written is decided in
//! `trust/rotation.rs`; Managers that run put it into use by themselves (`manager/src/key_changes.rs`).

use super::{keyring_of, stored, to_row};
use crate::{commands::say, own_identity::OwnIdentity, settings::Settings};
use anyhow::{Context as _, Result, bail};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
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
/// Longest time for which a Manager that runs may not have read new keys.
const UNREAD: Duration = Duration::from_secs(60);
/// Time between two looks whether they do.
const LOOK: Duration = Duration::from_millis(300);
/// Names that are shown of clusters or tokens in the way.
const SHOWN_MAX: i64 = 20;
/// Life of the certificate with which the broker is tried.
const TRIAL_LIFE: Duration = Duration::from_secs(600);

/// Reads the name of a key that can be rotated.
fn key() -> impl TypedValueParser<Value = RotatedKey> {
    let value = |key: RotatedKey| PossibleValue::new(key.as_str()).help(key.description());
    PossibleValuesParser::new(RotatedKey::ALL.map(value)).map(|name| {
        RotatedKey::ALL.into_iter().find(|key| key.as_str() == name).expect("only these names are possible")
    })
}

/// Arguments of `keys rotate`.
#[derive(Debug, clap::Args)]
pub struct Rotate {
    /// Which key.
    #[arg(value_parser = key())]
    key: RotatedKey,
}

/// Arguments of `keys retire`.
#[derive(Debug, clap::Args)]
pub struct Retire {
    /// Which key.
    #[arg(value_parser = key())]
    key: RotatedKey,
    /// Retire it although something depends on it still, as when it was stolen. After ca and command, clusters that have only the former
    /// key need a new enrollment token; after cluster-signer they renew their credentials by themselves.
    #[arg(long)]
    force: bool,
}

impl Rotate {
    pub(super) async fn run(self, settings: &Settings, store: &Store) -> Result<()> {
        let envelope = Envelope::from_file(&settings.kek_file)?;
        let key = self.key;
        store.transaction("rotate a key", async |tx| rotate(tx, &envelope, &settings.trust_domain, key).await).await?;
        if key == RotatedKey::ClusterSigner {
            promote(store, &envelope).await?;
        }
        say(&format!("{}\n{}", rotated(key), next_steps(key)));
        Ok(())
    }
}

async fn rotate(tx: &mut Connection, envelope: &Envelope, trust_domain: &str, key: RotatedKey) -> Result<()> {
    let now = clock::now();
    let (stored, _) = locked(tx, envelope, trust_domain).await?;
    let changes = rotation::rotate(key, &stored, envelope, now)?;
    if changes.put.is_empty() {
        return Ok(());
    }
    apply(tx, key, "rotate", changes, now).await
}

/// The keys, locked until the transaction ends. All of them are opened: what is written is sealed with this
/// key-encryption key, and must be readable together with the rest.
async fn locked(tx: &mut Connection, envelope: &Envelope, trust_domain: &str) -> Result<(Vec<StoredKey>, Keyring)> {
    keys::lock(tx).await?;
    let stored = stored(tx).await?;
    let keyring = keyring_of(&stored, envelope, trust_domain)?;
    Ok((stored, keyring))
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
    if let Some(behind) = servers_behind(store, is_known).await? {
        bail!(
            "not every server of the broker knows the new key yet{behind}, so it is not used: see that a Manager runs and is connected \
             to the broker, then run this command again; it goes on where it was"
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

/// Waits until every server of the broker has an account JWT as it should be; else which of them have not, in brackets.
async fn servers_behind(store: &Store, is_so: impl AsyncFn(&mut Connection) -> Result<bool>) -> Result<Option<String>> {
    let reached = tokio::time::timeout(BROKER_LIMIT, async {
        while !is_so(&mut *store.acquire().await?).await? {
            tokio::time::sleep(LOOK).await;
        }
        Ok::<_, anyhow::Error>(())
    });
    if let Ok(reached) = reached.await {
        return reached.map(|()| None);
    }
    let behind = account_jwts::verified(&mut *store.acquire().await?, "EDGE").await?.err().unwrap_or_default();
    Ok(Some(if behind.is_empty() { String::new() } else { format!(" ({behind})") }))
}

/// Whether the account's JWT that all servers have names this key.
async fn is_named(connection: &mut Connection, key: &str) -> Result<Option<bool>> {
    let verified = account_jwts::verified(connection, "EDGE").await?;
    Ok(verified.ok().map(|jwt| claims::read(&jwt).is_some_and(|claims| claims.to_string().contains(key))))
}

/// Whether it names the prepared key. True when none is prepared any more.
async fn is_known(connection: &mut Connection) -> Result<bool> {
    let stored = stored(connection).await?;
    let Some(prepared) = rotation::prepared(&stored) else { return Ok(true) };
    Ok(is_named(connection, prepared).await? == Some(true))
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
            "1. kubenova-manager nats config --out <folder of the broker>; then nats-server --signal reload=<pid> for each of its servers. Copy \
             tls/bridge.pem, tls/bridge.key and ca.crt to each bridge, and ca.crt to whoever calls REST\n"
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
        let key = self.key;
        let keys = stored(&mut *store.acquire().await?).await?;
        let changes = rotation::retire(key, &keys, &envelope)?;
        let checked = keyring_of(&keys, &envelope, &settings.trust_domain)?.fingerprint;
        let former = rotation::former_cluster_signer(&keys).map(str::to_owned);
        // Before the transaction: it may take seconds, while the keys would be locked.
        let brokers = if key == RotatedKey::Ca && !self.force {
            brokers_of_former_ca(settings, keyring_of(&changes.applied_to(keys), &envelope, &settings.trust_domain)?)
                .await?
        } else {
            Vec::new()
        };
        store
            .transaction("retire a key", async |tx| {
                let (stored, current) = locked(tx, &envelope, &settings.trust_domain).await?;
                if current.fingerprint != checked {
                    bail!("another command has changed the keys meanwhile: look at kubenova-manager keys list, then run this command again");
                }
                if !self.force {
                    refuse_what_is_needed(tx, key, &current, &brokers).await?;
                }
                apply(tx, key, "retire", rotation::retire(key, &stored, &envelope)?, clock::now()).await
            })
            .await?;
        if let Some(former) = former.filter(|_| key == RotatedKey::ClusterSigner) {
            say("waiting until no server of the broker knows the former key any more");
            let is_forgotten =
                async |connection: &mut Connection| Ok(is_named(connection, &former).await? == Some(false));
            if let Some(behind) = servers_behind(store, is_forgotten).await? {
                bail!(
                    "the former key is retired, and not every server of the broker knows that yet{behind}: see that a Manager runs and is \
                     connected to the broker, which tells them; until then users that it signed are let in there"
                );
            }
        }
        say(&retired(key));
        Ok(())
    }
}

fn retired(key: RotatedKey) -> String {
    let more = match key {
        RotatedKey::Ca => {
            "; kubenova-manager nats config again, and a reload of the broker, take the former root out of its files. Clusters accept it \
             until they have renewed their credentials once more: kubenova-manager keys list"
        }
        RotatedKey::Command => {
            "; Managers that run no longer sign with it within seconds. Clusters accept it until they have renewed their credentials once \
             more: kubenova-manager keys list"
        }
        RotatedKey::ClusterSigner => "; the broker lets in no user that it signed",
    };
    format!("the former key of {key} is retired{more}")
}

/// Fails with a line for each thing that needs the former key still.
async fn refuse_what_is_needed(
    tx: &mut Connection,
    key: RotatedKey,
    current: &Keyring,
    brokers: &[String],
) -> Result<()> {
    let lines = [dependents(tx, key, current).await?, brokers.to_vec()].concat();
    if lines.is_empty() {
        return Ok(());
    }
    let price = match key {
        RotatedKey::Ca | RotatedKey::Command => {
            "clusters that have only the former key need a new enrollment token then"
        }
        RotatedKey::ClusterSigner => {
            "clusters are disconnected then until they have renewed their credentials, which they do by themselves"
        }
    };
    bail!(
        "the former key is not retired, because it is needed still:\n{}\n--force retires it all the same; {price}",
        lines.join("\n")
    );
}

/// What depends on the former key still, a line each.
async fn dependents(connection: &mut Connection, key: RotatedKey, current: &Keyring) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let (count, names) = sessions::without_key_set(connection, &current.key_set_id, SHOWN_MAX).await?;
    if count > 0 {
        lines.push(format!(
            "- clusters that have not said yet that they have new credentials: {}; release one that is quarantined, recover one that is \
             diverged, and detach or purge one that is gone for good (POST /api/v1/clusters/{{cluster}}/detach, …/purge)",
            some_of(&names, count)
        ));
    }
    if key == RotatedKey::Ca
        && let Some(since) = keys::created_at(connection, key.row()).await?
    {
        // A Manager may have made one with the former root before it read the new one.
        let before = since.checked_add(UNREAD).unwrap_or(since);
        let (count, names) = enrollment_tokens::open_of_before(connection, before, clock::now(), SHOWN_MAX).await?;
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

/// What `keys list` says of rotations, and of clusters that were issued credentials with other keys.
pub(super) async fn progress(connection: &mut Connection, keys: &[StoredKey], key_set_id: &str) -> Result<String> {
    let mut text = String::new();
    for key in RotatedKey::ALL {
        match key.state(keys) {
            RotationState::Settled => {}
            RotationState::Prepared => {
                let _infallible = writeln!(
                    text,
                    "{key}: a new key is made and not in use; kubenova-manager keys rotate {key} goes on"
                );
            }
            RotationState::Overlapping => {
                let since = keys::created_at(connection, key.row()).await?.map(clock::rfc3339_ms).unwrap_or_default();
                let _infallible = writeln!(
                    text,
                    "{key}: rotated at {since}, the former key still counts; kubenova-manager keys retire {key} ends that"
                );
            }
        }
    }
    let (count, names) = sessions::without_key_set(connection, key_set_id, SHOWN_MAX).await?;
    let _infallible = match count {
        0 => writeln!(text, "clusters: all that are enrolled have credentials of the present keys"),
        _ => writeln!(text, "clusters: {count} without credentials of the present keys: {}", some_of(&names, count)),
    };
    Ok(format!("\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_store::{account_jwts::AccountRow, error::StoreError, pool::Limits};
    use kubenova_test_postgres::Database;
    use std::collections::BTreeSet;

    const TRUST_DOMAIN: &str = "kubenova.test";

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
            self.store.transaction("test", async |tx| rotate(tx, &self.envelope, TRUST_DOMAIN, key).await).await
        }

        async fn keys(&self) -> Vec<StoredKey> {
            stored(&mut self.store.acquire().await.unwrap()).await.unwrap()
        }

        fn keyring(&self, keys: &[StoredKey]) -> Keyring {
            Keyring::open(keys, &self.envelope, TRUST_DOMAIN).unwrap()
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
        assert!(world.progress().await.contains("all that are enrolled"));
        world.rotate(RotatedKey::Command).await.unwrap();
        let other = Envelope::from_bytes(&[2; 32]).unwrap();
        let with_other = async |tx: &mut Connection| rotate(tx, &other, TRUST_DOMAIN, RotatedKey::ClusterSigner).await;
        let refused = world.store.transaction("test", with_other).await.unwrap_err();
        assert!(format!("{refused:#}").contains("set kekFile"), "no key is sealed with another: {refused:#}");
        let again = world.rotate(RotatedKey::Command).await.unwrap_err();
        assert!(format!("{again:#}").contains("keys retire command"), "{again:#}");
        let shown = world.progress().await;
        assert!(shown.contains("command: rotated at") && shown.contains("all that are enrolled"), "{shown}");
        let records = world.database.texts("select action from audit_pending where target = 'key/command'").await;
        assert_eq!(records.len(), 1, "one rotation was made: {records:?}");
    }

    #[tokio::test]
    async fn a_cluster_signer_is_used_once_the_broker_names_it_and_not_before() {
        let world = World::new().await;
        world.rotate(RotatedKey::ClusterSigner).await.unwrap();
        assert!(!is_known(&mut world.store.acquire().await.unwrap()).await.unwrap(), "no server has been asked");
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
        assert!(!is_known(&mut world.store.acquire().await.unwrap()).await.unwrap(), "servers may lack it");
        account_jwts::record_behind(&mut connection, &row, "", clock::now()).await.unwrap();
        assert!(is_known(&mut world.store.acquire().await.unwrap()).await.unwrap());
        promote(&world.store, &world.envelope).await.unwrap();
        assert_eq!(RotatedKey::ClusterSigner.state(&world.keys().await), RotationState::Overlapping);
    }
}
