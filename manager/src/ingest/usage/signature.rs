//! Signatures of usage manifests: `<nkey public>:<base64>`, made with the nkey that the cluster enrolled with.

use super::invalid::InvalidUsage;
use data_encoding::BASE32_NOPAD;
use kubenova_schema::signature::{AcceptedKeys, PayloadType, key_id};

/// The nkey that a signature names. Its owner is looked up before the signature is verified.
pub(super) fn signer(signature: &str) -> Result<&str, InvalidUsage> {
    signature.split_once(':').map(|(nkey, _)| nkey).filter(|nkey| !nkey.is_empty()).ok_or(InvalidUsage::SignatureForm)
}

/// Verifies a manifest's signature against the nkey it names.
pub(super) fn verify(manifest: &[u8], signature: &str) -> Result<(), InvalidUsage> {
    let (nkey, encoded) = signature.split_once(':').ok_or(InvalidUsage::SignatureForm)?;
    // The text of an nkey: a byte for its kind, 32 for the key, two of checksum.
    let bytes = BASE32_NOPAD.decode(nkey.as_bytes()).map_err(|_| InvalidUsage::SignatureForm)?;
    let key = bytes.get(1..33).filter(|_| bytes.len() == 35).ok_or(InvalidUsage::SignatureForm)?;
    let id = key_id(key);
    let header = format!("{id}:{encoded}");
    AcceptedKeys::new([(id, key.to_vec())])
        .verify(PayloadType::Usage, manifest, Some(&header))
        .map_err(InvalidUsage::Signature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::BASE64;
    use kubenova_schema::signature::SigningKey;

    #[test]
    fn a_signature_is_verified_against_the_nkey_it_names() {
        let key = SigningKey::from_seed(&[3; 32]).unwrap();
        let mut bytes = vec![20 << 3];
        bytes.extend(key.public_key());
        bytes.extend([0, 0]);
        let nkey = BASE32_NOPAD.encode(&bytes);
        let header = key.sign(PayloadType::Usage, b"m");
        let signature = format!("{nkey}:{}", header.split_once(':').unwrap().1);
        assert_eq!(signer(&signature), Ok(nkey.as_str()));
        assert_eq!(verify(b"m", &signature), Ok(()));
        assert!(matches!(verify(b"n", &signature), Err(InvalidUsage::Signature(_))));
        assert_eq!(verify(b"m", &format!("UABC:{}", BASE64.encode(b"x"))), Err(InvalidUsage::SignatureForm));
        assert_eq!(signer("x"), Err(InvalidUsage::SignatureForm));
    }
}
