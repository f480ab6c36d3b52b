//! The wall clock. Tests of skew move it by `KUBENOVA_CLOCK_OFFSET_MS` in debug builds.

use jiff::{SignedDuration, Timestamp};

/// Now, in UTC.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one reading of the clock")]
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    match offset() {
        Some(offset) => now.checked_add(offset).unwrap_or(now),
        None => now,
    }
}

/// Now, in milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> i64 {
    now().as_millisecond()
}

/// RFC 3339 UTC with milliseconds, the form of every time in a message.
#[must_use]
pub fn rfc3339_ms(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

fn offset() -> Option<SignedDuration> {
    if !cfg!(debug_assertions) {
        return None;
    }
    static OFFSET: std::sync::OnceLock<Option<SignedDuration>> = std::sync::OnceLock::new();
    *OFFSET
        .get_or_init(|| std::env::var("KUBENOVA_CLOCK_OFFSET_MS").ok()?.parse().ok().map(SignedDuration::from_millis))
}
