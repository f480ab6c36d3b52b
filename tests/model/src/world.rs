//! Everything together, one step at a time: a seed decides who does what next, what is lost, repeated, late or out of order, and
//! who crashes.

use crate::{
    cluster::{Cluster, Record},
    invariants::{self, Broken, Seen},
    mutant::Mutant,
    operator::{Now, Operator, Step},
    random::Random,
    store::{Kind, Message, Outcome, Queue, Row, SETTLED_AFTER},
};
use kubenova_core::command::CommandState;

/// Clusters of a world.
const CLUSTERS: usize = 2;
/// Operators of each: one that was paused, and the one that took over, at any time.
const OPERATORS: usize = 2;
/// Most objects of each. With one only, every command meets the one before.
const KEYS_MAX: usize = 4;
/// Longest time that an operation has, in seconds.
const DEADLINE_MAX: usize = 200;
/// Steps of trouble before everything heals.
const STEPS: usize = 400;
/// Times that a record is carried further until it has ended: once to begin, once to find that it is done.
const CALLS_TO_SETTLE: usize = 3;
/// Rounds within which everything must have converged once nothing is lost any more.
const ROUNDS_TO_CONVERGE: usize = 200;

/// One cluster's side of the world: its rows, the wire to it and back, and itself.
#[derive(Debug, Clone, Default)]
struct Side {
    queue: Queue,
    /// What Managers claimed and did not send yet.
    claimed: Vec<Message>,
    /// What the broker holds for the cluster.
    wire: Vec<Message>,
    /// What the broker holds for the Managers.
    reports: Vec<Outcome>,
    cluster: Cluster,
    operators: [Operator; OPERATORS],
    /// What each of them is handling, as the broker holds it.
    taken: [Option<Message>; OPERATORS],
    seen: Seen,
    /// Backups of the cluster's etcd and of the database, each with what was seen then.
    etcd: Option<(Cluster, Seen)>,
    database: Option<(Queue, Seen)>,
    /// The cluster's hello was refused because it holds what the database does not: this revision and command at most.
    diverged: Option<(u64, u64)>,
    /// Operators that had a message in their hands then, and may still store it.
    storing: [bool; OPERATORS],
}

/// A world.
#[derive(Debug)]
pub struct World {
    random: Random,
    sides: Vec<Side>,
    mutant: Option<Mutant>,
    /// Objects of each cluster.
    keys: usize,
    /// The Operator that works; the other one is paused most of the time, in the middle of what it was about to do.
    awake: usize,
    /// Of a hundred requests, so many are for operations.
    operations: usize,
    now: i64,
    next_id: u64,
}

