//! What takes the place of a key, in two steps.
//!
//! *Rotate* makes a new key beside the present one; both count from then on: certificates verify under both roots, everything is signed
//! with both command keys, users of both signing keys are let in. Clusters are asked to renew their credentials, and get what the new key
//! signed. *Retire* ends that the former key counts, once every cluster has them. No step makes a cluster wait for another one.
//!
//! Pure: what is stored is decided here, and written by `kubenova-manager keys` in one transaction. Private halves of former keys are kept
//! only where they still sign something.

use crate::{
    TrustError,
    authority::AuthorityMaterial,
    envelope::Envelope,
    keyring::{
        CLUSTER_SIGNER_NEXT, CLUSTER_SIGNER_PREVIOUS, COMMAND, COMMAND_PREVIOUS, COMMAND_RETIRED_PREFIX, CROSS,
        ISSUING, ROOT, ROOT_PREVIOUS, Stored, StoredKey, new_command_key, place,
    },
    nats::NatsIdentity,
};
use jiff::Timestamp;
use kubenova_schema::signature::key_id;
use std::fmt;

/// A key that can be rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotatedKey {
    /// Root and issuing CA.
    Ca,
    /// The key that signs commands.
    Command,
    /// The key of account EDGE that signs the users of clusters.
    ClusterSigner,
}

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationState {
    /// There is one key.
    Settled,
    /// The new key is made and not in use: the servers of the broker must know it first.
    Prepared,
    /// The new key is in use, the former one still counts.
    Overlapping,
}

/// What is written.
#[derive(Debug, Default)]
pub struct KeyChanges {
    /// Names of keys that are deleted.
    pub remove: Vec<String>,
    /// Keys that are added, or take the place of those of the same names.
    pub put: Vec<StoredKey>,
}

impl KeyChanges {
    /// The keys as they are after these changes.
    #[must_use]
    pub fn applied_to(self, keys: Vec<StoredKey>) -> Vec<StoredKey> {
        let stays =
            |key: &StoredKey| !self.remove.contains(&key.name) && self.put.iter().all(|put| put.name != key.name);
        let mut left: Vec<StoredKey> = keys.into_iter().filter(stays).collect();
        left.extend(self.put);
        left
    }
}

/// Why a step cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The former key of the last rotation still counts.
    #[error("the last rotation of {0} is not finished: `kubenova-manager keys retire {0}` ends it")]
    Unfinished(RotatedKey),
    /// There is no former key.
    #[error(
        "nothing to retire: {0} has no former key that still counts; `kubenova-manager keys rotate {0}` makes a new one"
    )]
    NothingToRetire(RotatedKey),
    /// A key cannot be read or made.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl RotatedKey {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ca, Self::Command, Self::ClusterSigner];

    /// Its name on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Command => "command",
            Self::ClusterSigner => "cluster-signer",
        }
    }

    /// What it is, in a few words.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Ca => "Root and issuing CA",
            Self::Command => "The key that signs commands",
            Self::ClusterSigner => "The key that signs clusters' users of the broker",
        }
    }

    /// The row whose time is that of the last rotation.
    #[must_use]
    pub const fn row(self) -> &'static str {
        match self {
            Self::Ca => ROOT,
            Self::Command => COMMAND,
            Self::ClusterSigner => NatsIdentity::EdgeCluster.as_str(),
        }
    }

    /// How far its rotation is.
    #[must_use]
    pub fn state(self, keys: &[StoredKey]) -> RotationState {
        let has = |name: &str| keys.iter().any(|key| key.name == name);
        let former = match self {
            Self::Ca => CROSS,
            Self::Command => COMMAND_PREVIOUS,
            Self::ClusterSigner => CLUSTER_SIGNER_PREVIOUS,
        };
        if has(former) {
            RotationState::Overlapping
        } else if self == Self::ClusterSigner && has(CLUSTER_SIGNER_NEXT) {
            RotationState::Prepared
        } else {
            RotationState::Settled
        }
    }
}

impl fmt::Display for RotatedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A new key beside the present one. A cluster signer is only prepared; [`promote`] puts it into use. Repeated then, it changes nothing.
///
/// # Errors
/// While the rotation before is not finished, or when a key cannot be made.
pub fn rotate(
    key: RotatedKey,
    keys: &[StoredKey],
    envelope: &Envelope,
    now: Timestamp,
) -> Result<KeyChanges, RotationError> {
    match key.state(keys) {
        RotationState::Overlapping => return Err(RotationError::Unfinished(key)),
        RotationState::Prepared => return Ok(KeyChanges::default()),
        RotationState::Settled => {}
    }
    let stored = Stored::new(keys, envelope);
    let sealed = |name: &str, public: String, secret: &[u8]| sealed(envelope, name, public, secret);
    let put = match key {
        RotatedKey::Ca => {
            let material = AuthorityMaterial::generate(now)?;
            let former = material.succeeding(&stored.identity(ROOT)?, now)?;
            let AuthorityMaterial { root, issuing } = material;
            vec![
                sealed(ROOT, root.chain_pem, root.key_pem.as_bytes()),
                sealed(ISSUING, issuing.chain_pem, issuing.key_pem.as_bytes()),
                sealed(CROSS, former.cross_pem, &[]),
                sealed(ROOT_PREVIOUS, former.root_pem, &[]),
            ]
        }
        RotatedKey::Command => {
            let (public, seed) = new_command_key()?;
            let former = stored.find(COMMAND)?.public.clone();
            vec![sealed(COMMAND_PREVIOUS, former, &stored.open(COMMAND)?), sealed(COMMAND, public, &seed)]
        }
        RotatedKey::ClusterSigner => {
            let (public, seed) = NatsIdentity::EdgeCluster.new_key()?;
            vec![sealed(CLUSTER_SIGNER_NEXT, public, seed.as_bytes())]
        }
    };
    Ok(KeyChanges { remove: Vec::new(), put })
}

