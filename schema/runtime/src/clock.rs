//! The wall clock, which may be set, and beside it the monotonic clock, which is never set. Tests of skew move the wall clock by
//! `KUBENOVA_CLOCK_OFFSET_MS` in debug builds.

use jiff::{SignedDuration, Timestamp};
use std::time::{Duration, Instant};

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

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Milliseconds since the Unix epoch.
    pub wall_ms: i64,
    /// It never goes back, and stands still while the machine is suspended.
    pub monotonic: Instant,
}

impl Reading {
    /// Reads both.
    #[must_use]
    pub fn now() -> Self {
        Self { wall_ms: now_ms(), monotonic: Instant::now() }
    }

    /// The time since an earlier reading, whatever the wall clock was set to in between.
    #[must_use]
    pub fn elapsed_since(&self, earlier: &Self) -> Duration {
        self.monotonic.saturating_duration_since(earlier.monotonic)
    }

    /// By how many milliseconds the wall clock was set ahead since an earlier reading, or the machine was suspended.
    #[must_use]
    pub fn set_ahead_since_ms(&self, earlier: &Self) -> i64 {
        let elapsed_ms = i64::try_from(self.elapsed_since(earlier).as_millis()).unwrap_or(i64::MAX);
        self.wall_ms.saturating_sub(earlier.wall_ms).saturating_sub(elapsed_ms)
    }
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