impl World {
    /// A world whose course is decided by this seed.
    #[must_use]
    pub fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let sides = (0..CLUSTERS).map(|_| Side::default()).collect();
        let mut random = Random::new(seed);
        let (keys, operations) = (1 + random.below(KEYS_MAX), if random.percent(50) { 20 } else { 70 });
        Self { random, sides, mutant, keys, awake: 0, operations, now: 0, next_id: 0 }
    }

    /// Runs through the trouble, then lets everything heal.
    ///
    /// # Errors
    /// With the first invariant that is broken.
    pub fn run(mut self) -> Result<usize, Broken> {
        for step in 0..STEPS {
            let side = self.random.below(CLUSTERS);
            self.step(side);
            self.look(side, step)?;
        }
        // Only one is left.
        for side in &mut self.sides {
            side.operators = Default::default();
        }
        for round in 0..ROUNDS_TO_CONVERGE {
            let mut quiet = true;
            for side in 0..CLUSTERS {
                quiet &= self.heal(side);
                self.look(side, STEPS + round)?;
            }
            if quiet {
                break;
            }
            self.now += crate::store::SEND_AGAIN + 1;
        }
        self.sides
            .iter()
            .map(|side| invariants::converged(&side.queue, &side.cluster))
            .collect::<Result<Vec<()>, _>>()?;
        Ok(STEPS)
    }

    fn look(&mut self, side: usize, step: usize) -> Result<(), Broken> {
        let Side { queue, cluster, seen, diverged, .. } = &mut self.sides[side];
        if diverged.is_some_and(|highest| highest != cluster.highest()) {
            let invariant = "a cluster that holds what the database does not stores nothing more";
            return Err(Broken { invariant, seen: format!("step {step}: {:?}", cluster.highest()) });
        }
        let (revision, command) = cluster.highest();
        if diverged.is_some() && queue.rows.values().any(|row| row.id == command && row.revision != revision) {
            let invariant = "a command keeps its revision, by which a hello names it";
            return Err(Broken { invariant, seen: format!("step {step}: command {command} with revision {revision}") });
        }
        seen.look(queue, cluster, step)
    }

    /// One thing that happens to one cluster.
    fn step(&mut self, side: usize) {
        self.now += i64::try_from(self.random.below(6)).unwrap_or_default();
        if self.random.percent(4) {
            self.awake = self.random.below(OPERATORS);
        }
        let operator = if self.random.percent(95) { self.awake } else { 1 - self.awake };
        match self.random.below(100) {
            0..8 if self.random.percent(self.operations) => self.operate(side),
            0..8 => self.request(side),
            8..11 => self.cancel(side),
            11..20 => self.claim(side),
            20..30 => self.publish(side),
            30..75 => self.operator(side, operator),
            75..77 => self.watch(side, operator),
            77..78 => self.prune(side, operator),
            78..88 => self.ingest(side),
            88..92 => self.hello(side, operator),
            92..93 => self.sides[side].wire.clear(),
            93..94 => self.sides[side].reports.clear(),
            94..95 => self.sides[side].operators[operator] = Operator::default(),
            95..96 => self.sides[side].queue.enroll_again(),
            // A Manager dies between its claim and its send.
            96..97 => self.sides[side].claimed.clear(),
            97..98 => self.back_up_or_restore_etcd(side),
            98..99 if self.random.percent(30) => self.back_up_or_restore_database(side),
            98..99 if self.random.percent(30) => self.adopt(side),
            98..99 => drop(self.compare(side)),
            _ if self.random.percent(20) => self.now += 700,
            _ => {}
        }
    }

    fn back_up_or_restore_etcd(&mut self, side: usize) {
        let Side { cluster, operators, seen, etcd, diverged, .. } = &mut self.sides[side];
        let Some((earlier, seen_then)) = etcd.take() else {
            *etcd = Some((cluster.clone(), seen.clone()));
            return;
        };
        seen.restore_cluster(&seen_then);
        cluster.restore(&earlier);
        *operators = Default::default();
        *diverged = diverged.map(|_| cluster.highest());
    }

    /// Operators say hello again before they take another command. What Managers had claimed was sent, and what Operators had in their
    /// hands is stored, or forgotten: either takes seconds, and a server takes longer to be restored.
    fn back_up_or_restore_database(&mut self, side: usize) {
        let Side { queue, seen, database, operators, claimed, .. } = &mut self.sides[side];
        let Some((earlier, seen_then)) = database.take() else {
            *database = Some((queue.clone(), seen.clone()));
            return;
        };
        seen.restore_database(&seen_then);
        queue.restore(&earlier);
        claimed.clear();
        operators.iter_mut().for_each(Operator::disconnect);
    }

    /// Compares what the cluster holds with what it acknowledged, as after a hello whose hash differs.
    fn compare(&mut self, side: usize) -> usize {
        let Self { sides, mutant, now, next_id, .. } = self;
        let Side { queue, cluster, operators, .. } = &mut sides[side];
        let in_session = operators.iter().any(|operator| operator.session == Some(queue.session));
        if *mutant == Some(Mutant::NoAntiEntropy) || !in_session {
            return 0;
        }
        queue.compare(&cluster.listing(), || next(next_id), *now, *mutant == Some(Mutant::NeverUnsettled))
    }

    /// A person adopts what the cluster holds, if its hello was refused.
    fn adopt(&mut self, side: usize) {
        let Self { sides, next_id, mutant, .. } = self;
        let Side { queue, cluster, diverged, .. } = &mut sides[side];
        if diverged.is_none() || *mutant == Some(Mutant::NeverAdopted) {
            return;
        }
        let held = cluster.records.iter().map(|(key, record)| (*key, record.message.clone())).collect();
        queue.adopt(&held, cluster.fence.map_or(0, |(epoch, _)| epoch), || next(next_id));
        *diverged = None;
        self.hello(side, 0);
    }

    fn request(&mut self, side: usize) {
        let kind = if self.random.percent(25) { Kind::Delete } else { Kind::Apply };
        let key = u64::try_from(self.random.below(self.keys)).unwrap_or_default();
        let id = next(&mut self.next_id);
        self.sides[side].queue.enqueue(id, key, kind);
    }

    fn operate(&mut self, side: usize) {
        let not_after = self.now + i64::try_from(self.random.below(DEADLINE_MAX)).unwrap_or_default();
        let id = next(&mut self.next_id);
        self.sides[side].queue.operate(id, not_after);
    }

    /// Cancels one of the operations that did not end.
    fn cancel(&mut self, side: usize) {
        let Self { random, sides, next_id, .. } = self;
        let queue = &mut sides[side].queue;
        let open = |row: &&Row| row.kind == Kind::Operate && !row.state.is_terminal();
        let open: Vec<u64> = queue.rows.values().filter(open).map(|row| row.id).collect();
        if !open.is_empty() {
            queue.cancel_operation(open[random.below(open.len())], || next(next_id));
        }
    }

    /// A Manager claims, if the cluster is in session.
    fn claim(&mut self, side: usize) {
        let (mutant, now) = (self.mutant, self.now);
        let Side { queue, claimed, .. } = &mut self.sides[side];
        queue.expire(now);
        if !queue.confirmed {
            return;
        }
        if mutant == Some(Mutant::NeverAgain) {
            for row in queue.rows.values_mut().filter(|row| row.state != CommandState::Queued) {
                row.next_send_at = Some(i64::MAX);
            }
        }
        claimed.extend(queue.claim(now));
    }

    /// One claimed message goes out, in any order, perhaps twice; another one may be lost.
    fn publish(&mut self, side: usize) {
        let Self { random, sides, .. } = self;
        let Side { claimed, wire, .. } = &mut sides[side];
        if claimed.is_empty() {
            return;
        }
        let message = claimed.swap_remove(random.below(claimed.len()));
        if random.percent(15) {
            return;
        }
        if random.percent(15) {
            wire.push(message.clone());
        }
        wire.push(message);
    }

    /// An Operator makes its next call, or begins something; it may die before or after the call.
    fn operator(&mut self, side: usize, operator: usize) {
        let Self { random, sides, mutant, now, .. } = self;
        let now = Now { at: *now, mutant: *mutant };
        let (dies_before, dies_after) = (random.percent(2), random.percent(2));
        let Side { wire, reports, cluster, operators, taken, diverged, storing, .. } = &mut sides[side];
        let may_store = std::mem::take(&mut storing[operator]);
        let (it, taken) = (&mut operators[operator], &mut taken[operator]);
        if !it.is_busy() {
            let takes = random.percent(50) && it.session.is_some() && !wire.is_empty();
            if takes {
                let message = wire[random.below(wire.len())].clone();
                if dies_before && now.mutant == Some(Mutant::AcknowledgedFirst) {
                    // The row is told what never happened.
                    let state = Some(CommandState::Succeeded);
                    reports.push(Outcome { id: message.id, epoch: message.epoch, state });
                    wire.retain(|one| *one != message);
                    return;
                }
                it.receive(cluster, message.clone(), now);
                *taken = Some(message);
            } else if !cluster.records.is_empty() {
                // What has ended is looked at again, too, but not as often.
                let all = random.percent(20);
                let due = |(key, record): (&u64, &Record)| (all || !record.state.is_terminal()).then_some(*key);
                let keys: Vec<u64> = cluster.records.iter().filter_map(due).collect();
                if !keys.is_empty() {
                    it.work(keys[random.below(keys.len())]);
                }
            }
            return;
        }
        if dies_before {
            *it = Operator::default();
            return;
        }
        let step = it.step(cluster, now);
        if may_store {
            *diverged = diverged.map(|_| cluster.highest());
            storing[operator] = it.is_receiving();
        }
        if dies_after {
            // What it handled stays on the wire, and its outcome is lost.
            *it = Operator::default();
            return;
        }
        let outcome = match step {
            Step::More => return,
            Step::Worked(outcome) => outcome,
            Step::Received(outcome) => {
                // Its acknowledgement may be lost.
                if let Some(at) = taken.take().and_then(|message| wire.iter().position(|one| *one == message))
                    && !random.percent(20)
                {
                    wire.swap_remove(at);
                }
                outcome
            }
        };
        reports.extend(outcome.filter(|_| !random.percent(15)));
    }

    fn prune(&mut self, side: usize, operator: usize) {
        let Side { cluster, operators, .. } = &mut self.sides[side];
        operators[operator].prune(cluster);
    }

    /// An Operator's watch catches up.
    fn watch(&mut self, side: usize, operator: usize) {
        let Side { cluster, operators, .. } = &mut self.sides[side];
        operators[operator].watch(cluster);
    }

    /// A Manager takes one report, in any order, perhaps not for the last time.
    fn ingest(&mut self, side: usize) {
        let Self { random, sides, now, mutant, next_id, .. } = self;
        let Side { queue, reports, .. } = &mut sides[side];
        if reports.is_empty() {
            return;
        }
        let at = random.below(reports.len());
        let report = if random.percent(20) { reports[at].clone() } else { reports.swap_remove(at) };
        if *mutant == Some(Mutant::LastOutcomeWins)
            && let Some(state) = report.state
            && let Some(row) = queue.rows.values_mut().find(|row| row.id == report.id)
        {
            row.state = state;
            return;
        }
        queue.record(&report, *now, || next(next_id));
    }

    /// An Operator says hello: what is on the wire is purged, and outcomes above the floor are repeated.
    fn hello(&mut self, side: usize, operator: usize) {
        let (mutant, now) = (self.mutant, self.now);
        let Side { queue, wire, reports, cluster, operators, diverged, storing, .. } = &mut self.sides[side];
        let it = &mut operators[operator];
        it.watch(cluster);
        let (mut revision, mut command) = cluster.highest();
        let mut epoch = it.named_epoch(cluster, mutant);
        if mutant == Some(Mutant::NeverDiverged) {
            (revision, command, epoch) = (0, 0, 0);
        }
        wire.clear();
        let Ok(session) = queue.hello(revision, command, epoch, now) else {
            // Until a person decides; a later restore of the cluster may end it, too.
            *diverged = Some(cluster.highest());
            it.session = None;
            *storing = [0, 1].map(|at: usize| operators[at].is_receiving());
            return;
        };
        *diverged = None;
        let floor = queue.floor();
        it.open(cluster, session, queue.epoch);
        let above = cluster.records.values().filter(|record| record.message.revision > floor);
        reports.extend(above.map(Record::outcome));
    }

    /// One round without trouble. True when nothing is left to do.
    fn heal(&mut self, side: usize) -> bool {
        let open = |side: &Side| side.queue.rows.values().any(|row| !row.state.is_terminal());
        let is_unknown = |side: &Side| {
            let (revision, command) = side.cluster.highest();
            !side.queue.counts(side.queue.session, revision, command)
        };
        let it = &self.sides[side];
        if it.operators[0].session != Some(it.queue.session) || is_unknown(it) {
            self.hello(side, 0);
        }
        self.adopt(side);
        let sent_again = self.compare(side);
        self.claim(side);
        let Self { sides, mutant, now, next_id, .. } = self;
        let (at, now) = (*now, Now { at: *now, mutant: *mutant });
        let side = &mut sides[side];
        side.wire.append(&mut side.claimed);
        for message in std::mem::take(&mut side.wire) {
            side.reports.extend(side.operators[0].receive_all(&mut side.cluster, &message, now));
        }
        let keys: Vec<u64> = side.cluster.records.keys().copied().collect();
        for key in keys {
            for _ in 0..CALLS_TO_SETTLE {
                side.reports.extend(side.operators[0].work_all(&mut side.cluster, key, now));
            }
        }
        let now = at;
        for report in std::mem::take(&mut side.reports) {
            side.queue.record(&report, now, || next(next_id));
        }
        let lately = side.queue.rows.values().any(|row| row.changed_at.is_some_and(|at| at > now - SETTLED_AFTER));
        sent_again == 0 && !open(side) && !lately
    }
}

/// The next id of a command.
pub(crate) const fn next(id: &mut u64) -> u64 {
    *id += 1;
    *id
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of a run of `cargo dev test`: some seconds.
    const SEEDS: u64 = 2_000;

    #[test]
    fn every_seed_keeps_the_invariants_and_converges() {
        let mut steps = 0;
        for seed in 0..SEEDS {
            match World::new(seed, None).run() {
                Ok(done) => steps += done,
                Err(broken) => panic!("seed {seed}: {broken}"),
            }
        }
        assert!(steps >= 500_000, "{steps} steps");
    }

    #[test]
    fn each_rule_that_is_switched_off_is_noticed() {
        let missed: Vec<Mutant> = Mutant::FREQUENT
            .into_iter()
            .filter(|mutant| (0..SEEDS).all(|seed| World::new(seed, Some(*mutant)).run().is_ok()))
            .collect();
        assert!(missed.is_empty(), "no seed notices {missed:?}");
    }
}
