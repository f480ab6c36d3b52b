//! The meter itself: takes watch events with the time they were received, keeps levels, windows, gaps and positions.
//!
//! A step starts at creation, clipped to the oldest open window; every other step is at the time its event was
//! received. After a restart what happened meanwhile is dated at the checkpoint and the time between is a gap. The engine
//! reads no clock and does no I/O: the same calls give the same bytes.

use super::{
    Levels,
    gap::{Gap, GapReason},
    observed::{Observation, Observed, Source, TenantRef, When},
    step_function::{Cause, Step},
    window::OpenWindows,
};
use kubenova_schema::{meters::Meter, window::Window};
use std::collections::BTreeMap;

/// How many sources there are.
pub const SOURCES: usize = Source::ALL.len();

/// What a source holds at a version. No version: the kind is not installed in this cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The list's version.
    pub position: Option<u64>,
    /// Its objects.
    pub observations: Vec<Observation>,
}

/// A watch event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An object is there, new or changed.
    Put(Observation),
    /// An object is gone, as of a version.
    Removed {
        /// Its UID.
        uid: String,
        /// Version of its deletion.
        resource_version: u64,
    },
    /// Every change up to a version has been sent.
    Bookmark(u64),
}

/// Upper bounds of what tenants may hold, by tenant id: their quotas.
pub type Ceilings = BTreeMap<String, Levels>;

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// Without a checkpoint.
    First,
    /// The lists are of exactly the checkpoint's positions; what is at or below these versions happened meanwhile.
    Exact {
        /// By source, as of the restart.
        targets: [u64; SOURCES],
    },
    /// The API server no longer knows the checkpoint's positions; the lists are of now.
    Lost,
}

/// Everything that is measured. See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Windows and levels.
    pub windows: OpenWindows,
    /// Gaps in what was observed, oldest first; at most the last one is still open.
    pub gaps: Vec<Gap>,
    /// By source: everything up to this version is taken in.
    pub positions: [Option<u64>; SOURCES],
    /// The latest time of any event.
    pub now_ms: i64,
    /// Steps taken since the first start.
    pub sequence: u64,
    /// Hex SHA-256 of the last sealed manifest; empty before the first.
    pub previous_manifest_sha256: String,
    pub(super) observed: Observed,
    catch_up: Option<(i64, [u64; SOURCES])>,
    taken: Vec<Step>,
}

impl Engine {
    /// Without a past.
    #[must_use]
    pub fn fresh(now_ms: i64, seconds: u32) -> Self {
        Self {
            windows: OpenWindows::starting_at(now_ms, seconds),
            gaps: Vec::new(),
            positions: [None; SOURCES],
            now_ms,
            sequence: 0,
            previous_manifest_sha256: String::new(),
            observed: Observed::default(),
            catch_up: None,
            taken: Vec::new(),
        }
    }

    /// From parts of a checkpoint. Call [`Self::begin`] next.
    pub(super) fn restored(
        windows: OpenWindows,
        gaps: Vec<Gap>,
        positions: [Option<u64>; SOURCES],
        now_ms: i64,
        sequence: u64,
        previous_manifest_sha256: String,
    ) -> Self {
        Self {
            windows,
            gaps,
            positions,
            now_ms,
            sequence,
            previous_manifest_sha256,
            observed: Observed::default(),
            catch_up: None,
            taken: Vec::new(),
        }
    }

    /// Says whose namespaces are, by UID, for those whose label does not. Before [`Self::begin`].
    pub fn recognize(&mut self, namespaces: impl IntoIterator<Item = (String, TenantRef)>) {
        self.observed.recognize(namespaces);
    }

