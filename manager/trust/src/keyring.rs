//! Every key of one installation, by name: created once by `kubenova-manager init`, opened by every other command.
//!
//! Guarantees: creating keys is idempotent (only what is missing is created), and a secret leaves this file only sealed. What takes the
//! place of a key, and when, is decided in [`crate::rotation`].
//! Before it: `store/keys.rs`. After it: [`crate::authority`], [`crate::nats`], [`crate::command_keys`].

use crate::{
    TrustError,
    authority::{Authority, AuthorityMaterial, FormerAuthority, Identity},
    command_keys::CommandKeys,
    envelope::{Envelope, Place, Sealed},
    nats::{ClusterSigners, NatsIdentity, Nkeys},
    nonce::Nonces,
};
use jiff::Timestamp;
use kubenova_schema::signature::{SigningKey, sha256_hex};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const ROOT: &str = "ca.root";
pub(crate) const ISSUING: &str = "ca.issuing";
/// The issuing CA's key certified by the root before the last rotation.
pub(crate) const CROSS: &str = "ca.cross";
/// The root before the last rotation; public half only.
pub(crate) const ROOT_PREVIOUS: &str = "ca.root.previous";
pub(crate) const COMMAND: &str = "command.signing";
/// The key before the last rotation: signs beside the current one until it is retired.
pub(crate) const COMMAND_PREVIOUS: &str = "command.previous";
/// Begin of the names of earlier keys; public half only.
pub(crate) const COMMAND_RETIRED_PREFIX: &str = "command.retired.";
/// A key of the role `cluster` that the account names already and nothing is signed with yet.
pub(crate) const CLUSTER_SIGNER_NEXT: &str = "nats.account.edge.cluster.next";
/// The one before the last rotation: what it signed is valid until it is retired.
pub(crate) const CLUSTER_SIGNER_PREVIOUS: &str = "nats.account.edge.cluster.previous";
/// Authenticates the nonces of renewals.
const NONCE: &str = "renewal.nonce";

/// A key as it is stored.
#[derive(Debug, Clone)]
pub struct StoredKey {
    /// Its name.
    pub name: String,
    /// Its public half: a certificate chain, a public nkey, a base64 public key.
    pub public: String,
    /// The private half.
    pub sealed: Sealed,
}

/// Where a key's secret lives; part of what its sealing authenticates.
#[must_use]
pub fn place(name: &str) -> Place<'_> {
    Place { table: "keys", row: name, column: "sealed" }
}

/// Creates every key that is not among `present`, sealed.
///
/// # Errors
/// When a key cannot be generated, or one of the two CAs exists without the other.
pub fn make_missing(
    present: &BTreeSet<String>,
    envelope: &Envelope,
    now: Timestamp,
) -> Result<Vec<StoredKey>, TrustError> {
    let mut made = Vec::new();
    let mut add = |name: &str, public: String, secret: &[u8]| {
        made.push(StoredKey { name: name.to_owned(), public, sealed: envelope.seal(place(name), secret) });
    };
    match (present.contains(ROOT), present.contains(ISSUING)) {
        (true, true) => {}
        (false, false) => {
            let material = AuthorityMaterial::generate(now)?;
            add(ROOT, material.root.chain_pem, material.root.key_pem.as_bytes());
            add(ISSUING, material.issuing.chain_pem, material.issuing.key_pem.as_bytes());
        }
        (true, false) => return Err(TrustError::MissingKey(ISSUING)),
        (false, true) => return Err(TrustError::MissingKey(ROOT)),
    }
    if !present.contains(COMMAND) {
        let (public, seed) = new_command_key()?;
        add(COMMAND, public, &seed);
    }
    if !present.contains(NONCE) {
        add(NONCE, String::new(), &kubenova_runtime::random::bytes::<32>());
    }
    for identity in NatsIdentity::ALL {
        if !present.contains(identity.as_str()) {
            let (public, seed) = identity.new_key()?;
            add(identity.as_str(), public, seed.as_bytes());
        }
    }
    Ok(made)
}

/// Public half and seed of a new key for commands.
pub(crate) fn new_command_key() -> Result<(String, [u8; 32]), TrustError> {
    let seed = kubenova_runtime::random::bytes::<32>();
    let key = SigningKey::from_seed(&seed).map_err(|_| TrustError::DamagedKey(COMMAND))?;
    Ok((data_encoding::BASE64.encode(&key.public_key()), seed))
}

/// The keys as they are stored, by name.
pub(crate) struct Stored<'a> {
    by_name: BTreeMap<&'a str, &'a StoredKey>,
    envelope: &'a Envelope,
}

