//! Signatures of usage manifests: `<nkey public>:<base64>`, made with the nkey that the cluster enrolled with.

use super::invalid::InvalidUsage;
use kubenova_schema::signature::{PayloadType, SignatureError, verify_nkey};

/// The nkey that a signature names. Its owner is looked up before the signature is verified.
pub(super) fn signer(signature: &str) -> Result<&str, InvalidUsage> {
    signature.split_once(':').map(|(nkey, _)| nkey).filter(|nkey| !nkey.is_empty()).ok_or(InvalidUsage::SignatureForm)
}

/// Verifies a manifest's signature against the nkey it names.
pub(super) fn verify(manifest: &[u8], signature: &str) -> Result<(), InvalidUsage> {
    match verify_nkey(PayloadType::Usage, manifest, signature) {
        Ok(_) => Ok(()),
        Err(SignatureError::Malformed) => Err(InvalidUsage::SignatureForm),
        Err(error) => Err(InvalidUsage::Signature(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::BASE64;
    use kubenova_schema::signature::nkey_encoding;

    #[test]
    fn a_signature_is_verified_against_the_nkey_it_names() {
        let key = nkeys::KeyPair::new_user();
        let nkey = key.public_key();
        let signed = key.sign(&nkey_encoding(PayloadType::Usage, b"m")).unwrap();
        let signature = format!("{nkey}:{}", BASE64.encode(&signed));
        assert_eq!(signer(&signature), Ok(nkey.as_str()));
        assert_eq!(verify(b"m", &signature), Ok(()));
        assert!(matches!(verify(b"n", &signature), Err(InvalidUsage::Signature(_))));
        assert_eq!(verify(b"m", &format!("UABC:{}", BASE64.encode(b"x"))), Err(InvalidUsage::SignatureForm));
        assert_eq!(signer("x"), Err(InvalidUsage::SignatureForm));
    }
}
