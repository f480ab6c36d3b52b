//! A real nats-server with the configuration that `kubenova-manager nats config` writes.

use kubenova_runtime::{clock, tls};
use kubenova_test_nats::NatsServer;
use kubenova_trust::{
    authority::Validity,
    envelope::Envelope,
    keyring::{self, Keyring, StoredKey},
    nats::{Revocations, UserCredentials},
    nats_config::NatsConfig,
};
use nkeys::KeyPair;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Ids of two clusters.
pub(crate) const A: &str = "c0123456789abcdefghjkmnpqrs";
pub(crate) const B: &str = "c0123456789abcdefghjkmnpqrt";

/// Of what a test issues: from now on, for longer than it takes.
pub(crate) fn validity() -> Validity {
    Validity { now: clock::now(), lifetime: Duration::from_secs(600) }
}

/// A server that also listens at these addresses, and the keys that it trusts.
pub(crate) fn start(websocket: Option<&str>, leaf: Option<&str>) -> (NatsServer, Keyring) {
    tls::install_provider();
    serve(keys().0, websocket, leaf)
}

/// The keys of an installation, opened, and as they are stored.
pub(crate) fn keys() -> (Keyring, Vec<StoredKey>) {
    let keys = keyring::make_missing(&BTreeSet::new(), &envelope(), clock::now()).unwrap();
    (Keyring::open(&keys, &envelope(), "kubenova.test").unwrap(), keys)
}

/// What they are sealed with.
pub(crate) fn envelope() -> Envelope {
    Envelope::from_bytes(&[5; 32]).unwrap()
}

/// A server of the installation with these keys.
pub(crate) fn serve(keyring: Keyring, websocket: Option<&str>, leaf: Option<&str>) -> (NatsServer, Keyring) {
    let accounts = keyring.nkeys.account_jwts(&Revocations::default(), &BTreeMap::new(), clock::now()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let hosts = ["127.0.0.1", "::1"].map(str::to_owned);
    let own = NatsConfig::on_loopback(folder.path(), &hosts, clock::now(), &accounts);
    let config = NatsConfig { websocket, leaf, ..own };
    let path = config.write(&keyring.authority, &keyring.nkeys).unwrap();
    (NatsServer::with_config(folder, &path), keyring)
}

/// Credentials of a cluster, for a key that it made.
pub(crate) fn cluster_user(keyring: &Keyring, id: &str, pair: &KeyPair, validity: Validity) -> UserCredentials {
    let user_jwt = keyring.nkeys.cluster_user(id, &pair.public_key(), validity).unwrap();
    UserCredentials { user_jwt, seed: pair.seed().unwrap() }
}
