//! How many enrollments and renewals are decided at once. Their endpoints are public: each request holds a connection of Postgres and
//! makes the Manager sign, and many of them must leave both to everybody else.

use kubenova_core::refusal::{Reason, Refusal};
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// At once. Each takes about 7 ms, so that these are a thousand a second.
const AT_ONCE: usize = 8;
/// Longest wait for a place.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The places. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EnrollmentSlots(Arc<Semaphore>);

impl Default for EnrollmentSlots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl EnrollmentSlots {
    /// A place, once there is one.
    ///
    /// # Errors
    /// With [`Reason::Contended`] after [`WAIT_MAX`].
    pub(crate) async fn take(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let too_many = || Refusal::new(Reason::Contended, "too many enrollments and renewals at once");
        let place = tokio::time::timeout(WAIT_MAX, Arc::clone(&self.0).acquire_owned()).await;
        place.ok().and_then(Result::ok).ok_or_else(too_many)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_comes_when_all_places_are_taken_waits_and_is_refused_then() {
        let slots = EnrollmentSlots::default();
        let mut held = Vec::new();
        for _ in 0..AT_ONCE {
            held.push(slots.take().await.unwrap());
        }
        assert_eq!(slots.take().await.unwrap_err().reason, Reason::Contended);
        held.pop();
        assert!(slots.take().await.is_ok());
    }
}