    /// Takes in the first lists of a run.
    pub fn begin(&mut self, listings: [Listing; SOURCES], how: Beginning, ceilings: Option<&Ceilings>, now_ms: i64) {
        let anchor_ms = match how {
            Beginning::First => self.windows.start_ms(),
            Beginning::Exact { .. } | Beginning::Lost => self.now_ms,
        };
        let received_ms = now_ms.max(anchor_ms);
        self.now_ms = self.now_ms.max(now_ms);
        self.windows.roll(self.now_ms);
        let reason = match how {
            Beginning::First => GapReason::FirstStart,
            Beginning::Exact { .. } => GapReason::OperatorRestarted,
            Beginning::Lost => GapReason::HistoryLost,
        };
        if let Some(open) = self.gaps.last_mut().filter(|gap| gap.end_ms.is_none()) {
            open.end_ms = Some(anchor_ms.max(open.start_ms));
        }
        self.gaps.push(Gap::begin(reason, anchor_ms));
        let mut net: BTreeMap<(String, i64), Levels> = BTreeMap::new();
        for (id, tenant) in self.windows.tenants.iter().filter(|(_, tenant)| !tenant.levels.is_zero()) {
            net.insert((id.clone(), anchor_ms), Levels::ZERO.minus(tenant.levels));
        }
        let when = When { floor_ms: anchor_ms, dated_ms: anchor_ms, received_ms };
        for (source, listing) in Source::ALL.into_iter().zip(listings) {
            self.positions[source as usize] = listing.position;
            for observation in listing.observations {
                for step in self.observed.put(source, observation, when) {
                    let sum = net.entry((step.tenant_id, step.at_ms)).or_default();
                    *sum = sum.plus(step.change);
                }
            }
        }
        for ((tenant_id, at_ms), change) in net {
            let learned_late = at_ms == anchor_ms && how != Beginning::First;
            let step = Step { tenant_id, at_ms, change, cause: Cause::CaughtUp };
            self.take(step, learned_late.then_some(received_ms));
        }
        match how {
            Beginning::Exact { targets } => self.catch_up = Some((anchor_ms, targets)),
            Beginning::First | Beginning::Lost => {
                self.bound_by_ceilings(ceilings, received_ms);
                self.all_current(received_ms);
            }
        }
        self.name_tenants();
        self.advance(now_ms);
    }

    /// Takes in a watch event.
    pub fn observe(&mut self, source: Source, change: Change, received_ms: i64) {
        self.advance(received_ms);
        let version = match &change {
            Change::Put(observation) => observation.resource_version,
            Change::Removed { resource_version, .. } | Change::Bookmark(resource_version) => *resource_version,
        };
        let caught_up = self.catch_up.filter(|(_, targets)| version <= targets[source as usize]);
        let when = When {
            floor_ms: self.windows.start_ms(),
            dated_ms: caught_up.map_or(received_ms, |(anchor_ms, _)| anchor_ms),
            received_ms,
        };
        let steps = match change {
            Change::Put(observation) => self.observed.put(source, observation, when),
            Change::Removed { uid, .. } => self.observed.remove(&uid, when),
            Change::Bookmark(_) => Vec::new(),
        };
        self.take_all(steps, received_ms);
        let position = &mut self.positions[source as usize];
        *position = Some(position.map_or(version, |position| position.max(version)));
        if source == Source::Namespaces {
            self.name_tenants();
        }
    }

    /// A source was listed again because its history was gone, or its kind was installed or removed.
    pub fn relisted(
        &mut self,
        source: Source,
        listing: Listing,
        since_ms: i64,
        ceilings: Option<&Ceilings>,
        received_ms: i64,
    ) {
        self.advance(received_ms);
        let was_there = self.positions[source as usize].is_some();
        let is_there = listing.position.is_some();
        let mut dated_ms = received_ms;
        if was_there && is_there {
            self.interrupted(since_ms);
            if let Some(gap) = self.open_gap() {
                gap.reason = GapReason::HistoryLost;
                dated_ms = gap.start_ms;
            }
        }
        let when = When { floor_ms: self.windows.start_ms(), dated_ms, received_ms };
        let steps = self.observed.replace(source, listing.observations, when);
        self.take_all(steps, received_ms);
        if was_there && is_there {
            self.bound_by_ceilings(ceilings, received_ms);
        }
        self.positions[source as usize] = listing.position;
        self.name_tenants();
    }

    /// UIDs of namespaces that are counted although their label names no tenant, each with the tenant.
    pub fn unlabelled(&self) -> impl Iterator<Item = (&str, &TenantRef)> {
        self.observed.unlabelled()
    }

    /// A namespace without a label is no tenant's any more, as of now.
    pub fn release(&mut self, uid: &str, now_ms: i64) {
        self.advance(now_ms);
        let when = When { floor_ms: self.windows.start_ms(), dated_ms: now_ms, received_ms: now_ms };
        let steps = self.observed.release(uid, when);
        self.take_all(steps, now_ms);
    }

    /// A watch is no longer current; it last was at `since_ms`.
    pub fn interrupted(&mut self, since_ms: i64) {
        if self.open_gap().is_none() {
            let since_ms = since_ms.min(self.now_ms);
            self.gaps.push(Gap::begin(GapReason::WatchInterrupted, since_ms));
        }
    }

