//! The faults of the campaign, and the order in which a seed draws them.
//!
//! Each has the numbers of the fault matrix that it stands for (`docs/development.md`). How a fault is made is said in `inject`.

use std::time::Duration;

use kubenova_env::link::Slow;
use kubenova_env::network::Cut;
use kubenova_scenarios::seed::SplitMix64;

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    ManagerKilled,
    ManagerPaused,
    ManagerDiesAt(&'static str),
    SecondKilled,
    SecondPaused,
    SecondCutFromBroker,
    SecondCutFromDatabase,
    SecondSlow(Slow),
    PostgresKilled,
    PostgresRestarted,
    PostgresPaused,
    PostgresRestored,
    BrokerKilled,
    BrokerFlaps,
    BrokerPaused,
    BrokerStoreDeleted,
    BrokerStoreOld,
    BrokerStoreDamaged,
    MessagesRepeated,
    MessagesLost,
    MessagesUnreadable,
    MessagesUnknown,
    OperatorKilled,
    OperatorPaused,
    OperatorDiesAt(&'static str),
    /// Milliseconds by which its clock is wrong.
    OperatorClock(i64),
    TwoOperators,
    UplinkCut(Cut),
    ApiserverKilled,
    ApiserverPaused,
    ClusterCrashed,
    ClusterRestored,
    SimulatedKilled,
    SimulatedRestored,
    Storm,
}

/// A fault of the list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) fault: Fault,
    /// Numbers of the fault matrix.
    pub(crate) matrix: &'static str,
    what: &'static str,
    /// How long it lasts, at least and at most; zero when it ends by itself.
    seconds: (u64, u64),
}

const fn entry(fault: Fault, matrix: &'static str, what: &'static str, seconds: (u64, u64)) -> Entry {
    Entry { fault, matrix, what, seconds }
}

const fn manager_dies_at(point: &'static str) -> Entry {
    entry(Fault::ManagerDiesAt(point), "F1", "Manager aborts at", (0, 0))
}

const fn operator_dies_at(point: &'static str) -> Entry {
    entry(Fault::OperatorDiesAt(point), "F11", "Operator aborts at", (0, 0))
}

