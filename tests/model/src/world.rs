//! Everything together, one step at a time: a seed decides who does what next, what is lost, repeated, late or out of order, and
//! who crashes.

use crate::{
    cluster::{Cluster, Mutant},
    invariants::{self, Broken, Seen},
    random::Random,
    store::{Kind, Message, Outcome, Queue, Row, SETTLED_AFTER},
};
use kubenova_core::command::CommandState;

/// Clusters of a world.
const CLUSTERS: usize = 2;
/// Objects of each.
const KEYS: usize = 4;
/// Steps of trouble before everything heals.
const STEPS: usize = 300;
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
    seen: Seen,
    /// Backups of the cluster's etcd and of the database, each with what was seen then.
    etcd: Option<(Cluster, Seen)>,
    database: Option<(Queue, Seen)>,
    /// The cluster's hello was refused because it holds what the database does not: this revision and command at most.
    diverged: Option<(u64, u64)>,
}

/// A world.
#[derive(Debug)]
pub struct World {
    random: Random,
    sides: Vec<Side>,
    mutant: Option<Mutant>,
    now: i64,
    next_id: u64,
}

impl World {
    /// A world whose course is decided by this seed.
    #[must_use]
    pub fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let sides = (0..CLUSTERS).map(|_| Side::default()).collect();
        Self { random: Random::new(seed), sides, mutant, now: 0, next_id: 0 }
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
        self.now += i64::try_from(self.random.below(20)).unwrap_or_default();
        match self.random.below(100) {
            0..10 => self.request(side),
            10..13 => self.operate(side),
            13..15 => self.cancel(side),
            15..30 => self.claim(side),
            30..45 => self.publish(side),
            45..65 => self.deliver(side),
            65..75 => self.work(side),
            75..88 => self.ingest(side),
            88..92 => self.hello(side),
            92..93 => self.sides[side].wire.clear(),
            93..94 => self.sides[side].reports.clear(),
            94..95 => self.sides[side].cluster.session = None,
            95..96 => self.sides[side].queue.enroll_again(),
            // A Manager dies between its claim and its send.
            96..97 => self.sides[side].claimed.clear(),
            97..98 => self.back_up_or_restore_etcd(side),
            98..99 if self.random.percent(30) => self.back_up_or_restore_database(side),
            98..99 if self.random.percent(30) => self.adopt(side),
            98..99 => drop(self.compare(side)),
            _ => self.now += 700,
        }
    }

    fn back_up_or_restore_etcd(&mut self, side: usize) {
        let Side { cluster, seen, etcd, diverged, .. } = &mut self.sides[side];
        let Some((earlier, seen_then)) = etcd.take() else {
            *etcd = Some((Cluster { session: None, ..cluster.clone() }, seen.clone()));
            return;
        };
        seen.restore_cluster(&seen_then);
        *cluster = Cluster { stored: std::mem::take(&mut cluster.stored), ..earlier };
        *diverged = diverged.map(|_| cluster.highest());
    }

    /// The Operator says hello again before it takes another command. What Managers had claimed was sent, or is forgotten: a
    /// claim is published within seconds, and a server takes longer to be restored.
    fn back_up_or_restore_database(&mut self, side: usize) {
        let Side { queue, seen, database, cluster, claimed, .. } = &mut self.sides[side];
        let Some((earlier, seen_then)) = database.take() else {
            *database = Some((queue.clone(), seen.clone()));
            return;
        };
        seen.restore_database(&seen_then);
        queue.restore(&earlier);
        claimed.clear();
        cluster.session = None;
    }

    /// Compares what the cluster holds with what it acknowledged, as after a hello whose hash differs.
    fn compare(&mut self, side: usize) -> usize {
        let Self { sides, mutant, now, next_id, .. } = self;
        let Side { queue, cluster, .. } = &mut sides[side];
        if *mutant == Some(Mutant::NoAntiEntropy) || cluster.session != Some(queue.session) {
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
        self.hello(side);
    }

    fn request(&mut self, side: usize) {
        let kind = if self.random.percent(25) { Kind::Delete } else { Kind::Apply };
        let key = u64::try_from(self.random.below(KEYS)).unwrap_or_default();
        let id = next(&mut self.next_id);
        self.sides[side].queue.enqueue(id, key, kind);
    }

    fn operate(&mut self, side: usize) {
        let not_after = self.now + i64::try_from(self.random.below(300)).unwrap_or_default();
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

    /// The Operator takes one message, in any order; it may crash before or after it stored it.
    fn deliver(&mut self, side: usize) {
        let Self { random, sides, mutant, now, .. } = self;
        let Side { wire, reports, cluster, .. } = &mut sides[side];
        if wire.is_empty() || cluster.session.is_none() {
            return;
        }
        let at = random.below(wire.len());
        let crashes = random.percent(10);
        if crashes && *mutant == Some(Mutant::AcknowledgedFirst) {
            let message = wire.swap_remove(at);
            // The row is told what never happened.
            reports.push(Outcome { id: message.id, epoch: message.epoch, state: Some(CommandState::Succeeded) });
            return;
        }
        if crashes && random.percent(50) {
            // Before anything was stored: the message stays.
            cluster.session = None;
            return;
        }
        let outcome = cluster.receive(&wire[at], *now, *mutant);
        if crashes {
            // After it was stored: the message stays, and its outcome is lost.
            cluster.session = None;
            return;
        }
        if !random.percent(20) {
            wire.swap_remove(at);
        }
        reports.extend(outcome.filter(|_| !random.percent(15)));
    }

    fn work(&mut self, side: usize) {
        let records = self.sides[side].cluster.records.iter();
        let keys: Vec<u64> = records.filter(|(_, record)| !record.state.is_terminal()).map(|(key, _)| *key).collect();
        if keys.is_empty() {
            return;
        }
        let key = keys[self.random.below(keys.len())];
        let lost = self.random.percent(20);
        let (mutant, now) = (self.mutant, self.now);
        let Side { reports, cluster, .. } = &mut self.sides[side];
        reports.extend(cluster.work(key, now, mutant).filter(|_| !lost));
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

    /// The cluster says hello: what is on the wire is purged, and outcomes above the floor are repeated.
    fn hello(&mut self, side: usize) {
        let (mutant, now) = (self.mutant, self.now);
        let Side { queue, wire, reports, cluster, diverged, .. } = &mut self.sides[side];
        let (mut revision, mut command) = cluster.highest();
        let mut epoch = cluster.fence.map_or(0, |(epoch, _)| epoch);
        if mutant == Some(Mutant::NeverDiverged) {
            (revision, command, epoch) = (0, 0, 0);
        }
        wire.clear();
        let Ok(session) = queue.hello(revision, command, epoch, now) else {
            // Until a person decides; a later restore of the cluster may end it, too.
            *diverged = Some(cluster.highest());
            cluster.session = None;
            return;
        };
        *diverged = None;
        let floor = queue.floor();
        cluster.session = Some(session);
        let above = cluster.records.values().filter(|record| record.message.revision > floor);
        let keys: Vec<u64> = above.map(|record| record.message.key).collect();
        reports.extend(keys.into_iter().filter_map(|key| cluster.report(key)));
    }

    /// One round without trouble. True when nothing is left to do.
    fn heal(&mut self, side: usize) -> bool {
        let open = |side: &Side| side.queue.rows.values().any(|row| !row.state.is_terminal());
        if self.sides[side].cluster.session != Some(self.sides[side].queue.session) {
            self.hello(side);
        }
        self.adopt(side);
        let sent_again = self.compare(side);
        self.claim(side);
        let Self { sides, mutant, now, next_id, .. } = self;
        let (mutant, now) = (*mutant, *now);
        let side = &mut sides[side];
        side.wire.append(&mut side.claimed);
        for message in std::mem::take(&mut side.wire) {
            side.reports.extend(side.cluster.receive(&message, now, mutant));
        }
        let keys: Vec<u64> = side.cluster.records.keys().copied().collect();
        for key in keys {
            while let Some(outcome) = side.cluster.work(key, now, mutant) {
                side.reports.push(outcome);
            }
        }
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
        for mutant in [
            Mutant::NoFence,
            Mutant::NoEpoch,
            Mutant::ReplayedTwice,
            Mutant::AcknowledgedFirst,
            Mutant::LastOutcomeWins,
            Mutant::NeverAgain,
            Mutant::NoAntiEntropy,
            Mutant::NeverUnsettled,
            Mutant::NeverDiverged,
            Mutant::NeverAdopted,
            Mutant::NeverExpires,
            Mutant::CancelsWhatBegan,
            Mutant::EffectFirst,
        ] {
            let caught = (0..SEEDS).find(|seed| World::new(*seed, Some(mutant)).run().is_err());
            assert!(caught.is_some(), "no seed notices {mutant:?}");
        }
    }
}
