//! The fingerprint of an installation's keys: what administrators compare before they approve its enrollment.

use crate::signature::sha256_hex;

/// What administrators compare before they approve: `sha256:` and 64 hex digits over both public keys of an installation, that of
/// the certificate (hex SHA-256 of its SubjectPublicKeyInfo) and the nkey.
#[must_use]
pub fn fingerprint(certificate_key_sha256: &str, nkey_public: &str) -> String {
    let keys = format!("kubenova.enrollment.1\n{certificate_key_sha256}\n{nkey_public}\n");
    format!("sha256:{}", sha256_hex(keys.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_of_both_keys_and_stays_what_it_is() {
        let shown = fingerprint("ab", "UC");
        assert_eq!(shown, "sha256:661fa47f58103b09f9ade7fcfc89d78c3947e4ad378fa26e3c6153b33ec8d42c");
        assert_ne!(fingerprint("abU", "C"), shown);
        assert_ne!(fingerprint("ab", "UD"), shown);
    }
}