/// The public key of a cluster signer that is prepared.
#[must_use]
pub fn prepared(keys: &[StoredKey]) -> Option<&str> {
    keys.iter().find(|key| key.name == CLUSTER_SIGNER_NEXT).map(|key| key.public.as_str())
}

/// The public key of the cluster signer before the last rotation, while it counts.
#[must_use]
pub fn former_cluster_signer(keys: &[StoredKey]) -> Option<&str> {
    keys.iter().find(|key| key.name == CLUSTER_SIGNER_PREVIOUS).map(|key| key.public.as_str())
}

/// Puts the prepared cluster signer into use. None when none is prepared.
///
/// # Errors
/// When a key cannot be read.
pub fn promote(keys: &[StoredKey], envelope: &Envelope) -> Result<Option<KeyChanges>, RotationError> {
    if RotatedKey::ClusterSigner.state(keys) != RotationState::Prepared {
        return Ok(None);
    }
    let stored = Stored::new(keys, envelope);
    let current = NatsIdentity::EdgeCluster.as_str();
    let moved = |from: &'static str, to: &str| -> Result<StoredKey, TrustError> {
        Ok(sealed(envelope, to, stored.find(from)?.public.clone(), &stored.open(from)?))
    };
    let put = vec![moved(current, CLUSTER_SIGNER_PREVIOUS)?, moved(CLUSTER_SIGNER_NEXT, current)?];
    Ok(Some(KeyChanges { remove: vec![CLUSTER_SIGNER_NEXT.to_owned()], put }))
}

/// Ends that the former key counts, and deletes its private half. The public half of a command key stays: what it signed lies in clusters.
///
/// # Errors
/// When there is no former key.
pub fn retire(key: RotatedKey, keys: &[StoredKey], envelope: &Envelope) -> Result<KeyChanges, RotationError> {
    if key.state(keys) != RotationState::Overlapping {
        return Err(RotationError::NothingToRetire(key));
    }
    Ok(match key {
        RotatedKey::Ca => KeyChanges { remove: [CROSS, ROOT_PREVIOUS].map(str::to_owned).to_vec(), put: Vec::new() },
        RotatedKey::Command => {
            let public = Stored::new(keys, envelope).find(COMMAND_PREVIOUS)?.public.clone();
            let bytes = data_encoding::BASE64.decode(public.as_bytes());
            let id = key_id(&bytes.map_err(|_| TrustError::DamagedKey(COMMAND_PREVIOUS))?);
            let retired = sealed(envelope, &format!("{COMMAND_RETIRED_PREFIX}{id}"), public, &[]);
            KeyChanges { remove: vec![COMMAND_PREVIOUS.to_owned()], put: vec![retired] }
        }
        RotatedKey::ClusterSigner => KeyChanges { remove: vec![CLUSTER_SIGNER_PREVIOUS.to_owned()], put: Vec::new() },
    })
}

