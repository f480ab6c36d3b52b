//! The Manager's clock as last measured, for deadlines and for windows, which begin and end at the same moments in all clusters. While no
//! session is open the last measurement is the best one.

use jiff::{SignedDuration, Timestamp};
use kubenova_runtime::clock;
use std::sync::{Arc, Mutex, PoisonError};

/// Cheap to clone. Unknown until the first session opens.
#[derive(Debug, Clone, Default)]
pub struct ManagerClock(Arc<Mutex<Option<i64>>>);

impl ManagerClock {
    /// Takes over what the hello of a session has measured: this cluster's clock minus the Manager's.
    pub fn measured(&self, offset_ms: i64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(offset_ms);
    }

    /// The Manager's time; none when it was never measured.
    #[must_use]
    pub fn now(&self) -> Option<Timestamp> {
        self.measurement().map(manager_time)
    }

    /// This cluster's clock minus the Manager's; 0 when it was never measured.
    #[must_use]
    pub fn offset_ms(&self) -> i64 {
        self.measurement().unwrap_or_default()
    }

    /// The Manager's time, or this cluster's when it was never measured.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        clock::now_ms().saturating_sub(self.offset_ms())
    }

    fn measurement(&self) -> Option<i64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The Manager's time when this cluster's clock is ahead by so much.
#[must_use]
pub fn manager_time(offset_ms: i64) -> Timestamp {
    let now = clock::now();
    now.checked_sub(SignedDuration::from_millis(offset_ms)).unwrap_or(now)
}
