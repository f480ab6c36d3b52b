//! The enrollment token `kn1.<base64url>`: everything one `helm install` needs.
//!
//! It packs where the Manager is, how to recognize it, which cluster this is, and a secret that works once. The Manager
//! stores only the secret's hash.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

const PREFIX: &str = "kn1.";

/// What a token holds.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnrollmentToken {
    /// The cluster it enrolls.
    pub cluster_id: String,
    /// `https://` URLs of the Manager's enrollment endpoint, tried in order.
    pub endpoints: Vec<String>,
    /// Hex SHA-256 of the DER SubjectPublicKeyInfo of the Manager's CA.
    pub ca_spki_sha256: String,
    /// 32 random bytes, base64url.
    pub secret: String,
}

impl std::fmt::Debug for EnrollmentToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrollmentToken")
            .field("cluster_id", &self.cluster_id)
            .field("endpoints", &self.endpoints)
            .field("secret", &"***")
            .finish_non_exhaustive()
    }
}

/// A text that is no enrollment token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Another kind of text.
    #[error("enrollment token does not start with \"kn1.\": copy it whole from the answer to POST /clusters")]
    Prefix,
    /// Cut off or altered.
    #[error("enrollment token is damaged (cut off or altered): copy it whole from the answer to POST /clusters")]
    Damaged,
}

impl EnrollmentToken {
    /// The text that a person carries.
    #[must_use]
    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("a token is plain strings");
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&json))
    }

    /// Reads the text; white space around it is forgiven.
    ///
    /// # Errors
    /// When it is no token or a damaged one.
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let json = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| TokenError::Damaged)?;
        serde_json::from_slice(&json).map_err(|_| TokenError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_says_nothing_secret() {
        let token = EnrollmentToken {
            cluster_id: "c1".into(),
            endpoints: vec!["https://manager.example:8443".into()],
            ca_spki_sha256: "00".into(),
            secret: "hush".into(),
        };
        let text = token.encode();
        assert_eq!(EnrollmentToken::decode(&format!(" {text}\n")).unwrap(), token);
        assert!(!format!("{token:?}").contains("hush"));
        assert!(matches!(EnrollmentToken::decode("kn2.xx"), Err(TokenError::Prefix)));
        assert!(matches!(EnrollmentToken::decode(&text[..text.len() - 5]), Err(TokenError::Damaged)));
    }
}