fn sealed(envelope: &Envelope, name: &str, public: String, secret: &[u8]) -> StoredKey {
    StoredKey { name: name.to_owned(), public, sealed: envelope.seal(place(name), secret) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authority::Validity,
        keyring::{Keyring, make_missing},
        nats::Revocations,
    };
    use kubenova_schema::signature::{AcceptedKeys, PayloadType};
    use std::{
        collections::{BTreeMap, BTreeSet},
        time::Duration,
    };

    struct Keys {
        stored: Vec<StoredKey>,
        envelope: Envelope,
    }

    impl Keys {
        fn new() -> Self {
            let envelope = Envelope::from_bytes(&[3; 32]).unwrap();
            Self { stored: make_missing(&BTreeSet::new(), &envelope, now()).unwrap(), envelope }
        }

        fn ring(&self) -> Keyring {
            Keyring::open(&self.stored, &self.envelope, "kubenova.test").unwrap()
        }

        fn apply(&mut self, changes: KeyChanges) {
            self.stored = changes.applied_to(std::mem::take(&mut self.stored));
        }

        fn rotate(&mut self, key: RotatedKey) {
            self.apply(rotate(key, &self.stored, &self.envelope, now()).unwrap());
        }

        fn retire(&mut self, key: RotatedKey) {
            self.apply(retire(key, &self.stored, &self.envelope).unwrap());
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn a_rotation_is_finished_before_the_next_one_begins() {
        for key in [RotatedKey::Ca, RotatedKey::Command] {
            let mut keys = Keys::new();
            let nothing = retire(key, &keys.stored, &keys.envelope).unwrap_err();
            assert!(matches!(nothing, RotationError::NothingToRetire(_)), "{nothing}");
            let ids = [
                keys.ring().key_set_id,
                {
                    keys.rotate(key);
                    keys.ring().key_set_id
                },
                {
                    let again = rotate(key, &keys.stored, &keys.envelope, now()).unwrap_err();
                    assert!(matches!(again, RotationError::Unfinished(_)), "{again}");
                    keys.retire(key);
                    keys.ring().key_set_id
                },
            ];
            assert_eq!(BTreeSet::from(ids).len(), 3, "each step asks clusters for a renewal: {key}");
            keys.rotate(key);
        }
    }

    #[test]
    fn what_the_former_command_key_signed_is_known_after_its_private_half_is_gone() {
        let mut keys = Keys::new();
        let old = keys.ring();
        let signature = old.command.sign(PayloadType::Command, b"{}");
        keys.rotate(RotatedKey::Command);
        let both = keys.ring().command.sign(PayloadType::Command, b"{}");
        let accepted = AcceptedKeys::of(&old.command.public());
        assert_eq!(accepted.verify(PayloadType::Command, b"{}", Some(&both)), Ok(()));
        keys.retire(RotatedKey::Command);
        let new = keys.ring();
        assert!(
            accepted.verify(PayloadType::Command, b"{}", Some(&new.command.sign(PayloadType::Command, b"{}"))).is_err()
        );
        assert_eq!(new.command.ever_accepted().verify(PayloadType::Command, b"{}", Some(&signature)), Ok(()));
        let retired = keys.stored.iter().find(|key| key.name.starts_with(COMMAND_RETIRED_PREFIX)).unwrap();
        assert_eq!(keys.envelope.open(place(&retired.name), &retired.sealed).unwrap(), Vec::<u8>::new());
    }

    #[test]
    fn a_root_leaves_no_private_half_behind() {
        let mut keys = Keys::new();
        let root = keys.ring().authority.bundle_pem().to_owned();
        keys.rotate(RotatedKey::Ca);
        assert!(keys.ring().authority.bundle_pem().ends_with(&root));
        for name in [CROSS, ROOT_PREVIOUS] {
            let stored = keys.stored.iter().find(|key| key.name == name).unwrap();
            assert_eq!(keys.envelope.open(place(name), &stored.sealed).unwrap(), Vec::<u8>::new());
        }
        keys.retire(RotatedKey::Ca);
        assert!(!keys.ring().authority.bundle_pem().contains(&root));
    }

    #[test]
    fn a_cluster_signer_signs_once_the_account_names_it() {
        let mut keys = Keys::new();
        let edge = |keys: &Keys| {
            let accounts = keys.ring().nkeys.account_jwts(&Revocations::default(), &BTreeMap::new(), now()).unwrap();
            accounts.into_iter().find(|account| account.name == "EDGE").unwrap().signed.claims_sha256
        };
        let (old, settled) = (keys.ring(), edge(&keys));
        assert!(promote(&keys.stored, &keys.envelope).unwrap().is_none());
        keys.rotate(RotatedKey::ClusterSigner);
        let named = edge(&keys);
        assert_ne!(named, settled);
        assert_eq!(keys.ring().key_set_id, old.key_set_id, "nothing is signed with it yet");
        keys.rotate(RotatedKey::ClusterSigner);
        assert_eq!(edge(&keys), named, "the one that is prepared stays");
        let next = prepared(&keys.stored).unwrap().to_owned();
        let promoted = promote(&keys.stored, &keys.envelope).unwrap().unwrap();
        keys.apply(promoted);
        assert_eq!(edge(&keys), named, "the servers need no other JWT");
        let ring = keys.ring();
        assert_ne!(ring.key_set_id, old.key_set_id);
        assert_eq!(ring.nkeys.public(NatsIdentity::EdgeCluster), next);
        let (user, _) = NatsIdentity::OpsUser.new_key().unwrap();
        let validity = Validity { now: now(), lifetime: Duration::from_secs(60) };
        assert!(ring.nkeys.cluster_user("c0123456789abcdefghjkmnpqrs", &user, validity).is_ok());
        let unfinished = rotate(RotatedKey::ClusterSigner, &keys.stored, &keys.envelope, now());
        assert!(matches!(unfinished, Err(RotationError::Unfinished(_))));
        keys.retire(RotatedKey::ClusterSigner);
        assert_ne!(edge(&keys), named);
    }
}