/// Every fault. The lengths of pauses and cuts lie on both sides of the time limits: 2 s pings, 10 s requests, 15 s leases, 30 s
/// acknowledgements, 45 s until a cluster is stale.
pub(crate) const FAULTS: &[Entry] = &[
    entry(Fault::ManagerKilled, "F1", "Manager killed", (0, 0)),
    manager_dies_at("api.committed"),
    manager_dies_at("relay.marked-sent"),
    manager_dies_at("relay.published"),
    manager_dies_at("ingest.outcome-committed"),
    manager_dies_at("usage.ingest.before-commit"),
    manager_dies_at("usage.ingest.after-commit"),
    manager_dies_at("billing.published"),
    entry(Fault::ManagerPaused, "F2", "Manager paused", (15, 40)),
    entry(Fault::SecondPaused, "F2", "second Manager paused", (20, 60)),
    entry(Fault::SecondKilled, "F2", "second Manager killed", (2, 15)),
    entry(Fault::SecondCutFromBroker, "F2 F8", "second Manager cut from the broker", (15, 40)),
    entry(Fault::SecondCutFromDatabase, "F2 F3 F8", "second Manager cut from PostgreSQL", (15, 40)),
    entry(
        Fault::SecondSlow(Slow::Late(Duration::from_secs(1))),
        "F2 F8",
        "second Manager's lines a second late",
        (15, 40),
    ),
    entry(Fault::SecondSlow(Slow::Narrow(1_000)), "F2 F8", "second Manager's lines with a kilobyte a second", (15, 40)),
    entry(Fault::PostgresKilled, "F3", "PostgreSQL killed", (2, 25)),
    entry(Fault::PostgresRestarted, "F3", "PostgreSQL restarted", (0, 0)),
    entry(Fault::PostgresPaused, "F3 F8", "PostgreSQL paused", (10, 30)),
    entry(Fault::BrokerKilled, "F4", "broker killed", (2, 20)),
    entry(Fault::BrokerFlaps, "F4", "broker killed every 2 s", (10, 16)),
    entry(Fault::BrokerPaused, "F4 F8", "broker paused", (10, 40)),
    entry(Fault::BrokerStoreDeleted, "F5", "broker's store deleted", (0, 0)),
    entry(Fault::BrokerStoreOld, "F5 F21", "broker's store replaced by an older copy", (6, 12)),
    entry(Fault::BrokerStoreDamaged, "F5", "broker's store damaged", (0, 0)),
    entry(Fault::UplinkCut(Cut::Silent), "F7 F8", "uplink silent", (20, 60)),
    entry(Fault::UplinkCut(Cut::SilentOutbound), "F8", "uplink silent outbound", (15, 40)),
    entry(Fault::UplinkCut(Cut::SilentInbound), "F8", "uplink silent inbound", (15, 40)),
    entry(Fault::UplinkCut(Cut::Down), "F7", "uplink down", (15, 40)),
    entry(Fault::MessagesRepeated, "F9 F10", "every message again, three times, in reverse", (0, 0)),
    entry(Fault::MessagesLost, "F10", "commands dropped on the way", (8, 15)),
    entry(Fault::OperatorKilled, "F11", "Operator killed", (0, 0)),
    operator_dies_at("inbound.verified"),
    operator_dies_at("inbound.stored"),
    operator_dies_at("dispatch.applied"),
    operator_dies_at("dispatch.noted"),
    operator_dies_at("outbound.outcome"),
    operator_dies_at("outbound.status"),
    operator_dies_at("outbound.heartbeat"),
    operator_dies_at("usage.checkpoint.before"),
    operator_dies_at("usage.seal.before"),
    operator_dies_at("usage.seal.after"),
    operator_dies_at("usage.publish.chunk"),
    entry(Fault::TwoOperators, "F12", "two Operators, the leader paused past its lease", (8, 15)),
    entry(Fault::OperatorPaused, "F12", "Operator paused", (10, 40)),
    entry(Fault::ApiserverKilled, "F13", "API server killed", (3, 20)),
    entry(Fault::ApiserverPaused, "F8 F13", "API server half open", (20, 60)),
    entry(Fault::ClusterCrashed, "F13", "API server and etcd killed", (0, 0)),
    entry(Fault::OperatorClock(5_000), "F15", "Operator's clock 5 s ahead", (10, 20)),
    entry(Fault::OperatorClock(-5_000), "F15", "Operator's clock 5 s behind", (10, 20)),
    entry(Fault::MessagesUnreadable, "F16", "unreadable messages", (0, 0)),
    entry(Fault::PostgresRestored, "F20", "PostgreSQL restored to a backup while clients write", (6, 12)),
    entry(Fault::ClusterRestored, "F21", "etcd of the real cluster restored to a backup", (6, 12)),
    entry(Fault::SimulatedRestored, "F21", "a third of the simulated clusters restored to a backup", (6, 12)),
    entry(Fault::MessagesUnknown, "F23", "commands of an unknown kind, fields of a later release", (0, 0)),
    entry(Fault::SimulatedKilled, "F11 F25", "every simulated Operator restarted at once", (0, 0)),
    entry(Fault::Storm, "F25", "Manager and broker restarted at once", (0, 0)),
];

/// Failpoints of the source that no fault of the list passes, with the scenario that has a process die there. The campaign's clients
/// write applications.
#[cfg(test)]
const ELSEWHERE: [(&str, &str); 15] = [
    ("dispatch.started", "fault_operations"),
    ("dispatch.writing", "fault_operators"),
    ("inbound.answer", "fault_lifecycle"),
    ("inbound.epoch-written", "fault_lifecycle"),
    ("inbound.fence-written", "fault_lifecycle"),
    ("join.answered", "fault_lifecycle"),
    ("join.keys-stored", "fault_lifecycle"),
    ("lease.lost", "fault_operators"),
    ("metering.lost", "fault_operators"),
    ("renew.answered", "life_renewal"),
    ("renew.stored", "life_renewal"),
    ("tenant.capsule-applied", "fault_lifecycle"),
    ("tenant.identities-applied", "fault_lifecycle"),
    ("tenant.namespaces-applied", "fault_lifecycle"),
    ("tenant.removal-step", "fault_lifecycle"),
];

impl Entry {
    /// Its name for a person.
    pub(crate) fn name(&self) -> String {
        match self.fault {
            Fault::ManagerDiesAt(point) | Fault::OperatorDiesAt(point) => format!("{} `{point}`", self.what),
            _ => self.what.to_owned(),
        }
    }
}

/// A fault of a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drawn {
    pub(crate) entry: Entry,
    pub(crate) lasts: Duration,
    /// For whatever else is random in it.
    pub(crate) seed: u64,
}

