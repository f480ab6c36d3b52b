//! A cluster in memory: what its API server holds, and the calls that Operators make to it. Each call is one step: between two of
//! them anything may happen, also that another Operator makes its own.

use crate::store::{Kind, Message, Outcome};
use kubenova_core::{command::CommandState, listing::Listed};
use kubenova_operator_core::inbox::{Fence, Held};
use std::collections::{BTreeMap, BTreeSet};

/// What every version of every object is numbered by, as the API server's resourceVersion.
pub type Version = u64;

/// An inbox record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The message as stored.
    pub message: Message,
    /// The outcome so far.
    pub state: CommandState,
    /// When the operation began, with the run of its target that it found.
    pub began: Option<(i64, u64)>,
    /// Its version.
    pub version: Version,
}

impl Record {
    /// What the fence compares.
    #[must_use]
    pub fn held(message: &Message) -> Held {
        Held {
            epoch: message.epoch,
            revision: message.revision,
            command_id: message.id.to_string(),
            command_sha256: format!("{:?} {} {}", message.kind, message.key, message.document),
        }
    }

    /// An operation that can neither expire nor be cancelled any more.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.message.kind == Kind::Operate && (self.began.is_some() || self.state.is_terminal())
    }

    /// What it says of its command.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        Outcome { id: self.message.id, epoch: self.message.epoch, state: Some(self.state) }
    }
}

/// An object that was made of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What it was made of.
    pub document: u64,
    /// Revision of the command that wrote it last.
    pub revision: u64,
    /// Distinguishes it from one that had its name before.
    pub uid: u64,
    /// Its version.
    pub version: Version,
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
    /// It created an object, or wrote over one that had been created meanwhile, after its record was replaced: server-side apply
    /// cannot ask for absence. It is taken back, or written over for the newest record.
    pub is_late: bool,
    /// It took back what was created late.
    pub is_undo: bool,
}

impl Effect {
    /// Of a document's message.
    #[must_use]
    pub const fn of(message: &Message) -> Self {
        let Message { key, id, epoch, revision, .. } = *message;
        Self { key, id, epoch, revision, began: None, is_late: false, is_undo: false }
    }
}

/// A cluster. It survives every crash of its Operators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// By object.
    pub records: BTreeMap<u64, Record>,
    /// The highest epoch, and the floor as last signed.
    pub fence: Option<(u64, u64)>,
    /// Objects that exist.
    pub objects: BTreeMap<u64, Object>,
    /// The run of what operations restart.
    pub run: u64,
    /// Everything that was carried out, in order.
    pub effects: Vec<Effect>,
    /// Every command that was ever stored, also before a restore.
    pub stored: BTreeSet<u64>,
    /// Records that were said to have succeeded while their objects were otherwise: object and command.
    pub untrue: Vec<(u64, u64)>,
    versions: Version,
}

impl Cluster {
    /// The fence as stored.
    #[must_use]
    pub fn fence(&self) -> Fence {
        let (epoch, floor) = self.fence.unwrap_or_default();
        Fence { epoch, floor }
    }

    /// Writes what is higher.
    pub fn raise_fence(&mut self, fence: Fence) {
        let raised = self.fence().raised(fence.epoch, fence.floor);
        self.fence = Some((raised.epoch, raised.floor));
    }

    /// Stores a message over exactly this version of its record; none is absence. `None` is a conflict.
    pub fn store(&mut self, message: &Message, over: Option<Version>, whatever: bool) -> Option<Record> {
        let present = self.records.get(&message.key).map(|record| record.version);
        if present != over && !whatever {
            return None;
        }
        self.stored.insert(message.id);
        let (message, state) = (message.clone(), CommandState::Acknowledged);
        let record = Record { state, began: None, version: self.next_version(), message };
        self.records.insert(record.message.key, record.clone());
        Some(record)
    }

    /// Changes what a record says of its command, at the version that it has when it is written. `None` when nothing changes.
    pub fn update(&mut self, key: u64, change: impl FnOnce(&mut Record) -> bool) -> Option<Record> {
        let version = self.next_version();
        let record = self.records.get_mut(&key)?;
        let mut changed = record.clone();
        if !change(&mut changed) {
            return None;
        }
        changed.version = version;
        *record = changed.clone();
        let object = self.objects.get(&key).map(|object| object.document);
        let wanted = (changed.message.kind == Kind::Apply).then_some(changed.message.document);
        let is_document = !changed.message.kind.is_operation();
        if is_document && changed.state == CommandState::Succeeded && object != wanted {
            self.untrue.push((key, changed.message.id));
        }
        Some(changed)
    }

    /// Server-side apply: at exactly this version of the object, or, when it was absent, whatever there is. `None` is a conflict.
    pub fn apply(&mut self, message: &Message, over: Option<Version>, whatever: bool) -> Option<Object> {
        let present = self.objects.get(&message.key).cloned();
        let conflicts = over.is_some() && present.as_ref().map(|object| object.version) != over;
        if conflicts && !whatever {
            return None;
        }
        let version = self.next_version();
        let uid = present.as_ref().map_or(version, |object| object.uid);
        let object = Object { document: message.document, revision: message.revision, uid, version };
        if present.as_ref().map(|object| object.document) != Some(message.document) {
            let is_replaced = self.records.get(&message.key).map(|record| record.message.id) != Some(message.id);
            self.effects.push(Effect { is_late: over.is_none() && is_replaced, ..Effect::of(message) });
        }
        self.objects.insert(message.key, object.clone());
        Some(object)
    }

    /// Deletes exactly this version of an object. False is a conflict.
    pub fn delete(&mut self, message: &Message, at: (u64, Version), is_undo: bool, whatever: bool) -> bool {
        let Some(object) = self.objects.get(&message.key) else { return false };
        if (object.uid, object.version) != at && !(whatever && object.uid == at.0) {
            return false;
        }
        // What is taken back is that command's own creation, unless something else has been made of it since.
        let is_undo = is_undo && object.revision == message.revision;
        self.objects.remove(&message.key);
        self.effects.push(Effect { is_undo, ..Effect::of(message) });
        true
    }

    /// Begins the next run of what operations restart, if this is still the present one. False is a conflict.
    pub fn restart(&mut self, message: &Message, began: i64, found: u64, whatever: bool) -> bool {
        if self.run != found && !whatever {
            return false;
        }
        self.run += 1;
        let began = message.not_after.map(|deadline| (began, deadline));
        self.effects.push(Effect { began, ..Effect::of(message) });
        true
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

    /// Restored to this earlier point. Versions go on: what an Operator remembers from before names none that is given again.
    pub fn restore(&mut self, earlier: &Self) {
        let (stored, versions) = (std::mem::take(&mut self.stored), self.versions);
        *self = Self { stored, versions, ..earlier.clone() };
    }

    const fn next_version(&mut self) -> Version {
        self.versions += 1;
        self.versions
    }
}
