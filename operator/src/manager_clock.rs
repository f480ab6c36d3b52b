//! The Manager's clock as last measured, for deadlines: also while no session is open.

use crate::session::state::Session;
use jiff::{SignedDuration, Timestamp};
use kubenova_runtime::clock;
use std::sync::{Arc, Mutex, PoisonError};

/// Cheap to clone. Unknown until the first session opens.
#[derive(Debug, Clone, Default)]
pub struct ManagerClock(Arc<Mutex<Option<i64>>>);

impl ManagerClock {
    /// Takes over what the hello of this session has measured.
    pub fn measured(&self, session: &Session) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clock_offset_ms);
    }

    /// The Manager's time; none when it was never measured.
    #[must_use]
    pub fn now(&self) -> Option<Timestamp> {
        let offset = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let now = clock::now();
        Some(now.checked_sub(SignedDuration::from_millis(offset)).unwrap_or(now))
    }
}
