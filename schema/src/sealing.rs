//! The sealing key of a cluster: an X25519 key to which clients seal what only its Operator may open.
//!
//! The cluster's nkey signs it together with the cluster that it is for. So a client that knows the nkey need not believe who hands it the
//! key, and an enrollment proves that its sender holds the nkey.

use crate::signature::{PayloadType, SignatureError, verify_nkey};
use aws_lc_rs::agreement::{PrivateKey, X25519};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

/// Bytes of a private or public key.
pub const KEY_BYTES: usize = 32;

/// The public half, as it is sent and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealingKey {
    /// 32 bytes, base64.
    pub public_key: String,
    /// `<public nkey>:<base64>` over [`statement`].
    pub signature: String,
}

/// Why a sealing key is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealingKeyError {
    /// Not an X25519 key.
    #[error("publicKey is not 32 bytes in base64")]
    Malformed,
    /// Signed by another key, or about another cluster.
    #[error("signature is not that of the cluster's nkey over this key and cluster: {0}")]
    Unsigned(SignatureError),
    /// Signed by another nkey than the one that is named.
    #[error("signature is of nkey {0}, which is not the one that enrolls")]
    OtherNkey(String),
}

/// What the nkey signs.
#[must_use]
pub fn statement(cluster_id: &str, cluster_uid: &str, public_key: &str) -> String {
    serde_json::json!({ "clusterId": cluster_id, "clusterUid": cluster_uid, "publicKey": public_key }).to_string()
}

/// The public half of a private key of [`KEY_BYTES`]; none when it is no such key.
#[must_use]
pub fn public_key(private: &[u8]) -> Option<String> {
    let private = PrivateKey::from_private_key(&X25519, private).ok()?;
    Some(BASE64.encode(private.compute_public_key().ok()?.as_ref()))
}

impl SealingKey {
    /// Checks that this nkey signed the key for this cluster.
    ///
    /// # Errors
    /// When it did not, or this is no key.
    pub fn verify(&self, cluster_id: &str, cluster_uid: &str, nkey_public: &str) -> Result<(), SealingKeyError> {
        let bytes = BASE64.decode(self.public_key.as_bytes()).unwrap_or_default();
        // The key of zeros is the one whose shared secret everybody knows.
        if bytes.len() != KEY_BYTES || bytes.iter().all(|byte| *byte == 0) {
            return Err(SealingKeyError::Malformed);
        }
        let signed = statement(cluster_id, cluster_uid, &self.public_key);
        let nkey = verify_nkey(PayloadType::SealingKey, signed.as_bytes(), &self.signature)
            .map_err(SealingKeyError::Unsigned)?;
        if nkey == nkey_public { Ok(()) } else { Err(SealingKeyError::OtherNkey(nkey.to_owned())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::nkey_encoding;

    fn signed(nkey: &nkeys::KeyPair, cluster: &str, public_key: &str) -> SealingKey {
        let body = statement(cluster, "uid", public_key);
        let bytes = nkey_encoding(PayloadType::SealingKey, body.as_bytes());
        let signature = format!("{}:{}", nkey.public_key(), BASE64.encode(&nkey.sign(&bytes).unwrap()));
        SealingKey { public_key: public_key.to_owned(), signature }
    }

    #[test]
    fn a_key_counts_for_the_cluster_and_the_nkey_that_signed_it() {
        let (nkey, other) = (nkeys::KeyPair::new_user(), nkeys::KeyPair::new_user());
        let public = public_key(&[7; KEY_BYTES]).unwrap();
        let key = signed(&nkey, "c1", &public);
        assert_eq!(key.verify("c1", "uid", &nkey.public_key()), Ok(()));
        assert!(matches!(key.verify("c2", "uid", &nkey.public_key()), Err(SealingKeyError::Unsigned(_))));
        assert!(matches!(key.verify("c1", "uid2", &nkey.public_key()), Err(SealingKeyError::Unsigned(_))));
        assert!(matches!(key.verify("c1", "uid", &other.public_key()), Err(SealingKeyError::OtherNkey(_))));
        let swapped = SealingKey { public_key: public_key(&[8; KEY_BYTES]).unwrap(), ..key };
        assert!(matches!(swapped.verify("c1", "uid", &nkey.public_key()), Err(SealingKeyError::Unsigned(_))));
        for bad in ["", "AAAA", &BASE64.encode(&[0; KEY_BYTES]), "not base64"] {
            let bad = signed(&nkey, "c1", bad);
            assert_eq!(bad.verify("c1", "uid", &nkey.public_key()), Err(SealingKeyError::Malformed));
        }
        assert_eq!(public_key(&[1; 5]), None);
    }
}