    /// Moves the clock on: windows open, grace periods end.
    pub fn advance(&mut self, now_ms: i64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.windows.roll(self.now_ms);
        for step in self.observed.expire(now_ms) {
            self.take(step, None);
        }
    }

    /// True while a gap is open.
    #[must_use]
    pub fn has_open_gap(&self) -> bool {
        self.gaps.last().is_some_and(|gap| gap.end_ms.is_none())
    }

    /// True when every event of a source up to a version is taken in. No version: the kind is not installed.
    #[must_use]
    pub fn has_passed(&self, source: Source, target: Option<u64>) -> bool {
        match (self.positions[source as usize], target) {
            (Some(position), Some(target)) => position >= target,
            (None, None) => true,
            _ => false,
        }
    }

    /// True when a full list (UID and version) is what was observed.
    #[must_use]
    pub fn agrees(&self, source: Source, listed: &[(String, u64)]) -> bool {
        self.observed.agrees(source, listed)
    }

    /// Every watch is current again: the gap, if one is open, ends.
    pub fn all_current(&mut self, now_ms: i64) {
        self.catch_up = None;
        if let Some(gap) = self.open_gap() {
            gap.end_ms = Some(now_ms.max(gap.start_ms));
        }
    }

    /// The oldest window that is over but not sealed.
    #[must_use]
    pub fn due(&self) -> Option<Window> {
        self.windows.open.first().map(|open| open.window).filter(|window| window.end_ms() <= self.now_ms)
    }

    /// A window is sealed and stored: it is not counted in any more.
    pub fn forget(&mut self, window: Window, manifest_sha256: &str) {
        self.windows.forget(window);
        manifest_sha256.clone_into(&mut self.previous_manifest_sha256);
        let start_ms = self.windows.start_ms();
        self.gaps.retain(|gap| gap.end_ms.is_none_or(|end_ms| end_ms > start_ms));
    }

    /// The steps taken since the last call, each with its number, as they were counted.
    pub fn drain_steps(&mut self) -> Vec<(u64, Step)> {
        let first = self.sequence - self.taken.len() as u64;
        std::mem::take(&mut self.taken)
            .into_iter()
            .enumerate()
            .map(|(index, step)| (first + index as u64 + 1, step))
            .collect()
    }

    fn open_gap(&mut self) -> Option<&mut Gap> {
        self.gaps.last_mut().filter(|gap| gap.end_ms.is_none())
    }

    fn take_all(&mut self, steps: Vec<Step>, received_ms: i64) {
        for step in steps {
            let learned_late = !matches!(step.cause, Cause::Created | Cause::Expired);
            self.take(step, learned_late.then_some(received_ms));
        }
    }

    fn take(&mut self, mut step: Step, learned_late_ms: Option<i64>) {
        if step.change.is_zero() {
            return;
        }
        step.at_ms = step.at_ms.max(self.windows.start_ms());
        self.windows.apply(&step);
        if let (Some(received_ms), Some(gap)) =
            (learned_late_ms, self.gaps.last_mut().filter(|gap| gap.end_ms.is_none()))
        {
            gap.learned(step.change, received_ms, &self.windows.open);
        }
        self.sequence += 1;
        self.taken.push(step);
    }

    /// Quotas bound what a gap may hide, but only when every observed tenant has one.
    fn bound_by_ceilings(&mut self, ceilings: Option<&Ceilings>, to_ms: i64) {
        let Some(gap) = self.gaps.last_mut().filter(|gap| gap.end_ms.is_none()) else { return };
        let known = self.windows.tenants.keys().chain(self.observed.tenants().map(|tenant| &tenant.id));
        let ceilings = ceilings.filter(|ceilings| known.into_iter().all(|id| ceilings.contains_key(id)));
        for meter in Meter::ALL {
            let has_quota = matches!(meter, Meter::CpuRequests | Meter::MemoryRequests | Meter::Pods);
            if ceilings.is_none() || !has_quota {
                gap.unbound(meter);
            }
        }
        let total =
            ceilings.into_iter().flat_map(BTreeMap::values).fold(Levels::ZERO, |sum, ceiling| sum.plus(*ceiling));
        gap.hides(total, to_ms, &self.windows.open);
    }

    fn name_tenants(&mut self) {
        for tenant in self.observed.tenants() {
            self.windows.name(&tenant.id, &tenant.name);
        }
    }
}

#[cfg(test)]
mod tests;
