//! Bearer tokens of users and programs: `knt_` and 256 random bits. Only their SHA-256 is kept.
//!
//! A plain hash is enough: 256 bits cannot be guessed, so a slow hash would gain nothing.

use aws_lc_rs::digest;
use data_encoding::BASE64URL_NOPAD;

/// How every token begins, so that scanners for leaked secrets find them.
pub const PREFIX: &str = "knt_";

/// A fresh token's text from 32 random bytes; shown once.
#[must_use]
pub fn mint(random: [u8; 32]) -> String {
    format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&random))
}

/// What is kept of a text.
#[must_use]
pub fn sha256(text: impl AsRef<[u8]>) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, text.as_ref());
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_carries_all_its_bits() {
        let token = mint([7; 32]);
        assert_eq!(token.len(), PREFIX.len() + 43);
        assert_ne!(mint([7; 32]), mint([8; 32]));
        assert_eq!(
            data_encoding::HEXLOWER.encode(&sha256("")),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
