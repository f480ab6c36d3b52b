//! What only the holder of one X25519 key can open: HPKE (RFC 9180) in base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and
//! ChaCha20Poly1305.
//!
//! Two kinds of keys are sealed to: a cluster's [sealing key](crate::sealing), and the recipient key of whoever asks for a credential,
//! which is made for one request and whose private half stays with the one who asked. What is sealed for one purpose and request opens for
//! no other: both are part of HPKE's `info`.

use data_encoding::BASE64;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem as _, OpModeR, OpModeS, Serializable as _};
use serde::{Deserialize, Serialize};

type Kem = X25519HkdfSha256;
type PublicKey = <Kem as hpke::Kem>::PublicKey;
type PrivateKey = <Kem as hpke::Kem>::PrivateKey;

/// What is sealed, so that one thing cannot be handed out for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A kubeconfig, to the recipient key of its request.
    Kubeconfig,
    /// The values of a tenant's Secret, to the sealing key of a cluster.
    Secret,
}

impl Purpose {
    /// Its media type.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Kubeconfig => "application/vnd.kubenova.kubeconfig.v1+yaml",
            Self::Secret => "application/vnd.kubenova.secret.v1+json",
        }
    }

    /// HPKE's `info`. The length of the media type is fixed by what it is, so that no other pair gives the same bytes.
    fn info(self, request: &str) -> Vec<u8> {
        [self.as_str().as_bytes(), &[0], request.as_bytes()].concat()
    }
}

/// Sealed bytes, as they are sent and stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sealed {
    /// HPKE's encapsulated key: 32 bytes, base64.
    pub encapsulated_key: String,
    /// Ciphertext and tag, base64.
    pub ciphertext: String,
}

/// Why nothing was sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealedError {
    /// The recipient's key.
    #[error("the recipient's key is not an X25519 public key: 32 bytes in base64, not of low order")]
    Recipient,
    /// The private key.
    #[error("the private key is not an X25519 private key: 32 bytes")]
    Private,
    /// The message's own form.
    #[error("encapsulatedKey and ciphertext are not base64 of what HPKE makes")]
    Malformed,
    /// Of another key, another purpose or another request, or changed on its way.
    #[error("it was not sealed to this key for this purpose and request, or it was changed since")]
    NotForThis,
}

/// A new key for one request: the private half, and the public half in base64, as `recipientKey` has it.
#[must_use]
pub fn new_recipient() -> (Vec<u8>, String) {
    let (private, public) = Kem::gen_keypair();
    (private.to_bytes().to_vec(), BASE64.encode(&public.to_bytes()))
}

/// Checks a key that a client sends to be sealed to.
///
/// # Errors
/// When nothing can be sealed to it.
pub fn check_recipient(public_key: &str) -> Result<(), SealedError> {
    seal(public_key, Purpose::Secret, "", &[]).map(drop)
}

/// Seals for the holder of a key, for one purpose and one request (the id of what was asked for).
///
/// # Errors
/// When the key is none.
pub fn seal(recipient: &str, purpose: Purpose, request: &str, plain: &[u8]) -> Result<Sealed, SealedError> {
    let bytes = BASE64.decode(recipient.as_bytes()).map_err(|_| SealedError::Recipient)?;
    let key = PublicKey::from_bytes(&bytes).map_err(|_| SealedError::Recipient)?;
    let info = purpose.info(request);
    let (encapsulated, ciphertext) =
        hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, Kem>(&OpModeS::Base, &key, &info, plain, &[])
            .map_err(|_| SealedError::Recipient)?;
    Ok(Sealed { encapsulated_key: BASE64.encode(&encapsulated.to_bytes()), ciphertext: BASE64.encode(&ciphertext) })
}

/// Opens what was sealed to the public half of this key, for this purpose and request.
///
/// # Errors
/// When it was not, or was changed.
pub fn open(private: &[u8], purpose: Purpose, request: &str, sealed: &Sealed) -> Result<Vec<u8>, SealedError> {
    let key = PrivateKey::from_bytes(private).map_err(|_| SealedError::Private)?;
    let decoded = |text: &str| BASE64.decode(text.as_bytes()).map_err(|_| SealedError::Malformed);
    let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(&decoded(&sealed.encapsulated_key)?)
        .map_err(|_| SealedError::Malformed)?;
    let (info, ciphertext) = (purpose.info(request), decoded(&sealed.ciphertext)?);
    let mode = OpModeR::Base;
    hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(&mode, &key, &encapsulated, &info, &ciphertext, &[])
        .map_err(|_| SealedError::NotForThis)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"apiVersion: v1\nkind: Config\n";

    #[test]
    fn what_is_sealed_opens_for_its_key_purpose_and_request_only() {
        let (private, public) = new_recipient();
        let sealed = seal(&public, Purpose::Kubeconfig, "cmd-1", PLAIN).unwrap();
        let open = |private: &[u8], purpose, request| open(private, purpose, request, &sealed);
        assert_eq!(open(&private, Purpose::Kubeconfig, "cmd-1").as_deref(), Ok(PLAIN));
        assert_eq!(open(&private, Purpose::Kubeconfig, "cmd-2"), Err(SealedError::NotForThis));
        assert_eq!(open(&private, Purpose::Secret, "cmd-1"), Err(SealedError::NotForThis));
        assert_eq!(open(&new_recipient().0, Purpose::Kubeconfig, "cmd-1"), Err(SealedError::NotForThis));
        assert_eq!(open(&[1; 5], Purpose::Kubeconfig, "cmd-1"), Err(SealedError::Private));
    }

    #[test]
    fn it_is_another_message_each_time_and_none_that_was_changed_opens() {
        let (private, public) = new_recipient();
        let one = seal(&public, Purpose::Secret, "r", PLAIN).unwrap();
        assert_ne!(one, seal(&public, Purpose::Secret, "r", PLAIN).unwrap());
        let bytes = BASE64.decode(one.ciphertext.as_bytes()).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let sealed = Sealed { ciphertext: BASE64.encode(&changed), ..one.clone() };
            assert_eq!(open(&private, Purpose::Secret, "r", &sealed), Err(SealedError::NotForThis));
        }
        for bad in ["", "AAAA", "not base64"] {
            let sealed = Sealed { encapsulated_key: bad.to_owned(), ..one.clone() };
            assert_eq!(open(&private, Purpose::Secret, "r", &sealed), Err(SealedError::Malformed));
        }
    }

    #[test]
    fn a_cluster_opens_what_is_sealed_to_its_sealing_key() {
        let private = [7; crate::sealing::KEY_BYTES];
        let public = crate::sealing::public_key(&private).unwrap();
        let sealed = seal(&public, Purpose::Secret, "r", PLAIN).unwrap();
        assert_eq!(open(&private, Purpose::Secret, "r", &sealed).as_deref(), Ok(PLAIN));
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        // Nothing, too short, and points of low order, whose shared secret everybody knows.
        let one = [&[1][..], &[0; 31]].concat();
        for bad in [String::new(), "AAAA".to_owned(), "?".to_owned(), BASE64.encode(&[0; 32]), BASE64.encode(&one)] {
            assert_eq!(check_recipient(&bad), Err(SealedError::Recipient), "{bad}");
        }
        assert_eq!(check_recipient(&new_recipient().1), Ok(()));
    }
}
