//! An Operator in memory: what it remembers, and what it is about to do. Everything it does is a sequence of calls to the cluster's API
//! server; before each of them it may be paused for any time, while another Operator works, or die.

use crate::{
    cluster::{Cluster, Object, Record, Version},
    mutant::Mutant,
    store::{Kind, Message, Outcome},
};
use kubenova_core::command::CommandState;
use kubenova_operator_core::inbox::{self, Decision, Fence, Held, Stale};
use std::collections::BTreeMap;

/// What is kept of a record in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Digest {
    held: Held,
    version: Version,
    is_cancellation: bool,
}

impl Digest {
    fn of(record: &Record) -> Self {
        let is_cancellation = record.message.kind == Kind::Cancel;
        Self { held: Record::held(&record.message), version: record.version, is_cancellation }
    }
}

/// The record of a command's object: as kept in memory, or as read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    digest: Option<Digest>,
    /// Only when it was read.
    record: Option<Record>,
    is_read: bool,
}

/// The next call about a message, decided by what was seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Receiving {
    ReadRecord,
    RaiseEpoch(Box<Seen>),
    Store(Option<Version>),
    Answer(CommandState),
    /// What the record says, again.
    Report(Box<Record>),
}

/// The next call for a record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Working {
    ReadObject,
    /// A later command wrote the object: whether the record still holds this one.
    LookAgain(Box<Object>),
    Apply(Option<Version>),
    /// The object was created: whether the record still asks for it.
    LookAfterCreate(Box<Object>),
    Delete {
        at: (u64, Version),
        is_undo: bool,
    },
    ReadRun,
    Begin(u64),
    Restart {
        began: i64,
        found: u64,
    },
    Settle(CommandState),
}

/// What an Operator is about to do.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Doing {
    Receive {
        message: Box<Message>,
        next: Receiving,
    },
    /// To read the record of this object.
    Look(u64),
    Work {
        record: Box<Record>,
        next: Working,
    },
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// There is more to do.
    More,
    /// A message was handled: it may be acknowledged. With the outcome to publish, if any.
    Received(Option<Outcome>),
    /// A record was carried one step further, with the outcome to publish, if any.
    Worked(Option<Outcome>),
}

/// An Operator. Everything of it is lost in a crash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operator {
    /// The session that it believes in; none while it has none.
    pub session: Option<u64>,
    /// The fence as it knows it; none before it has read it.
    fence: Option<Fence>,
    /// Records as its watch has shown them.
    known: BTreeMap<u64, Digest>,
    doing: Option<Doing>,
}

/// What a step needs to know beside the cluster.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The Manager's time, as measured.
    pub at: i64,
    /// The rule that is switched off.
    pub mutant: Option<Mutant>,
}

