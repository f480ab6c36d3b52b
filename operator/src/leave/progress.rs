//! What is said while the cluster is left, once, and how long that may take.

use super::LeaveError;
use std::{collections::BTreeSet, io::Write, time::Duration};
use tokio::time::Instant;

/// Pause between two looks at what is waited for.
const POLL: Duration = Duration::from_millis(500);

pub(super) struct Progress<'a, W> {
    out: &'a mut W,
    ends: Instant,
    said: BTreeSet<String>,
}

impl<'a, W: Write> Progress<'a, W> {
    pub(super) fn new(out: &'a mut W, limit: Duration) -> Self {
        Self { out, ends: Instant::now() + limit, said: BTreeSet::new() }
    }

    /// Says it, unless it was said before.
    pub(super) fn say(&mut self, text: impl Into<String>) -> Result<(), LeaveError> {
        let text = text.into();
        if !self.said.contains(&text) {
            writeln!(self.out, "{text}")?;
            self.said.insert(text);
        }
        Ok(())
    }

    /// Says what is waited for, and waits a moment.
    ///
    /// # Errors
    /// When that has lasted too long.
    pub(super) async fn wait_for(&mut self, what: String) -> Result<(), LeaveError> {
        if Instant::now() >= self.ends {
            return Err(LeaveError::TooLate(what));
        }
        self.say(what)?;
        tokio::time::sleep(POLL).await;
        Ok(())
    }
}
