//! How many tests passed, as their programs report it.

/// How many tests passed, failed and were ignored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Passed.
    pub(crate) passed: u64,
    /// Failed; a program that died counts as one.
    pub(crate) failed: u64,
    /// Ignored.
    pub(crate) skipped: u64,
}

impl Count {
    /// Adds another count to this one.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// The count of a `test result:` line; `None` for any other line.
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        let result = line.strip_prefix("test result: ")?;
        let number = |word: &str| -> u64 {
            let before = result.split_once(&format!(" {word}")).map(|(before, _)| before);
            before.and_then(|text| text.rsplit(' ').next()).and_then(|digits| digits.parse().ok()).unwrap_or(0)
        };
        Some(Self { passed: number("passed"), failed: number("failed"), skipped: number("ignored") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 5 filtered out; finished in 0.01s";
        assert_eq!(Count::from_line(line), Some(Count { passed: 12, failed: 3, skipped: 1 }));
        assert_eq!(Count::from_line("test a::b ... ok"), None);
    }
}
