//! Signatures over exact bytes: Ed25519 over DSSE's pre-authentication encoding of (payload type, body); by a cluster's nkey with a byte
//! before it ([`nkey_encoding`]).
//!
//! Each thing that is signed has its own payload type, so that a signature over one cannot be used for another.
//! Header form: `Kn-Signature: <key id>:<base64>`; while a key is rotated two of them, separated by a comma. Other headers are informative and decide nothing.

use crate::mutant;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use data_encoding::{BASE32_NOPAD, BASE64, HEXLOWER};

/// Header that carries the signature of a message's body.
pub const HEADER: &str = "Kn-Signature";
/// Header with the command's id, informative.
pub const COMMAND_ID_HEADER: &str = "Kn-Command-Id";
/// Header with the message's type and version, informative.
pub const SCHEMA_HEADER: &str = "Kn-Schema";

/// Checks a signature made with a cluster's nkey, `<public nkey>:<base64>`, over a body; the public nkey. Whether that nkey may sign it
/// is for the caller to know.
///
/// # Errors
/// When it is malformed or does not fit.
pub fn verify_nkey<'a>(payload_type: PayloadType, body: &[u8], signature: &'a str) -> Result<&'a str, SignatureError> {
    let (nkey, encoded) = signature.split_once(':').ok_or(SignatureError::Malformed)?;
    // The text of an nkey: a byte for its kind, 32 for the key, two of checksum.
    let bytes = BASE32_NOPAD.decode(nkey.as_bytes()).map_err(|_| SignatureError::Malformed)?;
    let key = bytes.get(1..33).filter(|_| bytes.len() == 35).ok_or(SignatureError::Malformed)?;
    let id = key_id(key);
    let header = format!("{id}:{encoded}");
    AcceptedKeys::new([(id, key.to_vec())]).verify_bytes(&nkey_encoding(of_type(payload_type), body), Some(&header))?;
    Ok(nkey)
}

/// What a cluster's nkey signs: the encoding behind a byte that is in no UTF-8 text. The same key signs the nonce in a server's INFO at each
/// connect, and whoever plays the broker chooses that text: no nonce may be a message of ours.
#[must_use]
pub fn nkey_encoding(payload_type: PayloadType, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff];
    bytes.extend(pre_authentication_encoding(payload_type, body));
    bytes
}

/// What is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadType {
    /// A command's JSON.
    Command,
    /// A list of usage receipts.
    Receipt,
    /// A usage manifest's protobuf bytes; signed with the cluster's nkey.
    Usage,
    /// The answer to a hello.
    HelloAnswer,
    /// A request for new credentials; signed with the cluster's nkey.
    Renewal,
    /// The answer to it; signed with the command key.
    RenewalAnswer,
    /// The statement about a cluster's sealing key; signed with the cluster's nkey.
    SealingKey,
    /// A person's statement that tenants may be deleted; signed with the person's own key.
    DeletionStatement,
}

impl PayloadType {
    /// Its media type, for DSSE.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Command => "application/vnd.kubenova.command.v1+json",
            Self::Receipt => "application/vnd.kubenova.receipt.v1+json",
            Self::Usage => "application/vnd.kubenova.usage.v1+protobuf",
            Self::HelloAnswer => "application/vnd.kubenova.helloanswer.v1+json",
            Self::Renewal => "application/vnd.kubenova.renewal.v1+json",
            Self::RenewalAnswer => "application/vnd.kubenova.renewal-answer.v1+json",
            Self::SealingKey => "application/vnd.kubenova.sealing-key.v1+json",
            Self::DeletionStatement => "application/vnd.kubenova.deletion-statement.v1+json",
        }
    }
}

