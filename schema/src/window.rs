//! Metering windows: `w<unix start>-<seconds>`, aligned to multiples of their length since the Unix epoch.

/// One metering window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Window {
    /// First second, since the Unix epoch; a multiple of `seconds`.
    pub start: i64,
    /// Length in seconds, at least 1.
    pub seconds: u32,
}

/// Longest window: a day.
pub const SECONDS_MAX: u32 = 86_400;
/// Last second at which a window may begin, in the year 9998: every instant of it is still a timestamp.
const START_MAX: i64 = 253_370_764_800;

impl Window {
    /// The window of this length that holds the instant.
    #[must_use]
    pub fn containing(unix_ms: i64, seconds: u32) -> Self {
        let length = i64::from(seconds.max(1));
        Self { start: unix_ms.div_euclid(1000).div_euclid(length) * length, seconds: seconds.max(1) }
    }

    /// First millisecond.
    #[must_use]
    pub const fn start_ms(self) -> i64 {
        self.start * 1000
    }

    /// First millisecond after it.
    #[must_use]
    pub fn end_ms(self) -> i64 {
        (self.start + i64::from(self.seconds)) * 1000
    }

    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self { start: self.start + i64::from(self.seconds), seconds: self.seconds }
    }

    /// Reads `w<start>-<seconds>`; none if it is not aligned, longer than [`SECONDS_MAX`], or not of this form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (start, seconds) = text.strip_prefix('w')?.split_once('-')?;
        let window = Self { start: start.parse().ok()?, seconds: seconds.parse().ok()? };
        let sane = (1..=SECONDS_MAX).contains(&window.seconds) && (0..=START_MAX).contains(&window.start);
        let aligned = sane && window.start % i64::from(window.seconds) == 0;
        (aligned && window.to_string() == text).then_some(window)
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "w{}-{}", self.start, self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_instant_lies_in_its_window(ms in 0_i64..4_000_000_000_000, seconds in 1_u32..=SECONDS_MAX) {
            let window = Window::containing(ms, seconds);
            prop_assert!(window.start_ms() <= ms && ms < window.end_ms());
            prop_assert_eq!(Window::parse(&window.to_string()), Some(window));
            prop_assert_eq!(window.next().start_ms(), window.end_ms());
        }
    }

    #[test]
    fn misaligned_and_decorated_windows_are_refused() {
        for text in [
            "w5-10",
            "w-10-10",
            "w10",
            "10-10",
            "w010-10",
            "w10-0",
            "w+10-10",
            "w10-10 ",
            "w9223372036854775000-1",
            "w0-86401",
        ] {
            assert_eq!(Window::parse(text), None, "{text}");
        }
    }
}
