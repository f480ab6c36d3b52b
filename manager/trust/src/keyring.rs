//! Every key of one installation, by name: created once by `kubenova-manager init`, opened by every other command.
//!
//! Guarantees: creating keys is idempotent (only what is missing is created), and a secret leaves this file only sealed.
//! Before it: `store/keys.rs`. After it: [`crate::authority`], [`crate::nats`], the relay.

use crate::{
    TrustError,
    authority::{Authority, AuthorityMaterial, Identity},
    envelope::{Envelope, Place, Sealed},
    nats::{NatsIdentity, Nkeys},
    nonce::Nonces,
};
use jiff::Timestamp;
use kubenova_schema::{enrollment::PublicKey, signature::SigningKey};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const ROOT: &str = "ca.root";
const ISSUING: &str = "ca.issuing";
const COMMAND: &str = "command.signing";
/// The key before the last rotation: still accepted by clusters, no longer used for signing.
const COMMAND_PREVIOUS: &str = "command.previous";
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
        let seed = kubenova_runtime::random::bytes::<32>();
        let key = SigningKey::from_seed(&seed).map_err(|_| TrustError::DamagedKey(COMMAND))?;
        add(COMMAND, data_encoding::BASE64.encode(&key.public_key()), &seed);
    }
    if !present.contains(NONCE) {
        add(NONCE, String::new(), &kubenova_runtime::random::bytes::<32>());
    }
    for identity in NatsIdentity::ALL {
        if !present.contains(identity.as_str()) {
            let pair = identity.generate()?;
            let seed = pair.seed().map_err(|source| TrustError::Nkey { what: identity.as_str(), source })?;
            add(identity.as_str(), pair.public_key(), seed.as_bytes());
        }
    }
    Ok(made)
}

/// Every key, opened.
#[derive(Debug)]
pub struct Keyring {
    /// Issues certificates.
    pub authority: Authority,
    /// Issues broker identities.
    pub nkeys: Nkeys,
    /// Signs commands and receipts.
    pub command: Arc<SigningKey>,
    /// What clusters accept: the signing key, and during a rotation the one before it.
    pub command_public: Vec<PublicKey>,
    /// Issues and checks the nonces of renewals.
    pub nonces: Nonces,
}

impl Keyring {
    /// Opens stored keys.
    ///
    /// # Errors
    /// When one is missing, damaged, or sealed with another key-encryption key.
    pub fn open(stored: &[StoredKey], envelope: &Envelope, trust_domain: &str) -> Result<Self, TrustError> {
        let by_name: BTreeMap<&str, &StoredKey> = stored.iter().map(|key| (key.name.as_str(), key)).collect();
        let find = |name: &'static str| by_name.get(name).copied().ok_or(TrustError::MissingKey(name));
        let open = |name: &'static str| -> Result<Vec<u8>, TrustError> {
            Ok(envelope.open(place(name), &find(name)?.sealed)?)
        };
        let text = |name: &'static str| -> Result<String, TrustError> {
            String::from_utf8(open(name)?).map_err(|_| TrustError::DamagedKey(name))
        };
        let issuing = Identity { chain_pem: find(ISSUING)?.public.clone(), key_pem: text(ISSUING)? };
        let authority = Authority::new(&find(ROOT)?.public, &issuing, trust_domain)?;
        let signing = |name: &'static str| -> Result<SigningKey, TrustError> {
            SigningKey::from_seed(&open(name)?).map_err(|_| TrustError::DamagedKey(name))
        };
        let command = signing(COMMAND)?;
        let mut command_public = vec![public_key(&command)];
        if by_name.contains_key(COMMAND_PREVIOUS) {
            command_public.push(public_key(&signing(COMMAND_PREVIOUS)?));
        }
        let nkeys = Nkeys::open(|identity| text(identity.as_str()))?;
        let nonces = Nonces::new(&open(NONCE)?);
        Ok(Self { authority, nkeys, command: Arc::new(command), command_public, nonces })
    }
}

fn public_key(key: &SigningKey) -> PublicKey {
    PublicKey { key_id: key.id().to_owned(), public_key: data_encoding::BASE64.encode(&key.public_key()) }
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
        let ring = Keyring::open(&made, &envelope, "kubenova.test").unwrap();
        assert_eq!(ring.command_public[0].key_id, ring.command.id());
        let missing: Vec<_> = made.iter().filter(|key| key.name != COMMAND).cloned().collect();
        assert!(matches!(Keyring::open(&missing, &envelope, "x"), Err(TrustError::MissingKey(COMMAND))));
        let other = Envelope::from_bytes(&[4; 32]).unwrap();
        assert!(matches!(Keyring::open(&made, &other, "x"), Err(TrustError::Envelope(_))));
    }
}