/// DSSE's pre-authentication encoding: the bytes that are signed.
#[must_use]
pub fn pre_authentication_encoding(payload_type: PayloadType, body: &[u8]) -> Vec<u8> {
    let name = payload_type.as_str();
    let mut bytes = format!("DSSEv1 {} {name} {} ", name.len(), body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn of_type(payload_type: PayloadType) -> PayloadType {
    if mutant::is_on("signature.any-type") { PayloadType::Receipt } else { payload_type }
}

/// Signatures of one header that are looked at: a rotation has two.
const SIGNATURES_MAX: usize = 4;

/// Why a signature was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No `Kn-Signature` header.
    #[error("the message has no Kn-Signature header")]
    Missing,
    /// Not `<key id>:<base64>`, nor a few of them.
    #[error("Kn-Signature is not of the form <key id>:<base64>[,<key id>:<base64>]")]
    Malformed,
    /// None of the keys is among the accepted ones.
    #[error("Kn-Signature names key \"{0}\", which is not accepted here")]
    UnknownKey(String),
    /// The bytes or the key are not the signed ones.
    #[error("Kn-Signature by key \"{0}\" does not fit the message")]
    Invalid(String),
}

/// A private key that signs commands and receipts. Its id is the first 16 hex digits of the public key's SHA-256.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    id: String,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

impl SigningKey {
    /// From a 32-byte seed.
    ///
    /// # Errors
    /// When the seed has another length.
    pub fn from_seed(seed: &[u8]) -> Result<Self, aws_lc_rs::error::KeyRejected> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)?;
        let id = key_id(pair.public_key().as_ref());
        Ok(Self { pair, id })
    }

    /// The key's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The 32 bytes of the public half.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    /// The header's value for this body.
    #[must_use]
    pub fn sign(&self, payload_type: PayloadType, body: &[u8]) -> String {
        let signature = self.pair.sign(&pre_authentication_encoding(payload_type, body));
        format!("{}:{}", self.id, BASE64.encode(signature.as_ref()))
    }
}

/// Id of an Ed25519 public key.
#[must_use]
pub fn key_id(public_key: &[u8]) -> String {
    sha256_hex(public_key).chars().take(16).collect()
}

/// Hex SHA-256, used for ids and comparisons.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

/// What a replay is compared by: SHA-256 of (kind, key, document).
#[must_use]
pub fn command_sha256(kind: &str, key: &str, document: &str) -> String {
    let mut bytes = Vec::new();
    for part in [kind, key, document] {
        bytes.extend_from_slice(part.len().to_string().as_bytes());
        bytes.push(b':');
        bytes.extend_from_slice(part.as_bytes());
    }
    sha256_hex(&bytes)
}

/// The public keys that are accepted at the moment: during a rotation two.
#[derive(Debug, Clone, Default)]
pub struct AcceptedKeys(Vec<(String, Vec<u8>)>);

impl AcceptedKeys {
    /// From pairs of key id and 32-byte public key. A pair whose id is not the key's own is dropped.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        Self(keys.into_iter().filter(|(id, key)| *id == key_id(key)).collect())
    }

    /// From 32-byte public keys in base64; what is none is left out.
    #[must_use]
    pub fn of_public_keys<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        let keys = keys.into_iter().filter_map(|key| BASE64.decode(key.trim().as_bytes()).ok());
        Self(keys.filter(|key| key.len() == 32).map(|key| (key_id(&key), key)).collect())
    }

    /// Checks a header's value against a body. Of several signatures one by an accepted key is enough: during a rotation the Manager signs
    /// with both keys, and a cluster knows at least one of them.
    ///
    /// # Errors
    /// When it is missing, malformed, by unknown keys only, or does not fit.
    pub fn verify(&self, payload_type: PayloadType, body: &[u8], header: Option<&str>) -> Result<(), SignatureError> {
        self.verify_bytes(&pre_authentication_encoding(of_type(payload_type), body), header)
    }

    fn verify_bytes(&self, signed: &[u8], header: Option<&str>) -> Result<(), SignatureError> {
        let signatures = read(header.ok_or(SignatureError::Missing)?)?;
        let mut invalid = None;
        for (id, signature) in &signatures {
            let Some((_, key)) = self.0.iter().find(|(known, _)| known == id) else { continue };
            let fits = UnparsedPublicKey::new(&ED25519, key).verify(signed, signature).is_ok();
            if fits || mutant::is_on("signature.unchecked") {
                return Ok(());
            }
            invalid = invalid.or_else(|| Some(SignatureError::Invalid((*id).to_owned())));
        }
        let ids = || signatures.iter().map(|(id, _)| *id).collect::<Vec<_>>().join(", ");
        Err(invalid.unwrap_or_else(|| SignatureError::UnknownKey(ids())))
    }
}

