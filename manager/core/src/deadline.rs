//! Times that a request gives as seconds from now.

use crate::refusal::{Reason, Refusal};
use jiff::{SignedDuration, Timestamp};
use std::ops::RangeInclusive;

/// The time so many seconds from now; `field` is where the request gives them.
///
/// # Errors
/// With [`Reason::FieldInvalid`] when they are out of range.
pub(crate) fn after(
    now: Timestamp,
    seconds: u32,
    range: RangeInclusive<u32>,
    field: &'static str,
) -> Result<Timestamp, Refusal> {
    if !range.contains(&seconds) {
        let detail = format!("{field} is {seconds}; it is from {} to {}", range.start(), range.end());
        return Err(Refusal::at(Reason::FieldInvalid, format!("/{field}"), detail));
    }
    Ok(now.checked_add(SignedDuration::from_secs(i64::from(seconds))).unwrap_or(now))
}
