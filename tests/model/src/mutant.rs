//! Rules that can be switched off, to see that the invariants notice, or a case with a name.

/// A rule that is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A command is stored whatever is held.
    NoFence,
    /// The epoch is not compared.
    NoEpoch,
    /// A repeated command is stored and carried out again.
    ReplayedTwice,
    /// A message is acknowledged before its record is stored.
    AcknowledgedFirst,
    /// A record is written whatever version it has by now.
    StoredOverAny,
    /// A command that is not stored is answered from what is kept of its record in memory.
    AnsweredUnread,
    /// An object that a later command wrote is written, or deleted, all the same.
    WritesOverLater,
    /// An object is written whatever version it has by now.
    WritesOverAny,
    /// What was created for a command that a delete has replaced is deleted whatever was written to it since.
    TakesBackAny,
    /// An outcome is written whichever command the record holds by now.
    SettlesAnother,
    /// An outcome ends a command whatever it was before.
    LastOutcomeWins,
    /// A sent command is never sent again.
    NeverAgain,
    /// Listings are not compared.
    NoAntiEntropy,
    /// Listings are compared although commands are under way.
    NeverUnsettled,
    /// A hello is accepted whatever the cluster holds.
    NeverDiverged,
    /// A hello names the epoch that its Operator has read when it started.
    NamesEpochOfStart,
    /// What a diverged cluster holds is never adopted.
    NeverAdopted,
    /// An operation begins although it was settled before.
    BeginsSettled,
    /// An operation begins whatever its deadline says.
    NeverExpires,
    /// The deadline of an operation is only looked at before its target is read.
    BeginsLate,
    /// An operation that has begun ends as expired all the same.
    ExpiresWhatBegan,
    /// A cancellation takes the place of an operation that has begun.
    CancelsWhatBegan,
    /// That an operation begins is not written before its effect.
    EffectFirst,
    /// An operation has its effect whatever its target looks like by now.
    RestartsAny,
}

impl Mutant {
    /// Those that seeds come upon.
    pub const FREQUENT: [Self; 18] = [
        Self::NoFence,
        Self::NoEpoch,
        Self::ReplayedTwice,
        Self::AcknowledgedFirst,
        Self::StoredOverAny,
        Self::WritesOverLater,
        Self::SettlesAnother,
        Self::LastOutcomeWins,
        Self::NeverAgain,
        Self::NoAntiEntropy,
        Self::NeverUnsettled,
        Self::NeverDiverged,
        Self::NeverAdopted,
        Self::NeverExpires,
        Self::BeginsLate,
        Self::CancelsWhatBegan,
        Self::EffectFirst,
        Self::RestartsAny,
    ];
}