/// The faults of a campaign: all of the list (or those whose name contains `only`) as the seed shuffles them, then all again
/// shuffled otherwise, until there are enough.
pub(crate) fn schedule(seed: u64, rounds: Option<usize>, only: Option<&str>) -> Vec<Drawn> {
    let chosen: Vec<Entry> =
        FAULTS.iter().filter(|entry| only.is_none_or(|part| entry.name().contains(part))).copied().collect();
    let mut random = SplitMix64::new(seed);
    let mut drawn = Vec::new();
    while !chosen.is_empty() && drawn.len() < rounds.unwrap_or(chosen.len()) {
        let mut order = chosen.clone();
        for last in (1..order.len()).rev() {
            order.swap(last, below(&mut random, last + 1));
        }
        drawn.extend(order.into_iter().map(|entry| draw(entry, &mut random)));
    }
    drawn.truncate(rounds.unwrap_or(drawn.len()));
    drawn
}

fn draw(entry: Entry, random: &mut SplitMix64) -> Drawn {
    let (least, most) = entry.seconds;
    let lasts = Duration::from_millis(least * 1_000 + random.next() % ((most - least) * 1_000 + 1));
    Drawn { entry, lasts, seed: random.next() }
}

/// A number below a bound that is not zero.
pub(crate) fn below(random: &mut SplitMix64, bound: usize) -> usize {
    usize::try_from(random.next() % bound as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(drawn: &[Drawn]) -> Vec<String> {
        drawn.iter().map(|drawn| drawn.entry.name()).collect()
    }

    #[test]
    fn a_seed_draws_every_fault_once_before_any_a_second_time() {
        let all = names(&schedule(1, None, None));
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), FAULTS.len());
        assert_eq!(all, names(&schedule(1, None, None)));
        assert_ne!(all, names(&schedule(2, None, None)));
        assert_eq!(names(&schedule(1, Some(3), None)), all[..3]);
        assert_eq!(schedule(1, Some(FAULTS.len() + 2), None).len(), FAULTS.len() + 2);
    }

    #[test]
    fn lengths_stay_between_their_bounds() {
        for drawn in schedule(3, Some(500), None) {
            let (least, most) = drawn.entry.seconds;
            assert!((least..=most).contains(&drawn.lasts.as_secs()), "{drawn:?}");
        }
    }

    #[test]
    fn faults_can_be_chosen_by_their_names() {
        let drawn = schedule(1, Some(5), Some("relay.published"));
        assert_eq!(names(&drawn), vec!["Manager aborts at `relay.published`"; 5]);
        assert!(schedule(1, None, Some("no such fault")).is_empty());
    }

    /// Names of the failpoints in the source of both processes.
    fn failpoints() -> BTreeSet<String> {
        let root = kubenova_env::repository::root().unwrap();
        let mut folders = vec![root.join("manager"), root.join("operator")];
        let mut found = BTreeSet::new();
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|it| it == "rs") {
                    let text = std::fs::read_to_string(path).unwrap();
                    let named = text.replace("failpoint::waiting(", "failpoint::passing(");
                    let named = named.split("failpoint::passing(\"").skip(1).filter_map(|it| it.split('"').next());
                    found.extend(named.map(str::to_owned));
                }
            }
        }
        found
    }

    #[test]
    fn every_failpoint_of_the_source_is_in_the_list_or_in_the_scenario_that_dies_there() {
        let listed = FAULTS.iter().filter_map(|entry| match entry.fault {
            Fault::ManagerDiesAt(point) | Fault::OperatorDiesAt(point) => Some(point),
            _ => None,
        });
        let listed: BTreeSet<String> = listed.map(str::to_owned).collect();
        let elsewhere: BTreeSet<String> = ELSEWHERE.iter().map(|(point, _)| (*point).to_owned()).collect();
        let found = failpoints();
        assert!(found.is_superset(&listed), "{:?} are in no source", listed.difference(&found).collect::<Vec<_>>());
        let known = listed.union(&elsewhere).cloned().collect();
        assert_eq!(found.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "not in the list");
        assert_eq!(elsewhere.difference(&found).collect::<Vec<_>>(), Vec::<&String>::new(), "in no source");
        let root = kubenova_env::repository::root().unwrap();
        for (point, scenario) in ELSEWHERE {
            let text = std::fs::read_to_string(root.join(format!("tests/scenarios/tests/{scenario}.rs"))).unwrap();
            // Whole, or with the number of the passage.
            let is_there = [format!("\"{point}\""), format!("\"{point}:")].iter().any(|it| text.contains(it));
            assert!(is_there, "{scenario} has no process die at {point}");
        }
    }
}
