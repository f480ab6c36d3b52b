//! Who this cluster is: keys made here, and the Manager's answer about them, stored in the Secret `kubenova-identity`.
//!
//! Keys are stored before they are sent to the Manager, so that a lost answer can be requested again with the same keys.
//! A new token makes new keys beside the present ones; they replace them only once the answer is stored.

use crate::apiserver::{Error, client::Apiserver, verbs};
use data_encoding::BASE64;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, api::ObjectMeta};
use kubenova_operator_core::{record::RecordVerifier, renewal::CredentialsLife};
use kubenova_schema::{
    enrollment::{EnrollmentAnswer, PublicKey},
    fingerprint::fingerprint,
    sealing::{self, SealingKey},
    signature::{AcceptedKeys, PayloadType, nkey_encoding, sha256_hex},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The Secret's name.
pub const SECRET: &str = "kubenova-identity";
const CURRENT: &str = "current.json";
const PENDING: &str = "pending.json";

/// Private keys, and the token and cluster they were made for.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Keys {
    /// Hex SHA-256 of the token's text: another token is another enrollment.
    pub token_sha256: String,
    /// UID of kube-system when they were made: a restored copy elsewhere is another cluster.
    pub cluster_uid: String,
    /// Private key of the client certificate, PEM.
    pub tls_key_pem: String,
    /// Seed of the user nkey, `SU...`.
    pub nkey_seed: String,
    /// Private half of the sealing key, 32 bytes in base64.
    pub sealing_key: String,
}

/// Keys with the Manager's answer about them.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The private halves.
    pub keys: Keys,
    /// What the Manager answered.
    pub answer: EnrollmentAnswer,
    /// Command keys of earlier answers, newest first: what they signed may be stored and wanted still. Nothing that arrives is
    /// verified with them.
    pub former_command_keys: Vec<PublicKey>,
}

/// Former command keys that are kept. A key is replaced once in years, unless it was stolen.
const FORMER_KEYS_MAX: usize = 8;

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("cluster_uid", &self.cluster_uid).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("cluster_id", &self.answer.cluster_id)
            .field("incarnation", &self.answer.incarnation)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// This cluster's id.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.answer.cluster_id
    }

    /// The life of its credentials; none when this version cannot read it.
    #[must_use]
    pub fn life(&self) -> Option<CredentialsLife> {
        CredentialsLife::parse(&self.answer.issued_at, &self.answer.expires_at)
    }

    /// UID of its kube-system namespace.
    #[must_use]
    pub fn cluster_uid(&self) -> &str {
        &self.keys.cluster_uid
    }

    /// Whether another one is of the same enrollment, perhaps with renewed credentials.
    #[must_use]
    pub fn is_same_incarnation(&self, other: &Self) -> bool {
        self.keys.nkey_seed == other.keys.nkey_seed
            && (&self.answer.cluster_id, &self.answer.incarnation)
                == (&other.answer.cluster_id, &other.answer.incarnation)
    }

    /// Whether another one is this very one.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.is_same_incarnation(other) && self.answer.certificate_chain_pem == other.answer.certificate_chain_pem
    }

    /// The keys whose commands are accepted. They came over the pinned connection; the broker cannot change them.
    #[must_use]
    pub fn command_keys(&self) -> AcceptedKeys {
        AcceptedKeys::of(&self.answer.command_keys)
    }

    /// What inbox records are verified with before they are carried out.
    #[must_use]
    pub fn record_verifier(&self) -> RecordVerifier {
        let keys: Vec<PublicKey> = self.answer.command_keys.iter().chain(&self.former_command_keys).cloned().collect();
        RecordVerifier {
            keys: AcceptedKeys::of(&keys),
            cluster_id: self.cluster_id().to_owned(),
            cluster_uid: self.cluster_uid().to_owned(),
        }
    }

    /// A new identity in the place of an earlier one, whose command keys it remembers.
    #[must_use]
    pub fn replacing(former: Option<&Self>, keys: Keys, answer: EnrollmentAnswer) -> Self {
        let earlier = former.iter().flat_map(|it| it.answer.command_keys.iter().chain(&it.former_command_keys));
        let mut former_command_keys: Vec<PublicKey> = Vec::new();
        for key in earlier {
            if !answer.command_keys.contains(key) && !former_command_keys.contains(key) {
                former_command_keys.push(key.clone());
            }
        }
        former_command_keys.truncate(FORMER_KEYS_MAX);
        Self { keys, answer, former_command_keys }
    }
}

