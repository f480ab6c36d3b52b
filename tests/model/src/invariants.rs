//! What must hold after every step, and what must hold when everything has healed (`docs/architecture.md`).

use crate::{
    cluster::Cluster,
    store::{Kind, Queue, Row},
};
use kubenova_core::command::CommandState;
use std::collections::{BTreeMap, BTreeSet};

/// An invariant that is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub invariant: &'static str,
    /// What was seen.
    pub seen: String,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.invariant, self.seen)
    }
}

/// What was seen of a cluster so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    effects: usize,
    /// Highest epoch and revision of each object.
    highest: BTreeMap<u64, (u64, u64)>,
    /// How each command ended.
    ended: BTreeMap<u64, CommandState>,
    times: BTreeMap<u64, usize>,
    /// Objects that were written late, and not since.
    late: BTreeSet<u64>,
    untrue: usize,
    /// One side was restored: it may have forgotten how an operation ended.
    restored: bool,
}

impl Seen {
    /// Looks at a cluster and its rows after a step.
    ///
    /// # Errors
    /// With the first invariant that is broken.
    pub fn look(&mut self, queue: &Queue, cluster: &Cluster, step: usize) -> Result<(), Broken> {
        let broken = |invariant, seen: String| Err(Broken { invariant, seen: format!("step {step}: {seen}") });
        for effect in &cluster.effects[self.effects..] {
            if effect.is_undo {
                continue;
            }
            if effect.is_late {
                // Taken back, or written over for the newest record, which comes a second time then.
                self.late.insert(effect.key);
                continue;
            }
            let is_repair = self.late.remove(&effect.key);
            let now = (effect.epoch, effect.revision);
            let before = self.highest.insert(effect.key, now).unwrap_or_default();
            if now < before {
                return broken(
                    "(epoch, revision) of an object never goes down",
                    format!("{effect:?} after {before:?}"),
                );
            }
            if effect.began.is_some_and(|(at, deadline)| at > deadline) {
                return broken("an operation does not begin after its deadline", format!("{effect:?}"));
            }
            let times = self.times.entry(effect.id).or_default();
            *times += 1;
            if *times > 1 && !is_repair {
                return broken("a command is carried out once", format!("{effect:?}"));
            }
        }
        self.effects = cluster.effects.len();
        if let Some(untrue) = cluster.untrue[self.untrue..].iter().find(|(key, _)| !self.late.contains(key)) {
            return broken("what has succeeded is so", format!("{untrue:?}"));
        }
        self.untrue = cluster.untrue.len();
        if let Some(row) = queue.rows.values().find(|row| row.acknowledged && !cluster.stored.contains(&row.id)) {
            return broken("what is acknowledged was stored", format!("{row:?}"));
        }
        for row in queue.rows.values().filter(|row| row.state.is_terminal()) {
            let ended = *self.ended.entry(row.id).or_insert(row.state);
            if ended != row.state {
                return broken("a command ends in exactly one state", format!("{row:?} had ended {}", ended.as_str()));
            }
        }
        let never = |row: &&Row| {
            row.kind == Kind::Operate && matches!(row.state, CommandState::Cancelled | CommandState::Expired)
        };
        let happened = |row: &&Row| cluster.effects.iter().any(|effect| effect.id == row.id);
        if !self.restored
            && let Some(row) = queue.rows.values().filter(never).find(happened)
        {
            return broken("what was cancelled or has expired never happens", format!("{row:?}"));
        }
        let reopened =
            self.ended.keys().find(|id| queue.rows.values().any(|row| row.id == **id && !row.state.is_terminal()));
        match reopened {
            Some(id) => broken("a command that ended stays ended", format!("command {id}")),
            None => Ok(()),
        }
    }
}

impl Seen {
    /// The cluster was restored to the point at which this was seen; what its Manager knows stays.
    pub fn restore_cluster(&mut self, earlier: &Self) {
        let ended = std::mem::take(&mut self.ended);
        *self = Self { ended, restored: true, ..earlier.clone() };
    }

    /// The database was restored to the point at which this was seen; what the cluster did stays.
    pub fn restore_database(&mut self, earlier: &Self) {
        self.ended.clone_from(&earlier.ended);
        self.restored = true;
    }
}

/// Whether everything that was asked for is so, once nothing is lost any more.
///
/// # Errors
/// With the first invariant that is broken.
pub fn converged(queue: &Queue, cluster: &Cluster) -> Result<(), Broken> {
    if let Some(open) = queue.rows.values().find(|row| !row.state.is_terminal()) {
        return Err(Broken { invariant: "every command ends", seen: format!("{open:?}") });
    }
    for (key, (document, kind)) in &queue.requested {
        let wanted = (*kind == Kind::Apply).then_some(*document);
        let present = cluster.objects.get(key).map(|object| object.document);
        if present != wanted {
            let seen = format!("object {key} is {present:?}, wanted {wanted:?}");
            return Err(Broken { invariant: "what was asked for last is so in the end", seen });
        }
    }
    Ok(())
}
