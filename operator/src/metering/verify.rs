//! Whether every watch has reached a moment: only then is a window complete.
//!
//! A window is sealed once every watch has passed a quorum read made after the window's end, or, when that takes longer
//! than [`PATIENCE_MS`] (an idle watch is bookmarked only once a minute), once a complete list is exactly what was
//! observed.

use super::{
    health::set_problem,
    meter::{Running, Verification, unreachable},
};
use crate::apiserver::{Error, metered};
use kubenova_operator_core::metering::{engine::SOURCES, observed::Source};

/// Busy watches pass a quorum read within this time; reading complete lists sooner would only load the API server.
const PATIENCE_MS: i64 = 2_000;

impl Running {
    /// The moment up to which every watch is complete; none while that is not known.
    pub(super) async fn verify(&mut self, now_ms: i64) -> Option<i64> {
        let stale = |verification: &Verification| {
            self.engine.due().is_some_and(|window| verification.started_ms < window.end_ms())
        };
        if self.verification.as_ref().is_none_or(stale) {
            let mut targets = [None; SOURCES];
            for source in Source::ALL {
                targets[source as usize] = self.answered(metered::head(&self.parts.client, source).await)?;
            }
            self.verification = Some(Verification { started_ms: now_ms, targets, passed: [false; SOURCES] });
        }
        let verification = self.verification.as_mut()?;
        for source in Source::ALL {
            let index = source as usize;
            verification.passed[index] |= self.engine.has_passed(source, verification.targets[index]);
        }
        if now_ms - verification.started_ms >= PATIENCE_MS {
            for source in Source::ALL {
                if verification.passed[source as usize] {
                    continue;
                }
                match metered::versions(&self.parts.client, source).await {
                    Ok(Some(listed)) => verification.passed[source as usize] = self.engine.agrees(source, &listed),
                    Ok(None) => {}
                    Err(error) => {
                        set_problem(&self.parts.health, "APIServerUnreachable", unreachable(&error));
                        return None;
                    }
                }
            }
        }
        let verified = verification.passed == [true; SOURCES];
        let started_ms = verification.started_ms;
        if verified {
            self.verification = None;
        }
        verified.then_some(started_ms)
    }

    fn answered<T>(&self, answer: Result<T, Error>) -> Option<T> {
        answer.inspect_err(|error| set_problem(&self.parts.health, "APIServerUnreachable", unreachable(error))).ok()
    }
}