/// Keys could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The TLS key or its signing request.
    #[error("could not make the TLS key")]
    Tls(#[source] rcgen::Error),
    /// The nkey.
    #[error("could not make the nkey")]
    Nkey(#[source] nkeys::error::Error),
    /// The stored sealing key is none.
    #[error("could not read the sealing key")]
    Sealing,
}

impl Keys {
    /// Makes new keys.
    pub fn make(token: &str, cluster_uid: &str) -> Result<Self, MakeError> {
        let seed = kubenova_runtime::random::bytes::<32>();
        let nkey = nkeys::KeyPair::new_from_raw(nkeys::KeyPairType::User, seed).map_err(MakeError::Nkey)?;
        Ok(Self {
            token_sha256: sha256_hex(token.trim().as_bytes()),
            cluster_uid: cluster_uid.to_owned(),
            tls_key_pem: new_tls_key()?,
            nkey_seed: nkey.seed().map_err(MakeError::Nkey)?,
            sealing_key: BASE64.encode(&kubenova_runtime::random::bytes::<{ sealing::KEY_BYTES }>()),
        })
    }

    /// The same identity with a new key for its certificate.
    pub fn with_new_tls_key(&self) -> Result<Self, MakeError> {
        Ok(Self { tls_key_pem: new_tls_key()?, ..self.clone() })
    }

    /// The public key that its certificate must have, DER; none when the private one cannot be read.
    #[must_use]
    pub fn csr_key(&self) -> Option<Vec<u8>> {
        rcgen::KeyPair::from_pem(&self.tls_key_pem).ok().map(|key| rcgen::PublicKeyData::subject_public_key_info(&key))
    }

    /// What an administrator compares before approving these keys; none when the private ones cannot be read.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        Some(fingerprint(&sha256_hex(&self.csr_key()?), &self.nkey_public().ok()?))
    }

    /// `<public nkey>:<base64>` over a body.
    pub fn sign(&self, payload_type: PayloadType, body: &[u8]) -> Result<String, MakeError> {
        nkey_signature(&self.nkey_seed, payload_type, body).map_err(MakeError::Nkey)
    }

    /// The certificate signing request. The Manager uses nothing of it but the public key.
    pub fn csr_pem(&self) -> Result<String, MakeError> {
        let key = rcgen::KeyPair::from_pem(&self.tls_key_pem).map_err(MakeError::Tls)?;
        let parameters = rcgen::CertificateParams::new(Vec::<String>::new()).map_err(MakeError::Tls)?;
        parameters.serialize_request(&key).and_then(|request| request.pem()).map_err(MakeError::Tls)
    }

    /// The public half of the sealing key, signed for this cluster.
    pub fn sealing_public(&self, cluster_id: &str) -> Result<SealingKey, MakeError> {
        let private = BASE64.decode(self.sealing_key.as_bytes()).unwrap_or_default();
        let public_key = sealing::public_key(&private).ok_or(MakeError::Sealing)?;
        let statement = sealing::statement(cluster_id, &self.cluster_uid, &public_key);
        let signature = self.sign(PayloadType::SealingKey, statement.as_bytes())?;
        Ok(SealingKey { public_key, signature })
    }

    /// The public nkey, `U...`.
    pub fn nkey_public(&self) -> Result<String, MakeError> {
        Ok(nkeys::KeyPair::from_seed(&self.nkey_seed).map_err(MakeError::Nkey)?.public_key())
    }
}

/// A private key for a certificate, PEM.
fn new_tls_key() -> Result<String, MakeError> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(MakeError::Tls)?;
    Ok(key.serialize_pem())
}

/// `<public nkey>:<base64>` over a body, by the nkey with this seed.
pub fn nkey_signature(seed: &str, payload_type: PayloadType, body: &[u8]) -> Result<String, nkeys::error::Error> {
    let pair = nkeys::KeyPair::from_seed(seed)?;
    let signature = pair.sign(&nkey_encoding(payload_type, body))?;
    Ok(format!("{}:{}", pair.public_key(), BASE64.encode(&signature)))
}

/// What the Secret holds.
#[derive(Debug, Default)]
pub struct StoredIdentity {
    /// The identity in use.
    pub current: Option<Identity>,
    /// Keys waiting for an answer.
    pub pending: Option<Keys>,
    secret: Option<Secret>,
}

/// The Secret with the identity.
#[derive(Debug, Clone)]
pub struct IdentityStore(Api<Secret>);

impl IdentityStore {
    #[must_use]
    pub fn new(apiserver: &Apiserver, namespace: &str) -> Self {
        Self(Api::namespaced(apiserver.client(), namespace))
    }

    /// Reads the Secret. An entry that cannot be decoded counts as absent: enrolling again replaces it.
    pub async fn read(&self) -> Result<StoredIdentity, Error> {
        let secret = verbs::get(&self.0, SECRET).await?;
        let current = part(secret.as_ref(), CURRENT);
        let pending = part(secret.as_ref(), PENDING);
        Ok(StoredIdentity { current, pending, secret })
    }

    /// Stores keys before they are sent to the Manager.
    pub async fn store_pending(&self, stored: StoredIdentity, keys: Keys) -> Result<StoredIdentity, Error> {
        self.write(StoredIdentity { pending: Some(keys), ..stored }).await
    }

    /// Stores the Manager's answer; the pending keys become the current ones.
    pub async fn store_answer(&self, stored: StoredIdentity, identity: Identity) -> Result<StoredIdentity, Error> {
        self.write(StoredIdentity { current: Some(identity), pending: None, ..stored }).await
    }