impl<'a> Stored<'a> {
    pub(crate) fn new(keys: &'a [StoredKey], envelope: &'a Envelope) -> Self {
        Self { by_name: keys.iter().map(|key| (key.name.as_str(), key)).collect(), envelope }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(crate) fn find(&self, name: &'static str) -> Result<&'a StoredKey, TrustError> {
        self.by_name.get(name).copied().ok_or(TrustError::MissingKey(name))
    }

    pub(crate) fn open(&self, name: &'static str) -> Result<Vec<u8>, TrustError> {
        Ok(self.envelope.open(place(name), &self.find(name)?.sealed)?)
    }

    pub(crate) fn text(&self, name: &'static str) -> Result<String, TrustError> {
        String::from_utf8(self.open(name)?).map_err(|_| TrustError::DamagedKey(name))
    }

    /// A chain of certificates with its key.
    pub(crate) fn identity(&self, name: &'static str) -> Result<Identity, TrustError> {
        Ok(Identity { chain_pem: self.find(name)?.public.clone(), key_pem: self.text(name)? })
    }

    fn signing_key(&self, name: &'static str) -> Result<SigningKey, TrustError> {
        SigningKey::from_seed(&self.open(name)?).map_err(|_| TrustError::DamagedKey(name))
    }

    /// The public half of a key that may exist.
    fn public(&self, name: &str) -> Option<String> {
        self.by_name.get(name).map(|key| key.public.clone())
    }
}

/// Tells one set of keys from another, by what may be shown of them.
#[must_use]
pub fn fingerprint<'a>(keys: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let sorted: BTreeMap<&str, &str> = keys.into_iter().collect();
    let lines: String =
        sorted.iter().map(|(name, public)| format!("{name} {}\n", sha256_hex(public.as_bytes()))).collect();
    sha256_hex(lines.as_bytes())
}

/// Every key, opened.
#[derive(Debug)]
pub struct Keyring {
    /// Issues certificates.
    pub authority: Authority,
    /// Issues broker identities.
    pub nkeys: Nkeys,
    /// Signs commands, receipts and answers.
    pub command: CommandKeys,
    /// Issues and checks the nonces of renewals.
    pub nonces: Nonces,
    /// Id of the keys that clusters depend on: it changes when they need new credentials.
    pub key_set_id: String,
    /// [`fingerprint`] of all of them.
    pub fingerprint: String,
}

impl Keyring {
    /// Opens stored keys.
    ///
    /// # Errors
    /// When one is missing, damaged, or sealed with another key-encryption key.
    pub fn open(keys: &[StoredKey], envelope: &Envelope, trust_domain: &str) -> Result<Self, TrustError> {
        let stored = Stored::new(keys, envelope);
        let former = match (stored.public(CROSS), stored.public(ROOT_PREVIOUS)) {
            (Some(cross_pem), Some(root_pem)) => Some(FormerAuthority { cross_pem, root_pem }),
            _ => None,
        };
        let root_pem = &stored.find(ROOT)?.public;
        let authority = Authority::new(root_pem, &stored.identity(ISSUING)?, former.as_ref(), trust_domain)?;
        let is_retired = |key: &&StoredKey| key.name.starts_with(COMMAND_RETIRED_PREFIX);
        let command = CommandKeys {
            current: stored.signing_key(COMMAND)?,
            previous: stored.has(COMMAND_PREVIOUS).then(|| stored.signing_key(COMMAND_PREVIOUS)).transpose()?,
            retired: keys.iter().filter(is_retired).map(|key| key.public.clone()).collect(),
        };
        let others = [CLUSTER_SIGNER_NEXT, CLUSTER_SIGNER_PREVIOUS].iter().filter_map(|name| stored.public(name));
        let nkeys = Nkeys::open(|identity| stored.text(identity.as_str()), ClusterSigners(others.collect()))?;
        let nonces = Nonces::new(&stored.open(NONCE)?);
        let key_set_id = key_set_id(&authority, &command, &nkeys);
        let fingerprint = fingerprint(keys.iter().map(|key| (key.name.as_str(), key.public.as_str())));
        Ok(Self { authority, nkeys, command, nonces, key_set_id, fingerprint })
    }
}

/// Of what an answer to an enrollment names, and what signed what it contains.
fn key_set_id(authority: &Authority, command: &CommandKeys, nkeys: &Nkeys) -> String {
    let mut parts: Vec<String> = command.public().into_iter().map(|key| key.key_id).collect();
    parts.push(sha256_hex(authority.bundle_pem().as_bytes()));
    parts.push(sha256_hex(authority.issuing_chain_pem().as_bytes()));
    parts.push(nkeys.public(NatsIdentity::EdgeCluster));
    sha256_hex(parts.join("\n").as_bytes()).chars().take(16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_open_again() {
        let envelope = Envelope::from_bytes(&[3; 32]).unwrap();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let made = make_missing(&BTreeSet::new(), &envelope, now).unwrap();
        let names: BTreeSet<String> = made.iter().map(|key| key.name.clone()).collect();
        assert!(make_missing(&names, &envelope, now).unwrap().is_empty(), "a second init makes nothing");
        let open = |keys: &[StoredKey]| Keyring::open(keys, &envelope, "kubenova.test");
        let ring = open(&made).unwrap();
        assert_eq!((ring.key_set_id.len(), ring.command.public().len()), (16, 1));
        assert_eq!(open(&made).unwrap().fingerprint, ring.fingerprint);
        let missing: Vec<_> = made.iter().filter(|key| key.name != COMMAND).cloned().collect();
        assert!(matches!(Keyring::open(&missing, &envelope, "x"), Err(TrustError::MissingKey(COMMAND))));
        let other = Envelope::from_bytes(&[4; 32]).unwrap();
        assert!(matches!(Keyring::open(&made, &other, "x"), Err(TrustError::Envelope(_))));
    }
}
