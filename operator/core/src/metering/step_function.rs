//! A level over time, and its exact integral.
//!
//! The integral over a window is the sum over all steps of `change × (window's end − time of the step)`, with times
//! clipped to the window. It is additive, so the order in which steps arrive does not matter: a step that belongs
//! before others already counted is simply added.

use super::Levels;
use kubenova_schema::mutant;

/// A change of a tenant's levels at an instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Whose.
    pub tenant_id: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// By how much.
    pub change: Levels,
    /// Why, for tests and for reading: a closed set.
    pub cause: Cause,
}

/// Why a level changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// An object came to be; the step is at its creation.
    Created,
    /// An object changed.
    Changed,
    /// An object is gone.
    Deleted,
    /// A pod's grace is over.
    Expired,
    /// A namespace got, lost or changed its tenant.
    Relabeled,
    /// Found after a restart or a lost watch.
    CaughtUp,
}

impl Cause {
    /// As written in recorded steps.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Deleted => "deleted",
            Self::Expired => "expired",
            Self::Relabeled => "relabeled",
            Self::CaughtUp => "caughtUp",
        }
    }
}

/// What a change at an instant adds to the integral over `start..end`.
#[must_use]
pub fn contribution(change: Levels, at_ms: i64, start_ms: i64, end_ms: i64) -> Levels {
    let from_ms = if mutant::is_on("metering.not-clipped") { at_ms.min(end_ms) } else { at_ms.clamp(start_ms, end_ms) };
    change.for_ms(end_ms - from_ms)
}

/// Milliseconds that two stretches have in common.
#[must_use]
pub fn overlap_ms(first: (i64, i64), second: (i64, i64)) -> i64 {
    (first.1.min(second.1) - first.0.max(second.0)).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_schema::meters::Meter;
    use proptest::prelude::*;

    /// Millisecond by millisecond.
    fn naive(steps: &[(i64, i128)], start: i64, end: i64) -> i128 {
        (start..end).map(|ms| steps.iter().filter(|(at, _)| *at <= ms).map(|(_, change)| change).sum::<i128>()).sum()
    }

    fn by_contribution(steps: &[(i64, i128)], start: i64, end: i64) -> i128 {
        steps
            .iter()
            .map(|(at, change)| contribution(Levels::only(Meter::Pods, *change), *at, start, end).get(Meter::Pods))
            .sum()
    }

    proptest! {
        #[test]
        fn contributions_are_the_integral(steps in prop::collection::vec((-50_i64..300, -5_i128..6), 0..20), start in 0_i64..100, length in 1_i64..150) {
            prop_assert_eq!(by_contribution(&steps, start, start + length), naive(&steps, start, start + length));
        }

        #[test]
        fn splitting_a_window_changes_no_sum(steps in prop::collection::vec((-50_i64..300, -5_i128..6), 0..20), at in 1_i64..200) {
            let whole = by_contribution(&steps, 0, 200);
            prop_assert_eq!(whole, by_contribution(&steps, 0, at) + by_contribution(&steps, at, 200));
        }

        #[test]
        fn order_does_not_matter(mut steps in prop::collection::vec((-50_i64..300, -5_i128..6), 0..20)) {
            let before = by_contribution(&steps, 0, 200);
            steps.reverse();
            prop_assert_eq!(before, by_contribution(&steps, 0, 200));
        }
    }
}
