//! A person's word that more tenants of a cluster may be deleted than are deleted at once.

use crate::{
    deadline,
    refusal::{Reason, Refusal},
};
use jiff::{SignedDuration, Timestamp};

/// Most tenants in one statement: whoever reads it must be able to.
pub const TENANTS_MAX: usize = 500;
/// How long a confirmation counts when the request does not say.
pub const VALID_DEFAULT_SECONDS: u32 = 3600;
/// Longest time for which it counts: a week of deletes at the pace that the clusters' policies set.
pub const VALID_MAX_SECONDS: u32 = 7 * 24 * 3600;

/// Until when a confirmation that is given now counts.
///
/// # Errors
/// With [`Reason::FieldInvalid`] when it is out of range.
pub fn not_after(seconds: Option<u32>, now: Timestamp) -> Result<Timestamp, Refusal> {
    deadline::after(now, seconds.unwrap_or(VALID_DEFAULT_SECONDS), 1..=VALID_MAX_SECONDS, "validSeconds")
}

/// Checks the time of a statement that was signed elsewhere.
///
/// # Errors
/// With [`Reason::FieldInvalid`] when it has passed or lies too far ahead.
pub fn check_not_after(not_after: Timestamp, now: Timestamp) -> Result<(), Refusal> {
    let ahead = not_after.duration_since(now);
    if ahead > SignedDuration::ZERO && ahead <= SignedDuration::from_secs(i64::from(VALID_MAX_SECONDS)) {
        return Ok(());
    }
    let detail = format!("the statement counts until {not_after}; that must be within {VALID_MAX_SECONDS} s from now");
    Err(Refusal::at(Reason::FieldInvalid, "/statement", detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_counts_for_a_week_at_most() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(not_after(None, now).unwrap().as_second(), 3600);
        assert!(not_after(Some(0), now).is_err() && not_after(Some(604_801), now).is_err());
        assert!(check_not_after(Timestamp::from_second(604_800).unwrap(), now).is_ok());
        assert!(check_not_after(Timestamp::from_second(604_801).unwrap(), now).is_err());
        assert!(check_not_after(now, now).is_err());
    }
}