    /// Stores renewed credentials. Keys that wait for an answer go on waiting.
    pub async fn store_renewed(&self, stored: StoredIdentity, identity: Identity) -> Result<StoredIdentity, Error> {
        self.write(StoredIdentity { current: Some(identity), ..stored }).await
    }

    async fn write(&self, stored: StoredIdentity) -> Result<StoredIdentity, Error> {
        let mut data = stored.secret.as_ref().and_then(|secret| secret.data.clone()).unwrap_or_default();
        // What cannot be decoded, perhaps of a later version, stays until it is replaced.
        put(&mut data, CURRENT, stored.current.as_ref());
        data.remove(PENDING);
        put(&mut data, PENDING, stored.pending.as_ref());
        let written = match stored.secret {
            Some(mut secret) => {
                secret.data = Some(data);
                verbs::replace(&self.0, &secret).await?
            }
            None => {
                let metadata = ObjectMeta { name: Some(SECRET.to_owned()), ..ObjectMeta::default() };
                verbs::create(&self.0, &Secret { metadata, data: Some(data), ..Secret::default() }).await?
            }
        };
        Ok(StoredIdentity { current: stored.current, pending: stored.pending, secret: Some(written) })
    }
}

fn part<T: serde::de::DeserializeOwned>(secret: Option<&Secret>, name: &str) -> Option<T> {
    let bytes = secret?.data.as_ref()?.get(name)?;
    serde_json::from_slice(&bytes.0).ok()
}

fn put<T: Serialize>(data: &mut BTreeMap<String, ByteString>, name: &str, value: Option<&T>) {
    if let Some(bytes) = value.and_then(|value| serde_json::to_vec(value).ok()) {
        data.insert(name.to_owned(), ByteString(bytes));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use kubenova_schema::signature::{SigningKey, verify_nkey};

    pub(in crate::join) fn answer(command_keys: &[u8]) -> EnrollmentAnswer {
        let key = |seed: &u8| {
            let key = SigningKey::from_seed(&[*seed; 32]).unwrap();
            PublicKey { key_id: key.id().to_owned(), public_key: BASE64.encode(&key.public_key()) }
        };
        EnrollmentAnswer {
            cluster_id: "c1".into(),
            incarnation: "1".into(),
            epoch: 1,
            certificate_chain_pem: String::new(),
            user_jwt: String::new(),
            broker_urls: Vec::new(),
            leaf_urls: Vec::new(),
            ca_bundle_pem: String::new(),
            command_keys: command_keys.iter().map(key).collect(),
            key_set_id: String::new(),
            endpoints: Vec::new(),
            issued_at: String::new(),
            expires_at: String::new(),
            manager_time: String::new(),
        }
    }

    #[test]
    fn a_replaced_command_key_verifies_what_is_stored_and_nothing_that_arrives() {
        let keys = Keys::make("kn1.x", "uid").unwrap();
        let first = Identity::replacing(None, keys.clone(), answer(&[1, 2]));
        let second = Identity::replacing(Some(&first), keys.clone(), answer(&[2, 3]));
        let third = Identity::replacing(Some(&second), keys, answer(&[4]));
        let signed = |seed: u8| SigningKey::from_seed(&[seed; 32]).unwrap().sign(PayloadType::Command, b"{}");
        for seed in 1..=5 {
            let accepts = |keys: &AcceptedKeys| keys.verify(PayloadType::Command, b"{}", Some(&signed(seed))).is_ok();
            assert_eq!(accepts(&third.command_keys()), seed == 4, "{seed}");
            assert_eq!(accepts(&third.record_verifier().keys), seed <= 4, "{seed}");
        }
        assert_eq!(third.former_command_keys.len(), 3, "each once");
    }

    #[test]
    fn a_body_is_signed_with_the_nkey_under_its_own_payload_type() {
        let keys = Keys::make("kn1.x", "uid").unwrap();
        let nkey = keys.nkey_public().unwrap();
        let signature = keys.sign(PayloadType::Usage, b"manifest").unwrap();
        assert_eq!(verify_nkey(PayloadType::Usage, b"manifest", &signature), Ok(nkey.as_str()));
        for (payload_type, body) in [(PayloadType::Renewal, &b"manifest"[..]), (PayloadType::Usage, b"other")] {
            assert!(verify_nkey(payload_type, body, &signature).is_err());
        }
    }

    #[test]
    fn keys_make_a_request_and_show_no_private_half() {
        let keys = Keys::make("kn1.x", "uid").unwrap();
        assert!(keys.csr_pem().unwrap().contains("BEGIN CERTIFICATE REQUEST"));
        assert!(keys.nkey_public().unwrap().starts_with('U'));
        let shown = format!("{keys:?}");
        assert!(!shown.contains(&keys.nkey_seed) && !shown.contains("PRIVATE") && !shown.contains(&keys.sealing_key));
        let sealing = keys.sealing_public("c1").unwrap();
        assert_eq!(sealing.verify("c1", "uid", &keys.nkey_public().unwrap()), Ok(()));
        assert_ne!(sealing.public_key, keys.sealing_key);
    }
}
