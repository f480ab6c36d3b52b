//! When credentials are renewed, and when a failure to do so endangers the cluster.

use jiff::{SignedDuration, Timestamp};
use kubenova_schema::mutant;
use std::time::Duration;

/// The life of certificate and user JWT, by the Manager's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CredentialsLife {
    issued_at: Timestamp,
    expires_at: Timestamp,
}

/// Longest pause between two attempts: the Manager may be back, or a person may have decided, for that long without notice.
const PAUSE_MAX: Duration = Duration::from_mins(10);
/// Shortest pause between two attempts: each makes the Manager sign a certificate.
const PAUSE_MIN: Duration = Duration::from_secs(1);

impl CredentialsLife {
    /// As an answer names it; none when it cannot be read.
    #[must_use]
    pub fn parse(issued_at: &str, expires_at: &str) -> Option<Self> {
        Some(Self { issued_at: issued_at.parse().ok()?, expires_at: expires_at.parse().ok()? })
    }

    /// When the first of them expires.
    #[must_use]
    pub const fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// When it is time to renew: after a third of the life, and up to a twelfth later, so that clusters that enrolled together do not
    /// renew together. `jitter` is any number.
    #[must_use]
    pub fn renewal_at(&self, jitter: u16) -> Timestamp {
        if mutant::is_on("renewal.at-the-end") {
            return self.expires_at;
        }
        let length = self.length().as_millis();
        let spread = length / 12 * i128::from(jitter) / i128::from(u16::MAX);
        let after = i64::try_from(length / 3 + spread).unwrap_or(i64::MAX);
        self.issued_at.checked_add(SignedDuration::from_millis(after)).unwrap_or(self.expires_at)
    }

    /// Less than a third of the life is left: a person should know that there are no new credentials yet.
    #[must_use]
    pub fn is_endangered(&self, now: Timestamp) -> bool {
        self.expires_at.duration_since(now) < self.length() / 3
    }

    /// Pause after so many attempts in a row that failed: it doubles up to a twenty-fourth of the life, so that the end of an outage is
    /// noticed long before the end of the credentials.
    #[must_use]
    pub fn pause(&self, failures: u32) -> Duration {
        let longest = Duration::try_from(self.length()).unwrap_or_default() / 24;
        let longest = longest.clamp(PAUSE_MIN, PAUSE_MAX);
        PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest)
    }

    /// Whether it ends after it begins.
    #[must_use]
    pub fn is_positive(self) -> bool {
        self.length().is_positive()
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }

    fn length(&self) -> SignedDuration {
        self.expires_at.duration_since(self.issued_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(seconds: i64) -> CredentialsLife {
        let at = |second| Timestamp::from_second(second).unwrap();
        CredentialsLife { issued_at: at(0), expires_at: at(seconds) }
    }

    #[test]
    fn credentials_are_renewed_between_a_third_and_five_twelfths_of_their_life() {
        let life = life(1_200);
        assert_eq!(life.renewal_at(0).as_second(), 400);
        assert_eq!(life.renewal_at(u16::MAX).as_second(), 500);
        assert!(!life.is_endangered(Timestamp::from_second(800).unwrap()));
        assert!(life.is_endangered(Timestamp::from_second(801).unwrap()));
        assert!(life.is_endangered(Timestamp::from_second(9_999).unwrap()));
    }

    #[test]
    fn pauses_grow_with_failures_and_never_beyond_what_the_life_allows() {
        let seconds = |life: CredentialsLife| [1, 2, 3, 20, u32::MAX].map(|failures| life.pause(failures).as_secs());
        assert_eq!(seconds(life(14 * 86_400)), [1, 2, 4, 600, 600]);
        assert_eq!(seconds(life(60)), [1, 2, 2, 2, 2]);
        assert_eq!(seconds(life(1)), [1, 1, 1, 1, 1]);
    }

    #[test]
    fn what_cannot_be_read_is_no_life() {
        assert_eq!(CredentialsLife::parse("", "2030-01-01T00:00:00Z"), None);
        assert!(CredentialsLife::parse("2029-01-01T00:00:00.000Z", "2030-01-01T00:00:00Z").is_some());
    }
}
