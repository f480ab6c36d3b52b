//! The keys that sign commands, receipts, and answers to hellos and renewals.
//!
//! During a rotation everything is signed with two keys: a cluster that does not have the new one yet verifies the other signature, so no
//! command waits for a cluster to learn it.

use kubenova_schema::{
    enrollment::PublicKey,
    mutant,
    signature::{AcceptedKeys, PayloadType, SigningKey},
};

/// The signing key, the one before it while a rotation is not finished, and what is known of earlier ones.
#[derive(Debug)]
pub struct CommandKeys {
    pub(crate) current: SigningKey,
    pub(crate) previous: Option<SigningKey>,
    /// Public keys, base64, whose private halves no longer exist. What they signed may still lie in clusters.
    pub(crate) retired: Vec<String>,
}

impl CommandKeys {
    /// The header's value for this body.
    #[must_use]
    pub fn sign(&self, payload_type: PayloadType, body: &[u8]) -> String {
        let signature = self.current.sign(payload_type, body);
        match &self.previous {
            _ if mutant::is_on("rotation.one-signature") => signature,
            Some(previous) => format!("{signature},{}", previous.sign(payload_type, body)),
            None => signature,
        }
    }

    /// What clusters accept: the signing key, and during a rotation the one before it.
    #[must_use]
    pub fn public(&self) -> Vec<PublicKey> {
        std::iter::once(&self.current).chain(&self.previous).map(public_key).collect()
    }

    /// What the Manager once signed is verified with all keys that it ever had.
    #[must_use]
    pub fn ever_accepted(&self) -> AcceptedKeys {
        let public = self.public();
        let keys = public.iter().map(|key| key.public_key.as_str());
        AcceptedKeys::of_public_keys(keys.chain(self.retired.iter().map(String::as_str)))
    }
}

fn public_key(key: &SigningKey) -> PublicKey {
    PublicKey { key_id: key.id().to_owned(), public_key: data_encoding::BASE64.encode(&key.public_key()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32]).unwrap()
    }

    #[test]
    fn during_a_rotation_whoever_knows_one_of_the_two_keys_verifies() {
        let retired = vec![public_key(&key(1)).public_key];
        let keys = CommandKeys { current: key(3), previous: Some(key(2)), retired };
        let signature = keys.sign(PayloadType::Command, b"{}");
        let verifies =
            |keys: &[PublicKey]| AcceptedKeys::of(keys).verify(PayloadType::Command, b"{}", Some(&signature)).is_ok();
        assert!([2, 3].iter().all(|seed| verifies(&[public_key(&key(*seed))])));
        assert!(!verifies(&[public_key(&key(1))]));
        assert_eq!(keys.public(), [3, 2].map(|seed| public_key(&key(seed))));
        for seed in [1, 2, 3] {
            let old = key(seed).sign(PayloadType::Command, b"{}");
            assert_eq!(keys.ever_accepted().verify(PayloadType::Command, b"{}", Some(&old)), Ok(()));
        }
        let finished = CommandKeys { current: key(3), previous: None, retired: Vec::new() };
        assert!(!finished.sign(PayloadType::Command, b"{}").contains(','));
    }
}
