//! Nonces of renewals: the time of issue and random bytes, authenticated with a key that every Manager of the installation has, so
//! that none is stored and any Manager accepts what another has issued.
//!
//! A nonce bounds for how long a recorded request can be repeated; what it would get is of use only to who holds the cluster's keys.

use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use jiff::{SignedDuration, Timestamp};

/// How long a nonce is accepted.
pub const LIFETIME: SignedDuration = SignedDuration::from_secs(120);
/// How far the clock of the Manager that issued it may be ahead.
const AHEAD_MAX: SignedDuration = SignedDuration::from_secs(30);
const RANDOM_BYTES: usize = 16;
const TIME_BYTES: usize = 8;
const BODY_BYTES: usize = TIME_BYTES + RANDOM_BYTES;

/// Issues nonces and checks them.
pub struct Nonces(hmac::Key);

impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nonces(***)")
    }
}

impl Nonces {
    /// With this key.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// A new nonce, base64url.
    #[must_use]
    pub fn issue(&self, now: Timestamp) -> String {
        let mut bytes = now.as_millisecond().to_be_bytes().to_vec();
        bytes.extend_from_slice(&kubenova_runtime::random::bytes::<RANDOM_BYTES>());
        let tag = hmac::sign(&self.0, &bytes);
        bytes.extend_from_slice(tag.as_ref());
        BASE64URL_NOPAD.encode(&bytes)
    }

    /// Whether a nonce was issued with this key, and not longer than [`LIFETIME`] ago.
    #[must_use]
    pub fn is_valid(&self, nonce: &str, now: Timestamp) -> bool {
        let Ok(bytes) = BASE64URL_NOPAD.decode(nonce.as_bytes()) else { return false };
        let Some((body, tag)) = bytes.split_at_checked(BODY_BYTES) else { return false };
        if hmac::verify(&self.0, body, tag).is_err() {
            return false;
        }
        let issued = body.first_chunk::<TIME_BYTES>().map(|time| i64::from_be_bytes(*time));
        let Some(Ok(issued)) = issued.map(Timestamp::from_millisecond) else { return false };
        let age = now.duration_since(issued);
        (-AHEAD_MAX..=LIFETIME).contains(&age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_valid_for_two_minutes_at_every_manager_that_has_the_key() {
        let (now, issuer) = (Timestamp::from_second(1_000).unwrap(), Nonces::new(&[1; 32]));
        let nonce = issuer.issue(now);
        let valid =
            |key: u8, seconds: i64| Nonces::new(&[key; 32]).is_valid(&nonce, now + SignedDuration::from_secs(seconds));
        assert!(valid(1, 0) && valid(1, 120) && valid(1, -30));
        assert!(!valid(1, 121) && !valid(1, -31) && !valid(2, 0));
        assert_ne!(nonce, issuer.issue(now));
    }

    #[test]
    fn what_was_changed_or_cut_is_no_nonce() {
        let (now, issuer) = (Timestamp::from_second(1_000).unwrap(), Nonces::new(&[1; 32]));
        let nonce = issuer.issue(now);
        let mut later = BASE64URL_NOPAD.decode(nonce.as_bytes()).unwrap();
        later[TIME_BYTES - 1] ^= 1;
        let changed = BASE64URL_NOPAD.encode(&later);
        for bad in ["", "?", &nonce[..nonce.len() - 4], &nonce[..20], &changed] {
            assert!(!issuer.is_valid(bad, now), "{bad}");
        }
    }
}
