//! The envelope of secrets at rest: AES-256-GCM-SIV under a key-encryption key from a file.
//!
//! Guarantees: what was sealed for one table, row and column opens nowhere else, and each sealed value names the key it
//! needs, so that keys can be rotated by re-wrapping. Sealed form: version byte 1, nonce (12), ciphertext with tag.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, Nonce, RandomizedNonceKey};
use kubenova_schema::signature::sha256_hex;
use std::path::Path;

const VERSION: u8 = 1;
const NONCE_LENGTH: usize = 12;
const KEY_LENGTH: usize = 32;

/// Why a value could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The file is missing or not readable.
    #[error(
        "could not read the key-encryption key {path}: `kubenova-manager init` creates it, or restore it from your backup"
    )]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("key-encryption key {path} is not 32 bytes in base64: restore it from your backup")]
    Malformed {
        /// Which file.
        path: String,
    },
    /// Sealed with another key-encryption key.
    #[error(
        "value was sealed with key-encryption key {sealed_with}, but the configured one is {configured}: set kekFile to that key"
    )]
    OtherKey {
        /// The key it needs.
        sealed_with: String,
        /// The configured key.
        configured: String,
    },
    /// Altered, or moved from another place.
    #[error("the sealed value of {0} does not open: it was altered or belongs to another row")]
    DoesNotOpen(String),
}

/// Where a sealed value lives. Part of what is authenticated.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The table.
    pub table: &'a str,
    /// The row's key.
    pub row: &'a str,
    /// The column.
    pub column: &'a str,
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.table, self.row, self.column)
    }
}

/// A sealed value with the id of the key it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Id of the key-encryption key.
    pub key_id: String,
    /// Version, nonce, ciphertext and tag.
    pub bytes: Vec<u8>,
}

/// A key-encryption key.
pub struct Envelope {
    key: RandomizedNonceKey,
    id: String,
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Envelope({})", self.id)
    }
}

impl Envelope {
    /// From a file with 32 bytes in base64.
    ///
    /// # Errors
    /// When the file is not readable or holds something else.
    pub fn from_file(path: &Path) -> Result<Self, EnvelopeError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| EnvelopeError::Unreadable { path: shown.clone(), source })?;
        let bytes = data_encoding::BASE64.decode(text.trim().as_bytes()).unwrap_or_default();
        Self::from_bytes(&bytes).ok_or(EnvelopeError::Malformed { path: shown })
    }

    /// From 32 bytes; none when it is another number.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != KEY_LENGTH {
            return None;
        }
        let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, bytes).ok()?;
        // A hash of the key with its purpose in front says which key it is and nothing about it.
        let id = sha256_hex(&[b"kubenova key-encryption key id".as_slice(), bytes].concat()).chars().take(16).collect();
        Some(Self { key, id })
    }

    /// The key's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Seals a value for its place.
    ///
    /// # Panics
    /// When the operating system has no randomness: nothing safe can be done then.
    #[must_use]
    pub fn seal(&self, place: Place<'_>, value: &[u8]) -> Sealed {
        let mut ciphertext = value.to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(place.to_string()), &mut ciphertext)
            .expect("sealing fails only without randomness or beyond 64 GiB");
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(nonce.as_ref());
        bytes.extend_from_slice(&ciphertext);
        Sealed { key_id: self.id.clone(), bytes }
    }

    /// Opens a value at its place.
    ///
    /// # Errors
    /// When it needs another key, was altered, or was sealed for another place.
    pub fn open(&self, place: Place<'_>, sealed: &Sealed) -> Result<Vec<u8>, EnvelopeError> {
        if sealed.key_id != self.id {
            return Err(EnvelopeError::OtherKey { sealed_with: sealed.key_id.clone(), configured: self.id.clone() });
        }
        let fails = || EnvelopeError::DoesNotOpen(place.to_string());
        let (version, rest) = sealed.bytes.split_first().ok_or_else(fails)?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_LENGTH).ok_or_else(fails)?;
        if *version != VERSION {
            return Err(fails());
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| fails())?;
        let mut buffer = ciphertext.to_vec();
        let opened = self.key.open_in_place(nonce, Aad::from(place.to_string()), &mut buffer).map_err(|_| fails())?;
        Ok(opened.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place<'_> = Place { table: "keys", row: "a", column: "sealed" };

    #[test]
    fn opens_at_its_place_only_and_only_unaltered() {
        let envelope = Envelope::from_bytes(&[1; 32]).unwrap();
        let sealed = envelope.seal(HERE, b"hush");
        assert_eq!(envelope.open(HERE, &sealed).unwrap(), b"hush");
        assert!(matches!(envelope.open(Place { row: "b", ..HERE }, &sealed), Err(EnvelopeError::DoesNotOpen(_))));
        for at in 0..sealed.bytes.len() {
            let mut altered = sealed.clone();
            altered.bytes[at] ^= 1;
            assert!(envelope.open(HERE, &altered).is_err(), "byte {at}");
        }
        let other = Envelope::from_bytes(&[2; 32]).unwrap();
        assert!(matches!(other.open(HERE, &sealed), Err(EnvelopeError::OtherKey { .. })));
        assert_ne!(envelope.seal(HERE, b"hush").bytes, sealed.bytes, "each sealing has its own nonce");
    }

    #[test]
    fn a_file_of_another_length_is_no_key() {
        assert!(Envelope::from_bytes(&[1; 31]).is_none());
        assert!(matches!(Envelope::from_file(Path::new("/does/not/exist")), Err(EnvelopeError::Unreadable { .. })));
    }
}
