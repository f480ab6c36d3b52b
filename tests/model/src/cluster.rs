//! A cluster in memory: inbox records with their outcome, the fence, and the objects that were made of them.

use crate::store::{Kind, Message, Outcome};
use kubenova_core::{command::CommandState, listing::Listed};
use kubenova_operator_core::inbox::{self, Decision, Fence, Held, Stale};
use std::collections::{BTreeMap, BTreeSet};

/// A rule that is switched off, to see that the invariants notice.
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
    /// What a diverged cluster holds is never adopted.
    NeverAdopted,
    /// An operation begins whatever its deadline says.
    NeverExpires,
    /// A cancellation takes the place of an operation that has begun.
    CancelsWhatBegan,
    /// That an operation begins is not written before its effect.
    EffectFirst,
}

/// An inbox record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The message as stored.
    pub message: Message,
    /// The outcome so far.
    pub state: CommandState,
    /// When the operation began, with what it found: the effects of operations until then.
    pub began: Option<(i64, usize)>,
}

/// What a cluster did: the command, the epoch of its message, and its revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    /// The object.
    pub key: u64,
    /// The command.
    pub id: u64,
    /// Epoch of the message.
    pub epoch: u64,
    /// Its revision.
    pub revision: u64,
    /// When the operation began, and its deadline.
    pub began: Option<(i64, i64)>,
}

/// A cluster. What is in `records`, `fence` and `objects` survives a crash of the Operator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// By object.
    pub records: BTreeMap<u64, Record>,
    /// The highest epoch, and the floor as last signed.
    pub fence: Option<(u64, u64)>,
    /// Objects that exist, each with the document it was made of.
    pub objects: BTreeMap<u64, u64>,
    /// Everything that was carried out, in order.
    pub effects: Vec<Effect>,
    /// Every command that was ever stored, also before a restore.
    pub stored: BTreeSet<u64>,
    /// The session that the running Operator believes in; none while it has none.
    pub session: Option<u64>,
}

impl Cluster {
    fn fence(&self) -> Fence {
        let (epoch, floor) = self.fence.unwrap_or_default();
        Fence { epoch, floor }
    }

    /// Handles a message: the outcome to send at once, if any. `now` is the Manager's time, as measured.
    pub fn receive(&mut self, message: &Message, now: i64, mutant: Option<Mutant>) -> Option<Outcome> {
        let held = |message: &Message| Held {
            epoch: message.epoch,
            revision: message.revision,
            command_id: message.id.to_string(),
            command_sha256: format!("{:?} {} {}", message.kind, message.key, message.document),
        };
        let mut incoming = held(message);
        let mut fence = self.fence();
        if mutant == Some(Mutant::NoEpoch) {
            (incoming.epoch, fence.epoch) = (u64::MAX, 0);
        }
        let present = self.records.get(&message.key).map(|record| held(&record.message));
        let mut decision = inbox::decide(present.as_ref(), &incoming, fence);
        if mutant == Some(Mutant::NoFence) && decision != Decision::Replay {
            decision = Decision::Store;
        }
        if mutant == Some(Mutant::ReplayedTwice) && decision == Decision::Replay {
            decision = Decision::Store;
        }
        let answer = |state| Some(Outcome { id: message.id, epoch: message.epoch, state: Some(state) });
        let late = mutant != Some(Mutant::NeverExpires) && message.not_after.is_some_and(|deadline| deadline < now);
        let begun = |record: &Record| {
            record.message.kind == Kind::Operate && (record.began.is_some() || record.state.is_terminal())
        };
        let begun = mutant != Some(Mutant::CancelsWhatBegan) && self.records.get(&message.key).is_some_and(begun);
        let cancelled = self.records.get(&message.key).is_some_and(|record| record.message.kind == Kind::Cancel);
        match decision {
            Decision::Superseded(Stale::Revision) if cancelled => answer(CommandState::Cancelled),
            Decision::Store if message.kind == Kind::Cancel && begun => answer(CommandState::Refused),
            Decision::Store if late => answer(CommandState::Expired),
            Decision::Replay => self.report(message.key),
            Decision::Divergence => answer(CommandState::Refused),
            Decision::Superseded(_) => answer(CommandState::Superseded),
            Decision::Store => {
                let raised = fence.raised_by(message.epoch, message.revision, message.floor);
                self.fence = Some((raised.epoch, raised.floor));
                self.stored.insert(message.id);
                let state = CommandState::Acknowledged;
                self.records.insert(message.key, Record { message: message.clone(), state, began: None });
                answer(state)
            }
        }
    }

