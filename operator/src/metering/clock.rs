//! The wall clock, corrected towards the Manager's: windows of all clusters begin and end at the same moments.

use kubenova_runtime::clock;
use tokio::sync::watch;

#[derive(Debug, Clone)]
pub(super) struct Clock {
    /// This cluster's clock minus the Manager's, as measured at the last hello.
    pub(super) offset_ms: watch::Receiver<i64>,
}

impl Clock {
    pub(super) fn offset_ms(&self) -> i64 {
        *self.offset_ms.borrow()
    }

    pub(super) fn now_ms(&self) -> i64 {
        clock::now_ms().saturating_sub(self.offset_ms())
    }
}
