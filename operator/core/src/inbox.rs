//! The fence: whether a command may replace what the cluster holds about its object. Decided without clock or client.
//!
//! (epoch, revision) of an object never goes down, whatever arrives late, twice or out of order. Before this file in
//! the flow: `command.rs` (the command is signed and meant for us). After it: the inbox record is stored, or an outcome
//! is published.

use kubenova_schema::mutant;

/// What the inbox record says about the newest command it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Epoch of that command.
    pub epoch: u64,
    /// Its revision.
    pub revision: u64,
    /// Its command's id.
    pub command_id: String,
    /// SHA-256 of (kind, key, document).
    pub command_sha256: String,
}

/// The highest verified epoch, and the floor below which every command is terminal in Postgres. Cluster-wide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fence {
    /// Commands of a lower epoch are stale.
    pub epoch: u64,
    /// Commands at or below it are settled.
    pub floor: u64,
}

impl Fence {
    /// The fence that also knows of these numbers; it never goes down.
    #[must_use]
    pub fn raised(self, epoch: u64, floor: u64) -> Self {
        Self { epoch: self.epoch.max(epoch), floor: self.floor.max(floor) }
    }

    /// Whether a command of this revision was settled before: it is neither stored nor begun. A record of it may be stored all the same,
    /// by an Operator that decided so before another one had carried it out and forgotten it.
    #[must_use]
    pub fn has_settled(self, revision: u64) -> bool {
        revision <= self.floor && !mutant::is_on("inbox.floor")
    }

    /// The fence once a command of this epoch and revision is stored, which states a floor. One at or above the command itself
    /// would be a mistake of the writer: it would settle its own command.
    #[must_use]
    pub fn raised_by(self, epoch: u64, revision: u64, floor: u64) -> Self {
        self.raised(epoch, floor.min(revision.saturating_sub(1)))
    }
}

/// Why a command is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// The cluster knows a higher epoch.
    Epoch,
    /// Postgres had settled it when the floor was signed.
    Floor,
    /// The cluster holds a newer command about the same object.
    Revision,
}

impl Stale {
    /// CamelCase, for programs.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Epoch => "StaleEpoch",
            Self::Floor => "BelowFloor",
            Self::Revision => "NewerStored",
        }
    }

    /// A plain sentence.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Epoch => "the cluster knows a later epoch of the Manager; this command is of an earlier one",
            Self::Floor => "this command was settled before; there is nothing to do",
            Self::Revision => "the cluster holds a newer command about the same object",
        }
    }
}

/// What to do with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The stored bytes stay; report the stored outcome again.
    Replay,
    /// The same revision says something else: refuse, raise, change nothing.
    Divergence,
    /// Answer `superseded`, change nothing.
    Superseded(Stale),
    /// Store it.
    Store,
}

/// Decides, in the order of the design: replay, divergence, then the fence.
#[must_use]
pub fn decide(held: Option<&Held>, incoming: &Held, fence: Fence) -> Decision {
    if let Some(held) = held.filter(|held| held.revision == incoming.revision) {
        let same = held.command_id == incoming.command_id && held.command_sha256 == incoming.command_sha256;
        return if same || mutant::is_on("inbox.same-revision") { Decision::Replay } else { Decision::Divergence };
    }
    let is_earlier = incoming.epoch < fence.epoch || held.is_some_and(|held| incoming.epoch < held.epoch);
    if is_earlier && !mutant::is_on("inbox.epoch") {
        return Decision::Superseded(Stale::Epoch);
    }
    if fence.has_settled(incoming.revision) {
        return Decision::Superseded(Stale::Floor);
    }
    if held.is_some_and(|held| incoming.revision < held.revision) && !mutant::is_on("inbox.revision") {
        return Decision::Superseded(Stale::Revision);
    }
    Decision::Store
}

/// Whether a later command than the one of this revision wrote an object last, so that the record has to be looked at again before the
/// object is changed: another Operator may have taken over since it was read. An object may also have outlived an earlier life of its
/// cluster, whose revisions were higher; then the record still holds the command. What is changed is exactly the version that was
/// looked at, so a later command that is carried out in between is a conflict.
#[must_use]
pub fn is_written_later(object_revision: u64, revision: u64) -> bool {
    object_revision > revision && !mutant::is_on("inbox.writes-over-later")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn held(epoch: u64, revision: u64, id: u8) -> Held {
        Held { epoch, revision, command_id: format!("id-{id}"), command_sha256: format!("sha-{id}") }
    }

    #[test]
    fn the_same_command_is_a_replay_even_below_the_floor_and_of_an_older_epoch() {
        let fence = Fence { epoch: 9, floor: 100 };
        assert_eq!(decide(Some(&held(1, 5, 1)), &held(1, 5, 1), fence), Decision::Replay);
        assert_eq!(decide(Some(&held(1, 5, 1)), &held(2, 5, 1), fence), Decision::Replay);
    }

    #[test]
    fn the_same_revision_with_another_id_or_content_is_a_divergence() {
        let fence = Fence::default();
        let mut other = held(1, 5, 1);
        other.command_sha256 = "changed".to_owned();
        assert_eq!(decide(Some(&held(1, 5, 1)), &other, fence), Decision::Divergence);
        assert_eq!(decide(Some(&held(1, 5, 1)), &held(7, 5, 2), fence), Decision::Divergence);
    }

    #[test]
    fn each_side_of_the_fence_has_its_own_reason() {
        let fence = Fence { epoch: 2, floor: 10 };
        assert_eq!(decide(None, &held(1, 99, 1), fence), Decision::Superseded(Stale::Epoch));
        assert_eq!(decide(None, &held(2, 10, 1), fence), Decision::Superseded(Stale::Floor));
        assert_eq!(decide(Some(&held(2, 20, 1)), &held(2, 15, 2), fence), Decision::Superseded(Stale::Revision));
        assert_eq!(decide(Some(&held(2, 20, 1)), &held(2, 21, 2), fence), Decision::Store);
        assert_eq!(decide(None, &held(2, 11, 1), fence), Decision::Store);
    }

    proptest! {
        /// Whatever arrives in whatever order and however often, what is held never goes down, and at the end it is
        /// the highest command that was ever admissible.
        #[test]
        fn epoch_and_revision_of_an_object_never_go_down(
            arrivals in proptest::collection::vec((1_u64..4, 1_u64..30), 1..80),
            floors in proptest::collection::vec(0_u64..5, 80),
        ) {
            let mut present: Option<Held> = None;
            let mut fence = Fence::default();
            for ((epoch, revision), floor) in arrivals.iter().zip(floors) {
                // As the Manager makes them: one command per revision, revisions rise with epochs.
                let revision = epoch * 100 + revision;
                let incoming = held(*epoch, revision, u8::try_from(revision % 251).unwrap());
                let before = present.clone();
                let decision = decide(present.as_ref(), &incoming, fence);
                if decision == Decision::Store {
                    fence = fence.raised(incoming.epoch, floor.min(revision - 1));
                    present = Some(incoming.clone());
                }
                if let (Some(before), Some(after)) = (&before, &present) {
                    prop_assert!((after.epoch, after.revision) >= (before.epoch, before.revision));
                }
                let again = decide(present.as_ref(), &incoming, fence);
                prop_assert!(again != Decision::Store, "a command just decided on is never stored again");
            }
            let highest = arrivals.iter().map(|(epoch, revision)| epoch * 100 + revision).max().unwrap();
            prop_assert_eq!(present.unwrap().revision, highest);
        }
    }
}
