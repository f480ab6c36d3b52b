//! When what a superseded command carried is sent again.
//!
//! A cluster answers the newest command of an object with `superseded` when it holds a later one, of a history that this database lost
//! in a restore, or knows a floor of it. Once is enough for that: what is sent again has a revision above both. A cluster that goes on
//! answering so is at fault or hostile, and each answer costs a command, so the pauses grow.

use jiff::SignedDuration;

/// Before the first time. Long enough for a cluster that is being worked on to say hello meanwhile.
pub const PAUSE_MIN: SignedDuration = SignedDuration::from_mins(1);
/// A person who has repaired the cluster does not wait longer for it.
pub const PAUSE_MAX: SignedDuration = SignedDuration::from_hours(1);
/// Answers that are older do not count.
pub const COUNTED_FOR: SignedDuration = SignedDuration::from_hours(24);

/// The pause when what was sent again has been superseded so often, within [`COUNTED_FOR`].
#[must_use]
pub fn pause(times: u32) -> SignedDuration {
    let factor = 1_i32.checked_shl(times).filter(|factor| *factor > 0).unwrap_or(i32::MAX);
    PAUSE_MIN.checked_mul(factor).unwrap_or(PAUSE_MAX).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour() {
        let minutes: Vec<i64> = (0..9).map(|times| pause(times).as_mins()).collect();
        assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
    }
}