    /// What the record of an object says of its command.
    #[must_use]
    pub fn report(&self, key: u64) -> Option<Outcome> {
        let Record { message, state, .. } = self.records.get(&key)?;
        Some(Outcome { id: message.id, epoch: message.epoch, state: Some(*state) })
    }

    /// Carries the record of an object one step further: the outcome to send, if any.
    pub fn work(&mut self, key: u64, now: i64, mutant: Option<Mutant>) -> Option<Outcome> {
        let record = self.records.get_mut(&key)?;
        let Message { id, epoch, revision, kind, document, .. } = record.message;
        if kind == Kind::Operate {
            return self.operate(key, now, mutant);
        }
        record.state = match record.state {
            CommandState::Acknowledged if kind == Kind::Cancel => CommandState::Succeeded,
            CommandState::Acknowledged => CommandState::Running,
            CommandState::Running => {
                // Applying twice writes nothing.
                let made = self.objects.get(&key).copied().filter(|_| mutant != Some(Mutant::ReplayedTwice));
                let effect = Effect { key, id, epoch, revision, began: None };
                match kind {
                    Kind::Apply if made != Some(document) => {
                        self.objects.insert(key, document);
                        self.effects.push(effect);
                    }
                    Kind::Delete if made.is_some() => {
                        self.objects.remove(&key);
                        self.effects.push(effect);
                    }
                    _ => {}
                }
                CommandState::Succeeded
            }
            _ => return None,
        };
        self.report(key)
    }

    /// One step of an operation: it begins or expires, has its effect, and ends. The Operator may crash between any two.
    fn operate(&mut self, key: u64, now: i64, mutant: Option<Mutant>) -> Option<Outcome> {
        let record = self.records.get_mut(&key)?;
        let Message { id, epoch, revision, .. } = record.message;
        let deadline = record.message.not_after?;
        let effect =
            Effect { key, id, epoch, revision, began: Some((record.began.map_or(now, |(at, _)| at), deadline)) };
        match (record.state, record.began) {
            (state, _) if state.is_terminal() => return None,
            (_, None) if deadline < now && mutant != Some(Mutant::NeverExpires) => record.state = CommandState::Expired,
            (_, None) if mutant == Some(Mutant::EffectFirst) && record.state == CommandState::Acknowledged => {
                // The first time the Operator crashes here, which looks like a crash before the effect.
                let again = self.effects.iter().any(|one| one.id == id);
                self.effects.push(effect);
                record.began = again.then_some((now, self.effects.len() - 1));
            }
            (_, None) => {
                record.state = CommandState::Running;
                record.began = Some((now, self.effects.len()));
            }
            // The cluster no longer looks as it did: the effect has happened.
            (_, Some((_, found))) if self.effects[found.min(self.effects.len())..].iter().any(|one| one.id == id) => {
                record.state = CommandState::Succeeded;
            }
            (_, Some(_)) => self.effects.push(effect),
        }
        self.report(key)
    }

    /// What the records hold.
    #[must_use]
    pub fn listing(&self) -> BTreeMap<u64, Listed> {
        let listed = |record: &Record| Listed {
            revision: record.message.revision,
            is_delete: record.message.kind == Kind::Delete,
            document_sha256: record.message.document.to_string(),
        };
        let documents = self.records.iter().filter(|(_, record)| !record.message.kind.is_operation());
        documents.map(|(key, record)| (*key, listed(record))).collect()
    }

    /// The highest revision that is held, with its command.
    #[must_use]
    pub fn highest(&self) -> (u64, u64) {
        let top = self.records.values().max_by_key(|record| record.message.revision);
        top.map_or((0, 0), |record| (record.message.revision, record.message.id))
    }
}
