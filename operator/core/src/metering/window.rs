//! The open windows and the levels they go on from.
//!
//! Every open window takes every step, clipped to itself, so a step that is learned after a window's end but lies
//! before it still counts there until the window is sealed. A new window begins with the levels as they stand.

use super::{
    Levels,
    step_function::{Step, contribution},
};
use kubenova_schema::window::Window;
use std::collections::BTreeMap;

/// Windows that may be open at once. Only a long absence opens many: 1,000 hours are more than the 35 days a sealed
/// report is kept, so older ones would be evicted anyway.
pub const OPEN_WINDOWS_MAX: i64 = 1_000;

/// A window that is not sealed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenWindow {
    /// Which.
    pub window: Window,
    /// By tenant id: the integral over the whole window, if nothing changes any more.
    pub sums: BTreeMap<String, Levels>,
}

/// A tenant that has something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantLevels {
    /// Its name as last seen.
    pub name: String,
    /// What it has now.
    pub levels: Levels,
}

/// All open windows and the present levels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenWindows {
    /// Length of every window.
    pub seconds: u32,
    /// By tenant id.
    pub tenants: BTreeMap<String, TenantLevels>,
    /// Oldest first, without holes; never empty.
    pub open: Vec<OpenWindow>,
}

impl OpenWindows {
    /// One empty window that holds the instant.
    #[must_use]
    pub fn starting_at(now_ms: i64, seconds: u32) -> Self {
        let window = Window::containing(now_ms, seconds);
        Self {
            seconds: window.seconds,
            tenants: BTreeMap::new(),
            open: vec![OpenWindow { window, sums: BTreeMap::new() }],
        }
    }

    /// Start of the oldest open window: nothing before it can change any more.
    #[must_use]
    pub fn start_ms(&self) -> i64 {
        self.open.first().map_or(0, |open| open.window.start_ms())
    }

    /// The newest window.
    #[must_use]
    pub fn newest(&self) -> Option<Window> {
        self.open.last().map(|open| open.window)
    }

    /// Opens windows until one holds the instant. After an absence of more than [`OPEN_WINDOWS_MAX`] windows the ones
    /// in between are left out: a missing manifest is a gap, never zero.
    pub fn roll(&mut self, now_ms: i64) {
        let Some(mut newest) = self.newest() else { return };
        let expected = Window::containing(now_ms, self.seconds);
        let length = i64::from(self.seconds);
        if (expected.start - newest.start) / length > OPEN_WINDOWS_MAX {
            newest.start = expected.start - OPEN_WINDOWS_MAX * length;
        }
        while newest.end_ms() <= now_ms {
            newest = newest.next();
            let sums = self
                .tenants
                .iter()
                .filter(|(_, tenant)| !tenant.levels.is_zero())
                .map(|(id, tenant)| (id.clone(), tenant.levels.for_ms(newest.end_ms() - newest.start_ms())))
                .collect();
            self.open.push(OpenWindow { window: newest, sums });
        }
    }

    /// Takes a step into the levels and into every open window.
    pub fn apply(&mut self, step: &Step) {
        for open in &mut self.open {
            let added = contribution(step.change, step.at_ms, open.window.start_ms(), open.window.end_ms());
            if !added.is_zero() {
                let sum = open.sums.entry(step.tenant_id.clone()).or_default();
                *sum = sum.plus(added);
            }
        }
        let tenant = self.tenants.entry(step.tenant_id.clone()).or_default();
        tenant.levels = tenant.levels.plus(step.change);
    }

    /// Remembers a tenant's name.
    pub fn name(&mut self, tenant_id: &str, name: &str) {
        let tenant = self.tenants.entry(tenant_id.to_owned()).or_default();
        if tenant.name != name {
            name.clone_into(&mut tenant.name);
        }
    }

    /// Drops a sealed window, and the tenants that nothing refers to any more.
    pub fn forget(&mut self, window: Window) {
        self.open.retain(|open| open.window != window);
        let open = &self.open;
        self.tenants
            .retain(|id, tenant| !tenant.levels.is_zero() || open.iter().any(|open| open.sums.contains_key(id)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::step_function::Cause;
    use kubenova_schema::meters::Meter;
    use proptest::prelude::*;

    fn step(at_ms: i64, change: i128) -> Step {
        Step { tenant_id: "t".into(), at_ms, change: Levels::only(Meter::Pods, change), cause: Cause::Changed }
    }

    fn naive(steps: &[(i64, i128)], start: i64, end: i64) -> i128 {
        (start..end).map(|ms| steps.iter().filter(|(at, _)| *at <= ms).map(|(_, change)| change).sum::<i128>()).sum()
    }

    proptest! {
        #[test]
        fn windows_in_a_row_hold_the_integral_of_each(changes in prop::collection::vec((0_i64..900, -4_i128..5), 1..15)) {
            let mut windows = OpenWindows::starting_at(0, 1);
            let mut steps = Vec::new();
            let mut now = 0;
            for (wait, change) in changes {
                now += wait;
                windows.roll(now);
                windows.apply(&step(now, change));
                steps.push((now, change));
            }
            for open in &windows.open {
                let sum = open.sums.get("t").copied().unwrap_or_default().get(Meter::Pods);
                prop_assert_eq!(sum, naive(&steps, open.window.start_ms(), open.window.end_ms()));
            }
        }

        #[test]
        fn a_step_learned_late_counts_in_the_windows_still_open(late in 0_i64..3000) {
            let mut windows = OpenWindows::starting_at(0, 1);
            windows.roll(2500);
            windows.apply(&step(late, 3));
            for open in &windows.open {
                let sum = open.sums.get("t").copied().unwrap_or_default().get(Meter::Pods);
                prop_assert_eq!(sum, naive(&[(late, 3)], open.window.start_ms(), open.window.end_ms()));
            }
        }
    }

    #[test]
    fn a_long_absence_opens_a_bounded_number_of_windows() {
        let mut windows = OpenWindows::starting_at(0, 1);
        windows.apply(&step(0, 1));
        windows.roll(10_000_000);
        assert_eq!(windows.open.len(), 1 + usize::try_from(OPEN_WINDOWS_MAX).unwrap());
        assert_eq!(windows.newest().unwrap().start, 10_000);
    }
}