impl Now {
    fn is(self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

impl Operator {
    /// Whether it is in the middle of something.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        self.doing.is_some()
    }

    /// Whether it is in the middle of a message.
    #[must_use]
    pub const fn is_receiving(&self) -> bool {
        matches!(self.doing, Some(Doing::Receive { .. }))
    }

    /// It loses its session, and what it was about to do.
    pub fn disconnect(&mut self) {
        (self.session, self.doing) = (None, None);
    }

    /// Forgets operations that have ended and are settled; the fence is written before.
    pub fn prune(&mut self, cluster: &mut Cluster) {
        let fence = self.fence(cluster);
        cluster.raise_fence(fence);
        let (highest, _) = cluster.highest();
        cluster.records.retain(|_, Record { message, state, .. }| {
            let is_done_with = message.kind.is_operation() && state.is_terminal();
            !(is_done_with && message.revision < highest && fence.has_settled(message.revision))
        });
    }

    /// Its watch shows what is.
    pub fn watch(&mut self, cluster: &Cluster) {
        self.known = cluster.records.iter().map(|(key, record)| (*key, Digest::of(record))).collect();
    }

    /// The epoch that its hello names.
    pub fn named_epoch(&mut self, cluster: &Cluster, mutant: Option<Mutant>) -> u64 {
        let known = self.fence(cluster);
        if mutant == Some(Mutant::NamesEpochOfStart) {
            return known.epoch;
        }
        let raised = known.raised(cluster.fence().epoch, cluster.fence().floor);
        self.fence = Some(raised);
        raised.epoch
    }

    /// The answer to its hello: its epoch is written before the session opens.
    pub fn open(&mut self, cluster: &mut Cluster, session: u64, epoch: u64) {
        let known = self.fence(cluster);
        cluster.raise_fence(Fence { epoch, floor: 0 });
        self.fence = Some(known.raised(epoch, 0));
        self.session = Some(session);
    }

    fn fence(&mut self, cluster: &Cluster) -> Fence {
        let records = || cluster.records.values().fold(cluster.fence(), |all, it| all.raised(it.message.epoch, 0));
        *self.fence.get_or_insert_with(records)
    }

    /// Begins to handle a message.
    pub fn receive(&mut self, cluster: &Cluster, message: Message, now: Now) {
        let digest = self.known.get(&message.key).cloned();
        let seen = Seen { digest, record: None, is_read: false };
        let fence = self.fence(cluster);
        let next = Self::decide(fence, &message, seen, now);
        self.doing = Some(Doing::Receive { message: Box::new(message), next });
    }

    /// Begins to carry out the record of an object.
    pub fn work(&mut self, key: u64) {
        self.doing = Some(Doing::Look(key));
    }

    /// Makes its next call.
    pub fn step(&mut self, cluster: &mut Cluster, now: Now) -> Step {
        match self.doing.take() {
            None => Step::Worked(None),
            Some(Doing::Receive { message, next }) => self.receiving(cluster, message, next, now),
            Some(Doing::Look(key)) => {
                let Some(record) = cluster.records.get(&key).cloned() else { return Step::Worked(None) };
                let fence = self.fence(cluster);
                let next = Self::begin_work(&record, fence, now);
                self.go_on(Box::new(record), next)
            }
            Some(Doing::Work { record, next }) => self.working(cluster, record, next, now),
        }
    }

    /// Handles a message to the end, as an Operator does that is alone: the outcome to publish at once, if any.
    pub fn receive_all(&mut self, cluster: &mut Cluster, message: &Message, now: Now) -> Option<Outcome> {
        self.receive(cluster, message.clone(), now);
        self.finish(cluster, now)
    }

    /// Carries a record one step further, as an Operator does that is alone: the outcome to publish, if any.
    pub fn work_all(&mut self, cluster: &mut Cluster, key: u64, now: Now) -> Option<Outcome> {
        self.work(key);
        self.finish(cluster, now)
    }

    /// Makes its calls until there is none left.
    pub fn finish(&mut self, cluster: &mut Cluster, now: Now) -> Option<Outcome> {
        loop {
            match self.step(cluster, now) {
                Step::More => {}
                Step::Received(outcome) | Step::Worked(outcome) => return outcome,
            }
        }
    }

    /// Decides by a record as it was seen. Only storing, which is done at that version or not at all, may be decided by what is kept
    /// in memory.
    fn decide(fence: Fence, message: &Message, seen: Seen, now: Now) -> Receiving {
        let (mut incoming, mut fence) = (Record::held(message), fence);
        if now.is(Mutant::NoEpoch) {
            (incoming.epoch, fence.epoch) = (u64::MAX, 0);
        }
        let held = seen.digest.as_ref().map(|digest| &digest.held);
        let mut decision = inbox::decide(held, &incoming, fence);
        if now.is(Mutant::NoFence) && decision != Decision::Replay
            || now.is(Mutant::ReplayedTwice) && decision == Decision::Replay
        {
            decision = Decision::Store;
        }
        let is_read = seen.is_read || now.is(Mutant::AnsweredUnread);
        let is_late = message.not_after.is_some_and(|deadline| deadline < now.at) && !now.is(Mutant::NeverExpires);
        let begun = seen.record.as_ref().is_some_and(Record::has_begun) && !now.is(Mutant::CancelsWhatBegan);
        let is_cancellation = seen.digest.as_ref().is_some_and(|digest| digest.is_cancellation);
        match decision {
            Decision::Store if message.kind == Kind::Cancel && !seen.is_read => Receiving::ReadRecord,
            Decision::Store if message.kind == Kind::Cancel && begun => Receiving::Answer(CommandState::Refused),
            Decision::Store if !is_late => Receiving::RaiseEpoch(Box::new(seen)),
            _ if !is_read => Receiving::ReadRecord,
            Decision::Store => Receiving::Answer(CommandState::Expired),
            Decision::Replay => match seen.record {
                Some(record) => Receiving::Report(Box::new(record)),
                None => Receiving::ReadRecord,
            },
            Decision::Divergence => Receiving::Answer(CommandState::Refused),
            Decision::Superseded(Stale::Revision) if is_cancellation => Receiving::Answer(CommandState::Cancelled),
            Decision::Superseded(_) => Receiving::Answer(CommandState::Superseded),
        }
    }

    fn receiving(&mut self, cluster: &mut Cluster, message: Box<Message>, next: Receiving, now: Now) -> Step {
        let fence = self.fence(cluster);
        let next = match next {
            Receiving::ReadRecord => {
                let record = cluster.records.get(&message.key).cloned();
                let seen = Seen { digest: record.as_ref().map(Digest::of), record, is_read: true };
                Self::decide(fence, &message, seen, now)
            }
            Receiving::RaiseEpoch(seen) => {
                if message.epoch > fence.epoch {
                    cluster.raise_fence(Fence { epoch: message.epoch, floor: 0 });
                    self.fence = Some(fence.raised(message.epoch, 0));
                }
                Receiving::Store(seen.digest.map(|digest| digest.version))
            }
            Receiving::Store(over) => match cluster.store(&message, over, now.is(Mutant::StoredOverAny)) {
                Some(record) => {
                    let raised = fence.raised_by(message.epoch, message.revision, message.floor);
                    self.fence = Some(raised);
                    self.known.insert(message.key, Digest::of(&record));
                    return Step::Received(Some(record.outcome()));
                }
                None => Receiving::ReadRecord,
            },
            Receiving::Answer(state) => {
                let outcome = Outcome { id: message.id, epoch: message.epoch, state: Some(state) };
                return Step::Received(Some(outcome));
            }
            Receiving::Report(record) => return Step::Received(Some(record.outcome())),
        };
        self.doing = Some(Doing::Receive { message, next });
        Step::More
    }

    fn working(&mut self, cluster: &mut Cluster, record: Box<Record>, next: Working, now: Now) -> Step {
        let message = &record.message;
        let key = message.key;
        let next = match next {
            Working::ReadObject => {
                let live = cluster.objects.get(&key).cloned();
                Self::after_object(&record, live, now)
            }
            Working::LookAgain(object) => {
                let present = cluster.records.get(&key);
                (present.map(|present| present.message.id) == Some(message.id)).then(|| Self::write(message, &object))
            }
            Working::Apply(over) => match cluster.apply(message, over, now.is(Mutant::WritesOverAny)) {
                None => None,
                Some(created) if over.is_none() => Some(Working::LookAfterCreate(Box::new(created))),
                Some(_) => Some(Working::Settle(CommandState::Running)),
            },
            Working::LookAfterCreate(created) => {
                let present = cluster.records.get(&key);
                let is_wanted = present.is_some_and(|present| present.message.kind == Kind::Apply);
                let at = (created.uid, created.version);
                Some(if is_wanted {
                    Working::Settle(CommandState::Running)
                } else {
                    Working::Delete { at, is_undo: true }
                })
            }
            Working::Delete { at, is_undo } => {
                let whatever = now.is(if is_undo { Mutant::TakesBackAny } else { Mutant::WritesOverAny });
                let deleted = cluster.delete(message, at, is_undo, whatever);
                (deleted && !is_undo).then_some(Working::Settle(CommandState::Running))
            }
            Working::ReadRun => Self::after_run(&record, cluster.run, now),
            Working::Begin(found) => Self::begin(cluster, &record, found, now)
                .filter(|_| !now.is(Mutant::EffectFirst))
                .map(|began| Working::Restart { began, found }),
            Working::Restart { began, found } => {
                let restarted = cluster.restart(message, began, found, now.is(Mutant::RestartsAny));
                let is_first = now.is(Mutant::EffectFirst) && record.began.is_none();
                let next = if is_first { Working::Begin(found) } else { Working::Settle(CommandState::Running) };
                restarted.then_some(next)
            }
            Working::Settle(state) => {
                let settled = cluster.update(key, |present| Self::settle(present, &record, state, now));
                if let Some(settled) = &settled {
                    self.known.insert(key, Digest::of(settled));
                }
                return Step::Worked(settled.map(|settled| settled.outcome()));
            }
        };
        self.go_on(record, next)
    }

    fn go_on(&mut self, record: Box<Record>, next: Option<Working>) -> Step {
        let Some(next) = next else { return Step::Worked(None) };
        self.doing = Some(Doing::Work { record, next });
        Step::More
    }

    /// What a record asks for first.
    fn begin_work(record: &Record, fence: Fence, now: Now) -> Option<Working> {
        let is_settled = fence.has_settled(record.message.revision) && !now.is(Mutant::BeginsSettled);
        match record.message.kind {
            Kind::Apply | Kind::Delete => Some(Working::ReadObject),
            _ if record.state.is_terminal() => None,
            Kind::Cancel => Some(Working::Settle(CommandState::Succeeded)),
            Kind::Operate if record.began.is_none() && (is_settled || Self::is_late(&record.message, now)) => {
                Some(Working::Settle(CommandState::Expired))
            }
            Kind::Operate => Some(Working::ReadRun),
        }
    }

    fn is_late(message: &Message, now: Now) -> bool {
        message.not_after.is_some_and(|deadline| deadline < now.at) && !now.is(Mutant::NeverExpires)
    }

    /// What follows from the object as it is.
    fn after_object(record: &Record, live: Option<Object>, now: Now) -> Option<Working> {
        let message = &record.message;
        let is_so = match message.kind {
            Kind::Delete => live.is_none(),
            _ => {
                live.as_ref().is_some_and(|live| (live.document, live.revision) == (message.document, message.revision))
            }
        };
        if is_so && !now.is(Mutant::ReplayedTwice) {
            return (!record.state.is_terminal()).then_some(Working::Settle(CommandState::Succeeded));
        }
        let Some(live) = live else { return (message.kind == Kind::Apply).then_some(Working::Apply(None)) };
        if inbox::is_written_later(live.revision, message.revision) && !now.is(Mutant::WritesOverLater) {
            return Some(Working::LookAgain(Box::new(live)));
        }
        Some(Self::write(message, &live))
    }

    /// Writes, or deletes, exactly the object that was read.
    fn write(message: &Message, live: &Object) -> Working {
        match message.kind {
            Kind::Delete => Working::Delete { at: (live.uid, live.version), is_undo: false },
            _ => Working::Apply(Some(live.version)),
        }
    }

    /// What follows from the run of an operation's target.
    fn after_run(record: &Record, present: u64, now: Now) -> Option<Working> {
        let restart = |began| Some(Working::Restart { began, found: present });
        match record.began {
            None if now.is(Mutant::EffectFirst) => restart(now.at),
            None => Some(Working::Begin(present)),
            Some((began, found)) if found == present => restart(began),
            Some(_) => Some(Working::Settle(CommandState::Succeeded)),
        }
    }

    /// Writes that an operation begins, unless its record was replaced, or it has begun, ended, or come too late by now.
    fn begin(cluster: &mut Cluster, record: &Record, found: u64, now: Now) -> Option<i64> {
        let begun = cluster.update(record.message.key, |present| {
            let is_same = present.message.id == record.message.id;
            let is_late = Self::is_late(&present.message, now) && !now.is(Mutant::BeginsLate);
            if !is_same || present.has_begun() || is_late {
                return false;
            }
            present.began = Some((now.at, found));
            true
        });
        begun.map(|_| now.at)
    }

    /// Writes an outcome: that of this command, unless it has ended; and nothing that has begun expires.
    fn settle(present: &mut Record, record: &Record, state: CommandState, now: Now) -> bool {
        let is_same = present.message.id == record.message.id || now.is(Mutant::SettlesAnother);
        let expires_begun = state == CommandState::Expired && present.began.is_some();
        let is_nothing = present.state == state || present.state.is_terminal();
        if !is_same || is_nothing || expires_begun && !now.is(Mutant::ExpiresWhatBegan) {
            return false;
        }
        present.state = state;
        true
    }
}
