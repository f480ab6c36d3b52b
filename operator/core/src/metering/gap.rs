//! Gaps: times that could not be observed, each with a reason and, where one can be computed, an upper bound of what was
//! missed.
//!
//! A step that is learned late happened somewhere between the last moment everything was current and the moment it was
//! learned, so it is wrong by at most `|change| × that gap`. When the API server's history is gone, objects may have
//! come and gone unseen: then the tenant's quota bounds the gap, and a meter without one carries no bound.

use super::{Levels, step_function::overlap_ms, window::OpenWindow};
use kubenova_schema::{meters::Meter, v1::UsageGap, window::Window};
use std::collections::BTreeMap;

/// Why there is a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GapReason {
    /// The Operator ran for the first time, or found no checkpoint.
    FirstStart,
    /// The Operator was not running; the API server's history shows what happened.
    OperatorRestarted,
    /// The Operator was not running and the history is gone.
    HistoryLost,
    /// A watch was interrupted.
    WatchInterrupted,
}

impl GapReason {
    /// Every reason; the position is its number in a checkpoint.
    pub const ALL: [Self; 4] = [Self::FirstStart, Self::OperatorRestarted, Self::HistoryLost, Self::WatchInterrupted];

    /// As written in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FirstStart => "FirstStart",
            Self::OperatorRestarted => "OperatorRestarted",
            Self::HistoryLost => "HistoryLost",
            Self::WatchInterrupted => "WatchInterrupted",
        }
    }
}

/// One gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
    /// Last moment before it at which everything was current.
    pub start_ms: i64,
    /// First moment after it; none while it lasts.
    pub end_ms: Option<i64>,
    /// By window start: at most this much is wrong there.
    pub bounds: BTreeMap<i64, Levels>,
    /// Bit per meter (by position) for which no bound can be computed.
    pub unbounded: u32,
}

impl Gap {
    /// A gap that begins.
    #[must_use]
    pub const fn begin(reason: GapReason, start_ms: i64) -> Self {
        Self { reason, start_ms, end_ms: None, bounds: BTreeMap::new(), unbounded: 0 }
    }

    /// A step was learned late.
    pub fn learned(&mut self, change: Levels, received_ms: i64, open: &[OpenWindow]) {
        self.hides(change.magnitude(), received_ms, open);
    }

    /// So much may have been missed at any moment of the gap up to `to_ms`.
    pub fn hides(&mut self, level: Levels, to_ms: i64, open: &[OpenWindow]) {
        for open in open {
            let ms = overlap_ms((self.start_ms, to_ms), (open.window.start_ms(), open.window.end_ms()));
            if ms > 0 {
                let bound = self.bounds.entry(open.window.start).or_default();
                *bound = bound.plus(level.for_ms(ms));
            }
        }
    }

    /// No bound can be computed for a meter.
    pub const fn unbound(&mut self, meter: Meter) {
        self.unbounded |= 1 << meter as u32;
    }

    /// The part of it in a window, for the manifest. An ongoing one reaches to the window's end.
    #[must_use]
    pub fn within(&self, window: Window) -> Option<UsageGap> {
        let start_ms = self.start_ms.max(window.start_ms());
        let end_ms = self.end_ms.unwrap_or(i64::MAX).min(window.end_ms());
        if start_ms >= end_ms {
            return None;
        }
        let levels = self.bounds.get(&window.start).copied().unwrap_or_default();
        let bound = Meter::ALL
            .into_iter()
            .filter(|meter| self.unbounded & (1 << *meter as u32) == 0)
            .map(|meter| (meter.as_str().to_owned(), levels.get(meter).to_string()))
            .collect();
        Some(UsageGap { reason: self.reason.as_str().to_owned(), start_ms, end_ms, bound })
    }
}

/// Milliseconds of a window in which no gap lies.
#[must_use]
pub fn coverage_ms(window: Window, gaps: &[UsageGap]) -> u64 {
    let mut stretches: Vec<(i64, i64)> = gaps.iter().map(|gap| (gap.start_ms, gap.end_ms)).collect();
    stretches.sort_unstable();
    let mut covered = window.end_ms() - window.start_ms();
    let mut reached = window.start_ms();
    for (start, end) in stretches {
        let start = start.max(reached);
        let end = end.min(window.end_ms());
        if start < end {
            covered -= end - start;
            reached = end;
        }
    }
    u64::try_from(covered).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window { start: 10, seconds: 10 }
    }

    fn open() -> Vec<OpenWindow> {
        vec![OpenWindow { window: window(), sums: BTreeMap::new() }]
    }

    #[test]
    fn a_gap_is_clipped_to_the_window_and_states_its_bound() {
        let mut gap = Gap::begin(GapReason::OperatorRestarted, 5_000);
        gap.learned(Levels::only(Meter::Pods, -2), 13_000, &open());
        gap.end_ms = Some(14_000);
        gap.unbound(Meter::Applications);
        let stated = gap.within(window()).unwrap();
        assert_eq!((stated.start_ms, stated.end_ms), (10_000, 14_000));
        assert_eq!(stated.bound["podCountMs"], "6000");
        assert!(!stated.bound.contains_key("applicationCountMs"));
        assert_eq!(gap.within(window().next()), None);
    }

    #[test]
    fn overlapping_gaps_are_missing_only_once() {
        let gap = |start_ms, end_ms| UsageGap { start_ms, end_ms, ..UsageGap::default() };
        assert_eq!(coverage_ms(window(), &[]), 10_000);
        assert_eq!(coverage_ms(window(), &[gap(11_000, 13_000), gap(12_000, 14_000), gap(0, 10_500)]), 6_500);
        assert_eq!(coverage_ms(window(), &[gap(0, 99_000), gap(12_000, 14_000)]), 0);
    }
}
