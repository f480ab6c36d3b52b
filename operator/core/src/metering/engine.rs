//! The meter itself: takes what the watches say with the time it was heard, keeps levels, windows, gaps and positions.
//!
//! A step starts at creation, clipped to the oldest open window; every other step is at the time its event was
//! received. After a restart what happened meanwhile is dated at the checkpoint and the stretch is a gap. The engine
//! reads no clock and does no I/O: the same calls give the same bytes.

use super::{
    Levels,
    gap::{Gap, GapReason},
    observed::{Observation, Observed, Source, When},
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
    pub sightings: Vec<Observation>,
}

/// What a watch says.
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
    /// Everything up to a version has been said.
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
    /// Stretches not observed, oldest first; at most the last one is still open.
    pub gaps: Vec<Gap>,
    /// By source: everything up to this version is taken in.
    pub positions: [Option<u64>; SOURCES],
    /// The latest time anything was heard.
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
            for sighting in listing.sightings {
                for step in self.observed.put(source, sighting, when) {
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

    /// Takes in what a watch says.
    pub fn observe(&mut self, source: Source, change: Change, received_ms: i64) {
        self.advance(received_ms);
        let version = match &change {
            Change::Put(sighting) => sighting.resource_version,
            Change::Removed { resource_version, .. } | Change::Bookmark(resource_version) => *resource_version,
        };
        let caught_up = self.catch_up.filter(|(_, targets)| version <= targets[source as usize]);
        let when = When {
            floor_ms: self.windows.start_ms(),
            dated_ms: caught_up.map_or(received_ms, |(anchor_ms, _)| anchor_ms),
            received_ms,
        };
        let steps = match change {
            Change::Put(sighting) => self.observed.put(source, sighting, when),
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

    /// A source was listed again because its history was gone, or its kind came or went.
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
        let steps = self.observed.replace(source, listing.sightings, when);
        self.take_all(steps, received_ms);
        if was_there && is_there {
            self.bound_by_ceilings(ceilings, received_ms);
        }
        self.positions[source as usize] = listing.position;
        self.name_tenants();
    }

    /// A watch is no longer current; it last was at `since_ms`.
    pub fn interrupted(&mut self, since_ms: i64) {
        if self.open_gap().is_none() {
            let since_ms = since_ms.min(self.now_ms);
            self.gaps.push(Gap::begin(GapReason::WatchInterrupted, since_ms));
        }
    }

    /// Time passes: windows open, graces end.
    pub fn advance(&mut self, now_ms: i64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.windows.roll(self.now_ms);
        for step in self.observed.expire(now_ms) {
            self.take(step, None);
        }
    }

    /// True while a stretch is not observed.
    #[must_use]
    pub fn has_open_gap(&self) -> bool {
        self.gaps.last().is_some_and(|gap| gap.end_ms.is_none())
    }

    /// True when everything a source said up to a version is taken in. No version: the kind is not installed.
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

    /// Quotas bound what an unobserved stretch may hide, but only when every tenant known here has one.
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
mod tests {
    use super::*;
    use crate::metering::observed::TenantRef;
    use proptest::prelude::*;

    fn namespace(uid: &str, name: &str, tenant: Option<&str>, created_ms: i64, version: u64) -> Observation {
        Observation {
            uid: uid.into(),
            namespace: name.into(),
            resource_version: version,
            created_ms,
            until_ms: None,
            tenant: tenant.map(|id| TenantRef { id: id.into(), name: id.into() }),
            levels: Levels::only(Meter::Namespaces, 1),
        }
    }

    fn pod(uid: &str, namespace: &str, cpu: i128, created_ms: i64, version: u64) -> Observation {
        Observation {
            uid: uid.into(),
            namespace: namespace.into(),
            resource_version: version,
            created_ms,
            until_ms: None,
            tenant: None,
            levels: Levels::only(Meter::CpuRequests, cpu).with(Meter::Pods, 1),
        }
    }

    fn started(now_ms: i64) -> Engine {
        let mut engine = Engine::fresh(now_ms, 10);
        let listing = |sightings| Listing { position: Some(1), sightings };
        let namespaces = listing(vec![namespace("n", "acme-apps", Some("t"), 0, 1)]);
        engine.begin([namespaces, listing(vec![]), Listing::default()], Beginning::First, None, now_ms);
        engine
    }

    fn sum(engine: &Engine, index: usize, meter: Meter) -> i128 {
        engine.windows.open[index].sums.get("t").copied().unwrap_or_default().get(meter)
    }

    #[test]
    fn a_pod_counts_from_creation_to_the_event_of_its_end() {
        let mut engine = started(10_000);
        engine.observe(Source::Pods, Change::Put(pod("p", "acme-apps", 500, 12_000, 2)), 12_345);
        engine.observe(Source::Pods, Change::Removed { uid: "p".into(), resource_version: 3 }, 15_500);
        assert_eq!(sum(&engine, 0, Meter::CpuRequests), 500 * 3_500);
        assert_eq!(sum(&engine, 0, Meter::Pods), 3_500);
        assert_eq!(sum(&engine, 0, Meter::Namespaces), 10_000);
    }

    #[test]
    fn a_pod_heard_before_its_namespace_counts_from_its_creation() {
        let mut engine = started(10_000);
        engine.observe(Source::Pods, Change::Put(pod("p", "late-apps", 1, 12_000, 2)), 12_100);
        assert_eq!(sum(&engine, 0, Meter::Pods), 0);
        engine.observe(Source::Namespaces, Change::Put(namespace("m", "late-apps", Some("t"), 11_000, 3)), 12_200);
        assert_eq!(sum(&engine, 0, Meter::Pods), 8_000);
        assert_eq!(sum(&engine, 0, Meter::Namespaces), 10_000 + 9_000);
    }

    #[test]
    fn a_label_given_later_counts_from_then() {
        let mut engine = started(10_000);
        engine.observe(Source::Namespaces, Change::Put(namespace("m", "x", None, 11_000, 2)), 11_000);
        engine.observe(Source::Pods, Change::Put(pod("p", "x", 1, 11_000, 3)), 11_000);
        engine.observe(Source::Namespaces, Change::Put(namespace("m", "x", Some("t"), 11_000, 4)), 15_000);
        assert_eq!(sum(&engine, 0, Meter::Pods), 5_000);
        engine.observe(Source::Namespaces, Change::Put(namespace("m", "x", Some("other"), 11_000, 5)), 16_000);
        assert_eq!(sum(&engine, 0, Meter::Pods), 1_000);
        assert_eq!(engine.windows.open[0].sums["other"].get(Meter::Pods), 4_000);
    }

    #[test]
    fn a_late_event_counts_in_the_window_that_is_over_but_open() {
        let mut engine = started(10_000);
        engine.observe(Source::Pods, Change::Put(pod("p", "acme-apps", 1, 19_000, 2)), 20_300);
        assert_eq!((sum(&engine, 0, Meter::Pods), sum(&engine, 1, Meter::Pods)), (1_000, 10_000));
        assert_eq!(engine.due().map(|window| window.start), Some(10));
        engine.forget(engine.due().unwrap(), "h");
        assert_eq!(engine.due(), None);
        engine.observe(Source::Pods, Change::Put(pod("q", "acme-apps", 1, 19_000, 3)), 20_400);
        assert_eq!(sum(&engine, 0, Meter::Pods), 20_000, "clipped to the oldest open window");
    }

    #[test]
    fn a_pod_past_its_grace_stops_counting_by_itself() {
        let mut engine = started(10_000);
        engine.observe(Source::Pods, Change::Put(pod("p", "acme-apps", 1, 10_000, 2)), 10_000);
        let mut going = pod("p", "acme-apps", 1, 10_000, 3);
        going.until_ms = Some(14_000);
        engine.observe(Source::Pods, Change::Put(going), 11_000);
        engine.advance(18_000);
        assert_eq!(sum(&engine, 0, Meter::Pods), 4_000);
        engine.observe(Source::Pods, Change::Removed { uid: "p".into(), resource_version: 4 }, 19_000);
        assert_eq!(sum(&engine, 0, Meter::Pods), 4_000);
    }

    #[test]
    fn the_first_start_states_what_it_did_not_see() {
        let mut engine = started(14_000);
        let gap = engine.gaps[0].within(engine.windows.open[0].window).unwrap();
        assert_eq!((gap.reason.as_str(), gap.start_ms, gap.end_ms), ("FirstStart", 10_000, 14_000));
        assert!(gap.bound.is_empty());
        engine.observe(Source::Pods, Change::Put(pod("p", "acme-apps", 1, 1_000, 2)), 15_000);
        assert_eq!(sum(&engine, 0, Meter::Pods), 10_000, "it existed before the window");
    }

    fn restart(
        engine: &Engine,
        listings: [Listing; SOURCES],
        how: Beginning,
        ceilings: Option<&Ceilings>,
        now_ms: i64,
    ) -> Engine {
        let bytes = crate::metering::checkpoint::to_bytes(engine);
        let mut restored = crate::metering::checkpoint::from_bytes(&bytes).unwrap();
        restored.begin(listings, how, ceilings, now_ms);
        restored
    }

    fn at(position: u64, sightings: Vec<Observation>) -> Listing {
        Listing { position: Some(position), sightings }
    }

    #[test]
    fn a_restart_with_history_dates_what_happened_at_the_checkpoint_and_says_so() {
        let mut engine = started(10_000);
        let first = pod("p", "acme-apps", 1, 11_000, 2);
        engine.observe(Source::Pods, Change::Put(first.clone()), 11_000);
        engine.advance(13_000);
        let namespaces = at(1, vec![namespace("n", "acme-apps", Some("t"), 0, 1)]);
        let exact = Beginning::Exact { targets: [9, 9, 0] };
        let mut engine = restart(&engine, [namespaces, at(2, vec![first]), Listing::default()], exact, None, 17_000);
        assert_eq!(sum(&engine, 0, Meter::Pods), 9_000, "nothing changed yet");
        engine.observe(Source::Pods, Change::Put(pod("q", "acme-apps", 1, 15_000, 5)), 17_000);
        engine.observe(Source::Pods, Change::Removed { uid: "p".into(), resource_version: 6 }, 17_000);
        engine.all_current(17_500);
        assert_eq!(sum(&engine, 0, Meter::Pods), 2_000 + 5_000);
        let gap = engine.gaps.last().unwrap().within(engine.windows.open[0].window).unwrap();
        assert_eq!((gap.reason.as_str(), gap.start_ms, gap.end_ms), ("OperatorRestarted", 13_000, 17_500));
        assert_eq!(gap.bound["podCountMs"], "4000");
        engine.observe(Source::Pods, Change::Removed { uid: "q".into(), resource_version: 10 }, 18_000);
        assert_eq!(sum(&engine, 0, Meter::Pods), 2_000 + 3_000, "live again");
    }

    #[test]
    fn a_restart_without_history_ends_what_vanished_at_the_checkpoint_bounded_by_quota() {
        let mut engine = started(10_000);
        engine.observe(Source::Pods, Change::Put(pod("p", "acme-apps", 100, 11_000, 2)), 11_000);
        engine.advance(13_000);
        let namespaces = at(90, vec![namespace("n", "acme-apps", Some("t"), 0, 1)]);
        let pods = at(90, vec![pod("q", "acme-apps", 100, 16_000, 80)]);
        let ceilings =
            Ceilings::from([("t".to_owned(), Levels::only(Meter::CpuRequests, 1_000).with(Meter::Pods, 50))]);
        let engine = restart(&engine, [namespaces, pods, Listing::default()], Beginning::Lost, Some(&ceilings), 18_000);
        assert_eq!(sum(&engine, 0, Meter::Pods), 2_000 + 4_000);
        let gap = engine.gaps.last().unwrap().within(engine.windows.open[0].window).unwrap();
        assert_eq!((gap.reason.as_str(), gap.start_ms, gap.end_ms), ("HistoryLost", 13_000, 18_000));
        assert_eq!(gap.bound["cpuRequestMillicoreMs"], ((1_000 + 100) * 5_000).to_string());
        assert!(!gap.bound.contains_key("namespaceCountMs"));
    }

    #[test]
    fn a_tenant_without_a_quota_leaves_the_gap_without_a_bound() {
        let engine = started(10_000);
        let namespaces = at(90, vec![namespace("n", "acme-apps", Some("t"), 0, 1)]);
        let engine = restart(
            &engine,
            [namespaces, at(90, vec![]), Listing::default()],
            Beginning::Lost,
            Some(&Ceilings::new()),
            12_000,
        );
        assert!(engine.gaps.last().unwrap().within(engine.windows.open[0].window).unwrap().bound.is_empty());
    }

    #[test]
    fn a_restart_over_window_edges_goes_on_with_the_levels() {
        let mut engine = started(10_000);
        let first = pod("p", "acme-apps", 1, 11_000, 2);
        engine.observe(Source::Pods, Change::Put(first.clone()), 11_000);
        let namespaces = at(1, vec![namespace("n", "acme-apps", Some("t"), 0, 1)]);
        let exact = Beginning::Exact { targets: [9, 9, 0] };
        let engine = restart(&engine, [namespaces, at(2, vec![first]), Listing::default()], exact, None, 35_000);
        let sums: Vec<i128> = (0..3).map(|index| sum(&engine, index, Meter::Pods)).collect();
        assert_eq!(sums, [9_000, 10_000, 10_000]);
    }

    #[test]
    fn a_kind_that_comes_and_goes_is_no_gap() {
        let mut engine = started(10_000);
        let app = |uid: &str| Observation {
            levels: Levels::only(Meter::Applications, 1),
            ..pod(uid, "acme-apps", 0, 12_000, 5)
        };
        engine.relisted(Source::Applications, at(5, vec![app("a")]), 11_000, None, 13_000);
        assert_eq!(sum(&engine, 0, Meter::Applications), 8_000);
        engine.relisted(Source::Applications, Listing::default(), 11_000, None, 15_000);
        assert_eq!(sum(&engine, 0, Meter::Applications), 3_000);
        assert!(!engine.has_open_gap());
        assert!(engine.has_passed(Source::Applications, None));
    }

    #[test]
    fn a_watch_that_lost_its_history_dates_what_vanished_at_its_last_moment() {
        let mut engine = started(10_000);
        engine.observe(Source::Pods, Change::Put(pod("p", "acme-apps", 1, 11_000, 2)), 11_000);
        engine.relisted(Source::Pods, at(50, vec![]), 13_000, None, 16_000);
        assert_eq!(sum(&engine, 0, Meter::Pods), 2_000);
        assert!(engine.has_open_gap());
        engine.all_current(16_100);
        let gap = engine.gaps.last().unwrap();
        assert_eq!((gap.reason, gap.start_ms, gap.end_ms), (GapReason::HistoryLost, 13_000, Some(16_100)));
    }

    /// One pod's life: created, resized, gone, in milliseconds after the start.
    type Life = (u16, u16, i128, u16, i128, u16);

    fn events(lives: &[Life]) -> Vec<(i64, usize, u8)> {
        let mut events = Vec::new();
        for (index, (slot, create, _, resize, _, end)) in lives.iter().enumerate() {
            let created = i64::from(*slot) * 1000 + i64::from(*create % 700);
            let resized = created + 1 + i64::from(*resize);
            events.push((created, index, 0));
            events.push((resized, index, 1));
            events.push((resized + 1 + i64::from(*end), index, 2));
        }
        events.sort_unstable();
        events
    }

    proptest! {
        /// D1, D3: the sealed sums are the brute-force integral of what was observed, however events of different
        /// pods interleave and wherever a restart with history falls while nothing happens.
        #[test]
        fn sums_are_the_integral_of_what_was_observed(
            lives in prop::collection::vec((0_u16..30, 0_u16..700, 1_i128..50, 0_u16..9000, 1_i128..50, 0_u16..9000), 1..8),
            restart_at in 0_usize..24,
        ) {
            let mut engine = started(0);
            let mut model: Vec<(i64, i128)> = Vec::new();
            let mut alive: BTreeMap<usize, (Observation, i128)> = BTreeMap::new();
            let mut version = 10;
            for (count, (at_ms, index, what)) in events(&lives).into_iter().enumerate() {
                version += 1;
                let (slot, _, cpu, _, resized, _) = lives[index];
                let uid = format!("p{index}");
                let created_ms = i64::from(slot) * 1000;
                if what == 2 {
                    let (_, level) = alive.remove(&index).unwrap();
                    model.push((at_ms, -level));
                    engine.observe(Source::Pods, Change::Removed { uid, resource_version: version }, at_ms);
                } else {
                    let level = if what == 0 { cpu } else { resized };
                    let sighting = pod(&uid, "acme-apps", level, created_ms, version);
                    let before = alive.insert(index, (sighting.clone(), level)).map_or(0, |(_, level)| level);
                    model.push((if what == 0 { created_ms } else { at_ms }, level - before));
                    engine.observe(Source::Pods, Change::Put(sighting), at_ms);
                }
                if count == restart_at {
                    let namespaces = at(1, vec![namespace("n", "acme-apps", Some("t"), 0, 1)]);
                    let pods = at(version, alive.values().map(|(sighting, _)| sighting.clone()).collect());
                    let exact = Beginning::Exact { targets: [version, version, 0] };
                    let now_ms = engine.now_ms;
                    engine = restart(&engine, [namespaces, pods, Listing::default()], exact, None, now_ms);
                    engine.all_current(now_ms);
                }
            }
            for open in &engine.windows.open {
                let (start, end) = (open.window.start_ms(), open.window.end_ms());
                let expected: i128 = model
                    .iter()
                    .map(|(at_ms, change)| change * i128::from((end - (*at_ms).max(start)).max(0)))
                    .sum();
                let sum = open.sums.get("t").copied().unwrap_or_default().get(Meter::CpuRequests);
                prop_assert_eq!(sum, expected, "window {}", open.window);
            }
        }
    }
}
