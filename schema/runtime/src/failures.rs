//! How a repeated failure is logged: loudly once, quietly while nothing changes, and once when it is over.

use crate::telemetry;
use std::{error::Error, time::Duration};

/// The failures in a row of one piece of work.
#[derive(Debug)]
pub(crate) struct Failures {
    what: &'static str,
    count: u32,
    last: String,
}

impl Failures {
    pub(crate) const fn new(what: &'static str) -> Self {
        Self { what, count: 0, last: String::new() }
    }

    /// Logs a failure with its whole chain: a warning when it is new, debug when it is the one before again.
    pub(crate) fn failed(&mut self, error: &(dyn Error + 'static), retry_in: Duration) {
        let text = telemetry::chain(error);
        let retry_ms = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX);
        self.count = self.count.saturating_add(1);
        if text == self.last {
            tracing::debug!(error = text, retry_ms, failures = self.count, "could not {}; trying again", self.what);
        } else {
            tracing::warn!(error = text, retry_ms, failures = self.count, "could not {}; trying again", self.what);
            self.last = text;
        }
    }

    /// Ends the row of failures, and says so if there was one.
    pub(crate) fn succeeded(&mut self) {
        if self.count > 0 {
            tracing::info!(failures = self.count, "succeeded again to {}", self.what);
            self.count = 0;
            self.last.clear();
        }
    }
}
