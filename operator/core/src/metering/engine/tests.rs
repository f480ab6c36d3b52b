//! The engine against hand-computed sums, and against the brute-force integral of random lives of pods.

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
    let listing = |observations| Listing { position: Some(1), observations };
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
fn a_pod_observed_before_its_namespace_counts_from_its_creation() {
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
fn a_namespace_that_loses_its_label_stays_with_its_tenant() {
    let mut engine = started(10_000);
    engine.observe(Source::Pods, Change::Put(pod("p", "acme-apps", 1, 10_000, 2)), 10_000);
    engine.observe(Source::Namespaces, Change::Put(namespace("n", "acme-apps", None, 0, 3)), 12_000);
    engine.observe(Source::Pods, Change::Put(pod("q", "acme-apps", 1, 13_000, 4)), 13_000);
    assert_eq!(engine.unlabelled().map(|(uid, tenant)| (uid, tenant.id.as_str())).collect::<Vec<_>>(), [("n", "t")]);
    assert_eq!(sum(&engine, 0, Meter::Pods), 10_000 + 7_000);
    assert_eq!(sum(&engine, 0, Meter::Namespaces), 10_000);
    engine.observe(Source::Namespaces, Change::Put(namespace("n", "acme-apps", Some("t"), 0, 5)), 14_000);
    assert_eq!(engine.unlabelled().count(), 0);
    assert_eq!(sum(&engine, 0, Meter::Pods), 10_000 + 7_000, "the label that comes back is no step");
    engine.observe(Source::Namespaces, Change::Removed { uid: "n".into(), resource_version: 6 }, 15_000);
    engine.observe(Source::Namespaces, Change::Put(namespace("m", "acme-apps", None, 15_000, 7)), 15_000);
    assert_eq!(sum(&engine, 0, Meter::Pods), 5_000 + 2_000, "another namespace of the name is no tenant's");
}

#[test]
fn an_unlabelled_namespace_is_recognized_after_a_restart_and_released_when_its_tenant_is_gone() {
    let mut engine = Engine::fresh(10_000, 10);
    engine.recognize([("n".to_owned(), TenantRef { id: "t".into(), name: "t".into() })]);
    let namespaces = at(1, vec![namespace("n", "acme-apps", None, 0, 1), namespace("m", "b-apps", None, 0, 1)]);
    let pods = at(1, vec![pod("p", "acme-apps", 1, 0, 1), pod("q", "b-apps", 1, 0, 1)]);
    engine.begin([namespaces, pods, Listing::default()], Beginning::First, None, 10_000);
    assert_eq!(sum(&engine, 0, Meter::Pods), 10_000, "that of the namespace which is known");
    engine.release("n", 14_000);
    assert_eq!((sum(&engine, 0, Meter::Pods), sum(&engine, 0, Meter::Namespaces)), (4_000, 4_000));
    engine.observe(Source::Namespaces, Change::Put(namespace("n", "acme-apps", None, 0, 9)), 16_000);
    assert_eq!(sum(&engine, 0, Meter::Pods), 4_000, "it stays released");
    engine.observe(Source::Namespaces, Change::Put(namespace("n", "acme-apps", Some("t"), 0, 10)), 18_000);
    assert_eq!(sum(&engine, 0, Meter::Pods), 4_000 + 2_000, "unless it is labelled again");
    engine.release("n", 19_000);
    assert_eq!(sum(&engine, 0, Meter::Pods), 4_000 + 2_000, "what has its label is not released");
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

fn at(position: u64, observations: Vec<Observation>) -> Listing {
    Listing { position: Some(position), observations }
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
    let ceilings = Ceilings::from([("t".to_owned(), Levels::only(Meter::CpuRequests, 1_000).with(Meter::Pods, 50))]);
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
    let app =
        |uid: &str| Observation { levels: Levels::only(Meter::Applications, 1), ..pod(uid, "acme-apps", 0, 12_000, 5) };
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
                let observation = pod(&uid, "acme-apps", level, created_ms, version);
                let before = alive.insert(index, (observation.clone(), level)).map_or(0, |(_, level)| level);
                model.push((if what == 0 { created_ms } else { at_ms }, level - before));
                engine.observe(Source::Pods, Change::Put(observation), at_ms);
            }
            if count == restart_at {
                let namespaces = at(1, vec![namespace("n", "acme-apps", Some("t"), 0, 1)]);
                let pods = at(version, alive.values().map(|(observation, _)| observation.clone()).collect());
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