/// Ids and signatures of a header's value.
fn read(header: &str) -> Result<Vec<(&str, Vec<u8>)>, SignatureError> {
    if header.split(',').count() > SIGNATURES_MAX {
        return Err(SignatureError::Malformed);
    }
    let one = |text| read_one(text).ok_or(SignatureError::Malformed);
    header.split(',').map(one).collect()
}

fn read_one(text: &str) -> Option<(&str, Vec<u8>)> {
    let (id, encoded) = text.split_once(':')?;
    Some((id, BASE64.decode(encoded.as_bytes()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> SigningKey {
        SigningKey::from_seed(&[7; 32]).unwrap()
    }

    fn accepted() -> AcceptedKeys {
        AcceptedKeys::new([(key().id().to_owned(), key().public_key())])
    }

    proptest! {
        #[test]
        fn one_changed_byte_is_refused(body in proptest::collection::vec(any::<u8>(), 1..200), at in any::<prop::sample::Index>()) {
            let header = key().sign(PayloadType::Command, &body);
            prop_assert_eq!(accepted().verify(PayloadType::Command, &body, Some(&header)), Ok(()));
            let mut changed = body.clone();
            let index = at.index(changed.len());
            changed[index] ^= 1;
            prop_assert!(accepted().verify(PayloadType::Command, &changed, Some(&header)).is_err());
        }
    }

    #[test]
    fn a_signature_over_one_type_is_none_over_another() {
        let header = key().sign(PayloadType::Receipt, b"{}");
        assert!(accepted().verify(PayloadType::Command, b"{}", Some(&header)).is_err());
    }

    #[test]
    fn what_an_nkey_signs_is_no_text_and_so_no_nonce() {
        let pair = nkeys::KeyPair::new_user();
        let signed = |bytes: &[u8]| format!("{}:{}", pair.public_key(), BASE64.encode(&pair.sign(bytes).unwrap()));
        let ours = nkey_encoding(PayloadType::Renewal, b"{}");
        assert!(std::str::from_utf8(&ours).is_err());
        assert_eq!(verify_nkey(PayloadType::Renewal, b"{}", &signed(&ours)), Ok(pair.public_key().as_str()));
        // A false broker chose this as its nonce.
        let nonce = pre_authentication_encoding(PayloadType::Renewal, b"{}");
        assert!(verify_nkey(PayloadType::Renewal, b"{}", &signed(&nonce)).is_err());
    }

    #[test]
    fn each_way_to_be_wrong_has_its_own_error() {
        let check = |header: Option<&str>| accepted().verify(PayloadType::Command, b"{}", header);
        assert_eq!(check(None), Err(SignatureError::Missing));
        assert_eq!(check(Some("x")), Err(SignatureError::Malformed));
        assert_eq!(check(Some("x:!")), Err(SignatureError::Malformed));
        assert_eq!(check(Some("x:AAAA")), Err(SignatureError::UnknownKey("x".to_owned())));
        assert_eq!(check(Some("x:AAAA,y:AAAA")), Err(SignatureError::UnknownKey("x, y".to_owned())));
        assert_eq!(check(Some("x:AAAA,")), Err(SignatureError::Malformed));
        assert_eq!(check(Some(&["x:AAAA"; 5].join(","))), Err(SignatureError::Malformed), "each costs time");
    }

    #[test]
    fn of_two_signatures_one_by_an_accepted_key_is_enough_and_must_fit() {
        let other = SigningKey::from_seed(&[8; 32]).unwrap();
        let sign = |key: &SigningKey, body: &[u8]| key.sign(PayloadType::Command, body);
        let check = |header: &str| accepted().verify(PayloadType::Command, b"{}", Some(header));
        assert_eq!(check(&format!("{},{}", sign(&other, b"{}"), sign(&key(), b"{}"))), Ok(()));
        assert_eq!(check(&format!("{},{}", sign(&key(), b"{}"), sign(&other, b"{}"))), Ok(()));
        let unfit = check(&format!("{},{}", sign(&other, b"{}"), sign(&key(), b"[]")));
        assert_eq!(unfit, Err(SignatureError::Invalid(key().id().to_owned())));
    }
}
