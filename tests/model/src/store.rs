//! The Manager's database in memory: the outbox, its claims, the outcomes and the sessions, as the statements of
//! `kubenova-store` change them.

use kubenova_core::{
    cluster::ClusterState,
    command::{CommandId, CommandState, Mover},
    listing::{self, Acknowledged, Known, Listed},
    recovery::{self, Action},
    session::{self, Held, Hello, HelloRefusal},
    superseded,
};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Most unacknowledged commands of a cluster.
pub const WINDOW: usize = 32;
/// Seconds after which a command that is not acknowledged is sent again.
pub const SEND_AGAIN: i64 = 30;
/// Seconds after which a command that did not end is sent again.
pub const REPORT_AGAIN: i64 = 600;
/// Seconds before a command is sent under the present epoch.
pub const PRESENT_EPOCH_PAUSE: i64 = 5;

/// Seconds for which a command that changed explains a difference of the listings.
pub const SETTLED_AFTER: i64 = 60;

/// What a command asks of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// That it is as the command's document says.
    Apply,
    /// That it is gone.
    Delete,
    /// That something is done once.
    Operate,
    /// That an operation does not begin.
    Cancel,
}

impl Kind {
    /// True for an operation and its cancellation.
    #[must_use]
    pub const fn is_operation(self) -> bool {
        matches!(self, Self::Operate | Self::Cancel)
    }
}

/// The key of an operation: that of no document.
#[must_use]
pub const fn operation_key(id: u64) -> u64 {
    (1 << 32) + id
}

/// A row of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its id.
    pub id: u64,
    /// Its place in the order of the cluster's commands.
    pub revision: u64,
    /// The object.
    pub key: u64,
    /// What is asked.
    pub kind: Kind,
    /// The document: the same in every command that is sent again because a cluster lost it.
    pub document: u64,
    /// Where it is.
    pub state: CommandState,
    /// Whether the cluster acknowledged it.
    pub acknowledged: bool,
    /// When the cluster last changed its state.
    pub changed_at: Option<i64>,
    /// When it is sent (again); none is at once.
    pub next_send_at: Option<i64>,
    /// Whether the cluster deferred it.
    pub deferred: bool,
    /// An operation does not begin later.
    pub not_after: Option<i64>,
    /// The Manager has written again what a superseded command carried.
    pub is_again: bool,
    /// How often it was sent.
    pub send_count: i64,
}

/// A command as it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its id.
    pub id: u64,
    /// The epoch it was sent under.
    pub epoch: u64,
    /// Its revision.
    pub revision: u64,
    /// Every command at or below it is in a terminal state.
    pub floor: u64,
    /// The object.
    pub key: u64,
    /// What is asked.
    pub kind: Kind,
    /// The document.
    pub document: u64,
    /// An operation does not begin later.
    pub not_after: Option<i64>,
}

/// What a cluster says of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The command.
    pub id: u64,
    /// Epoch of the message that was answered.
    pub epoch: u64,
    /// The state; none is a deferral.
    pub state: Option<CommandState>,
}

/// One cluster's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Current epoch.
    pub epoch: u64,
    /// Highest revision that was given.
    pub counter: u64,
    /// Number of the open session, 0 before the first.
    pub session: u64,
    /// Whether the running server recorded the session.
    pub confirmed: bool,
    /// Commands by revision.
    pub rows: BTreeMap<u64, Row>,
    /// What was asked for last, by object.
    pub requested: BTreeMap<u64, (u64, Kind)>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { epoch: 1, counter: 0, session: 0, confirmed: false, rows: BTreeMap::new(), requested: BTreeMap::new() }
    }
}

impl Queue {
    /// Writes a command and supersedes those about the same object that were not sent.
    pub fn enqueue(&mut self, id: u64, key: u64, kind: Kind) -> u64 {
        for row in self.rows.values_mut() {
            let next = CommandState::Superseded;
            if row.key == key && row.state.may_become(next, Mover::Manager) {
                row.state = next;
            }
        }
        self.requested.insert(key, (id, kind));
        self.append(id, key, kind, id, None)
    }

    /// Writes a command and ends no other.
    fn append(&mut self, id: u64, key: u64, kind: Kind, document: u64, next_send_at: Option<i64>) -> u64 {
        self.counter += 1;
        let revision = self.counter;
        let row = Row {
            id,
            revision,
            key,
            kind,
            document,
            state: CommandState::Queued,
            acknowledged: false,
            changed_at: None,
            next_send_at,
            deferred: false,
            not_after: None,
            is_again: false,
            send_count: 0,
        };
        self.rows.insert(revision, row);
        revision
    }

    /// Writes an operation.
    pub fn operate(&mut self, id: u64, not_after: i64) {
        let revision = self.append(id, operation_key(id), Kind::Operate, id, None);
        self.rows.entry(revision).and_modify(|row| row.not_after = Some(not_after));
    }

    /// Cancels an operation: exactly while it was not sent, else by a command to its cluster, once.
    pub fn cancel_operation(&mut self, id: u64, new_id: impl FnOnce() -> u64) {
        let key = operation_key(id);
        let asked = |row: &Row| {
            let failed = [CommandState::Failed, CommandState::Refused, CommandState::Superseded];
            row.key == key && row.kind == Kind::Cancel && !failed.contains(&row.state)
        };
        let open = self.rows.values().any(|row| row.id == id && !row.state.is_terminal());
        if self.cancel(id) || !open || self.rows.values().any(asked) {
            return;
        }
        self.append(new_id(), key, Kind::Cancel, id, None);
    }

    /// Ends operations that were not sent before their deadline.
    pub fn expire(&mut self, now: i64) {
        for row in self.rows.values_mut() {
            let late = row.not_after.is_some_and(|deadline| deadline < now);
            if late && row.state.may_become(CommandState::Expired, Mover::Manager) {
                row.state = CommandState::Expired;
            }
        }
    }

    fn known(&self, key: u64, now: i64) -> Option<(Known, Option<&Row>)> {
        let mut rows = self.rows.values().rev().filter(|row| row.key == key).peekable();
        let last = *rows.peek()?;
        let open = self.rows.values().any(|row| row.key == key && !row.state.is_terminal());
        let held = rows.find(|row| row.acknowledged);
        let lately = |row: &Row| row.changed_at.is_some_and(|at| at > now - SETTLED_AFTER);
        let unsettled = open || last.state == CommandState::Refused || lately(last) || held.is_some_and(lately);
        let acknowledged = held.map(|row| Acknowledged {
            revision: row.revision,
            is_delete: row.kind == Kind::Delete,
            document_sha256: row.document.to_string(),
        });
        Some((Known { unsettled, acknowledged }, held))
    }

    /// Compares the listing of the cluster with what it acknowledged, and enqueues again what it lost or has kept. Returns how
    /// many commands those are. `settled`: a command that is under way counts as ended, which is the mistake to notice.
    pub fn compare(
        &mut self,
        listed: &BTreeMap<u64, Listed>,
        mut new_id: impl FnMut() -> u64,
        now: i64,
        settled: bool,
    ) -> usize {
        let documents = self.rows.values().filter(|row| !row.kind.is_operation());
        let keys: BTreeSet<u64> = documents.map(|row| row.key).chain(listed.keys().copied()).collect();
        let mut again: Vec<Row> = Vec::new();
        for key in keys {
            let known = self.known(key, now);
            let state =
                known.as_ref().map(|(known, _)| Known { unsettled: known.unsettled && !settled, ..known.clone() });
            if listing::compare(state.as_ref(), listed.get(&key)).is_sent_again() {
                again.extend(known.and_then(|(_, held)| held.cloned()));
            }
        }
        again.sort_by_key(|row| row.revision);
        for row in &again {
            self.append(new_id(), row.key, row.kind, row.document, None);
        }
        again.len()
    }

    /// Every command at or below it is in a terminal state.
    #[must_use]
    pub fn floor(&self) -> u64 {
        let open = self.rows.values().find(|row| !row.state.is_terminal());
        open.map_or(self.counter, |row| row.revision - 1)
    }

    /// Marks due commands as sent and returns them, lowest revision first.
    pub fn claim(&mut self, now: i64) -> Vec<Message> {
        let (epoch, floor) = (self.epoch, self.floor());
        let waits = |row: &&Row| {
            row.state == CommandState::Sent && row.next_send_at.is_some_and(|at| at > now) && !row.deferred
        };
        let room = WINDOW.saturating_sub(self.rows.values().filter(waits).count());
        let open = |row: &&Row| row.kind == Kind::Cancel && !row.state.is_terminal();
        let cancelling: BTreeSet<u64> = self.rows.values().filter(open).map(|row| row.key).collect();
        let held_back = |row: &Row| {
            let late = row.state == CommandState::Queued && row.not_after.is_some_and(|deadline| deadline < now);
            late || row.kind == Kind::Operate && cancelling.contains(&row.key)
        };
        let due = |row: &&mut Row| {
            !held_back(row)
                && match row.state {
                    CommandState::Queued | CommandState::Sent => row.next_send_at.is_none_or(|at| at <= now),
                    CommandState::Acknowledged | CommandState::Running => row.next_send_at.is_some_and(|at| at <= now),
                    _ => false,
                }
        };
        let claim = |row: &mut Row| {
            let again =
                if matches!(row.state, CommandState::Queued | CommandState::Sent) { SEND_AGAIN } else { REPORT_AGAIN };
            if row.state == CommandState::Queued {
                row.state = CommandState::Sent;
            }
            (row.next_send_at, row.deferred) = (Some(now + again), false);
            row.send_count += 1;
            Message {
                id: row.id,
                epoch,
                revision: row.revision,
                floor,
                key: row.key,
                kind: row.kind,
                document: row.document,
                not_after: row.not_after,
            }
        };
        self.rows.values_mut().filter(due).take(room).map(claim).collect()
    }

    /// Records an outcome. False when nothing changed.
    pub fn record(&mut self, outcome: &Outcome, now: i64, new_id: impl FnOnce() -> u64) -> bool {
        let epoch = self.epoch;
        let replaced =
            |row: &Row| self.rows.values().any(|later| later.key == row.key && later.revision > row.revision);
        let Some(replaced) = self.rows.values().find(|row| row.id == outcome.id).map(replaced) else { return false };
        let Some(row) = self.rows.values_mut().find(|row| row.id == outcome.id) else { return false };
        let sent = row.state == CommandState::Sent;
        let Some(next) = outcome.state else {
            if sent {
                (row.next_send_at, row.deferred) = (Some(now + row.send_count.max(1)), true);
            }
            return sent;
        };
        if next == CommandState::Superseded && outcome.epoch < epoch {
            if sent {
                row.next_send_at = Some(now + row.send_count.max(PRESENT_EPOCH_PAUSE));
            }
            return sent;
        }
        if !row.state.may_become(next, Mover::Operator) {
            return false;
        }
        row.state = next;
        row.acknowledged |= next.proves_storage();
        row.changed_at = Some(now);
        row.deferred = false;
        row.next_send_at = (!next.is_terminal()).then_some(now + REPORT_AGAIN);
        let (key, revision, kind, document) = (row.key, row.revision, row.kind, row.document);
        if next == CommandState::Superseded && !replaced && !kind.is_operation() {
            let pause = superseded::pause(self.times_superseded(key, now)).as_secs();
            let again = self.append(new_id(), key, kind, document, Some(now + pause));
            self.rows.entry(again).and_modify(|row| row.is_again = true);
        }
        if next.proves_storage() {
            let ended = if kind.is_operation() { CommandState::Cancelled } else { CommandState::Superseded };
            let open = [CommandState::Sent, CommandState::Acknowledged, CommandState::Running];
            for lower in self.rows.range_mut(..revision).map(|(_, row)| row) {
                if lower.key == key && open.contains(&lower.state) {
                    (lower.state, lower.next_send_at, lower.changed_at) = (ended, None, Some(now));
                }
            }
        }
        true
    }

    /// How often what was written again about the object was superseded lately.
    fn times_superseded(&self, key: u64, now: i64) -> u32 {
        let since = now - superseded::COUNTED_FOR.as_secs();
        let is_one = |row: &&Row| {
            row.is_again
                && (row.key, row.state) == (key, CommandState::Superseded)
                && row.changed_at.is_some_and(|at| at > since)
        };
        u32::try_from(self.rows.values().filter(is_one).count()).unwrap_or(u32::MAX)
    }

    /// Ends a command that was not sent. False when it was, or has ended.
    pub fn cancel(&mut self, id: u64) -> bool {
        let cancellable =
            |row: &&mut Row| row.id == id && row.state.may_become(CommandState::Cancelled, Mover::Manager);
        self.rows.values_mut().find(cancellable).map(|row| row.state = CommandState::Cancelled).is_some()
    }

    /// Opens a session for a cluster that names this revision and command as the highest that it holds, and this epoch as the
    /// highest that it has seen.
    ///
    /// # Errors
    /// When the cluster holds what is not here.
    pub fn hello(&mut self, revision: u64, command: u64, epoch: u64, now: i64) -> Result<u64, HelloRefusal> {
        let held = Held {
            state: ClusterState::Enrolled,
            kubernetes_uid: Some("uid".to_owned()),
            incarnation: 1,
            epoch: i64::try_from(self.epoch).unwrap_or(i64::MAX),
            knows_revision: self.knows(revision, command),
        };
        session::admit(&Hello { cluster_uid: "uid", incarnation: "1", epoch }, Some(&held))?;
        self.session += 1;
        self.confirmed = true;
        let is_held = |state| matches!(state, CommandState::Acknowledged | CommandState::Running);
        for row in self.rows.values_mut() {
            if row.state == CommandState::Sent {
                row.next_send_at = None;
            } else if is_held(row.state) && row.revision > revision {
                row.next_send_at = Some(now);
            }
        }
        Ok(self.session)
    }

    /// Whether a heartbeat of this session with this highest revision and command counts.
    #[must_use]
    pub fn counts(&self, session: u64, revision: u64, command: u64) -> bool {
        session == self.session && self.knows(revision, command)
    }

    fn knows(&self, revision: u64, command: u64) -> bool {
        revision == 0 || self.rows.get(&revision).is_some_and(|row| row.id == command)
    }

    /// The database is restored to this earlier point: no session is confirmed by the server that runs now.
    pub fn restore(&mut self, earlier: &Self) {
        *self = Self { session: self.session, confirmed: false, ..earlier.clone() };
    }

    /// A person adopts what a diverged cluster holds, by the rules of `kubenova-store`.
    pub fn adopt(&mut self, held: &BTreeMap<u64, Message>, named_epoch: u64, mut new_id: impl FnMut() -> u64) {
        let is_known = |queue: &Self, message: &Message| queue.knows(message.revision, message.id);
        let keys: BTreeSet<u64> = self.rows.values().map(|row| row.key).chain(held.keys().copied()).collect();
        let actions: BTreeMap<u64, (Action, Option<u64>)> =
            keys.into_iter().map(|key| (key, self.decide(key, held.get(&key)))).collect();
        let lacking: Vec<&Message> = held.values().filter(|message| !is_known(self, message)).collect();
        let known: BTreeSet<u64> =
            held.values().filter(|message| is_known(self, message)).map(|message| message.id).collect();
        let is_lacking = |key: u64| lacking.iter().any(|message| message.key == key);
        for row in self.rows.values_mut().filter(|row| !row.state.is_terminal() && !known.contains(&row.id)) {
            if held.get(&row.key).is_some_and(|message| is_lacking(row.key) && row.id < message.id) {
                (row.state, row.next_send_at) = (CommandState::Superseded, None);
            }
        }
        let newer: BTreeSet<u64> = actions
            .iter()
            .filter(|(key, (action, _))| is_lacking(**key) && matches!(action, Action::SendNewer | Action::SendAgain))
            .filter_map(|(_, (_, newest))| *newest)
            .collect();
        let taken: BTreeSet<u64> = lacking.iter().map(|message| message.revision).collect();
        let collides =
            |row: &Row| taken.contains(&row.revision) && !row.state.is_terminal() && row.state != CommandState::Queued;
        let mut again = Vec::new();
        for row in self.rows.values_mut() {
            if collides(row) || newer.contains(&row.id) && row.state != CommandState::Queued {
                again.push((row.key, row.kind, row.document));
                if !row.state.is_terminal() {
                    (row.state, row.next_send_at) = (CommandState::Superseded, None);
                }
            }
        }
        let highest = held.values().map(|message| message.revision).max().unwrap_or_default().max(self.counter);
        let moves = |row: &Row| {
            taken.contains(&row.revision)
                || row.state == CommandState::Queued && row.revision <= highest && !known.contains(&row.id)
        };
        self.counter = highest;
        let (moved, stay): (Vec<Row>, Vec<Row>) =
            std::mem::take(&mut self.rows).into_values().partition(|row| moves(row));
        self.rows = stay.into_iter().map(|row| (row.revision, row)).collect();
        for row in moved {
            self.counter += 1;
            self.rows.insert(self.counter, Row { revision: self.counter, ..row });
        }
        for message in &lacking {
            self.insert_adopted(message);
            if matches!(actions[&message.key].0, Action::AdoptApply | Action::AdoptDelete) {
                self.requested.insert(message.key, (message.document, message.kind));
            }
        }
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let of_commands = lacking.iter().map(|message| message.epoch).max().unwrap_or_default();
        let epoch = recovery::next_epoch(signed(self.epoch), signed(of_commands), signed(named_epoch));
        self.epoch = epoch.map(i64::unsigned_abs).unwrap_or(self.epoch);
        for (key, kind, document) in again {
            self.append(new_id(), key, kind, document, None);
        }
    }

    /// What adopting does about a key, and the newest command about it.
    fn decide(&self, key: u64, held: Option<&Message>) -> (Action, Option<u64>) {
        use CommandState::{Cancelled, Expired, Refused, Superseded};
        let id = |id: u64| CommandId(Uuid::from_u128(id.into()));
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let wanted = |row: &&Row| row.key == key && !matches!(row.state, Cancelled | Superseded | Refused | Expired);
        let row = self.rows.values().rev().find(wanted);
        let newest = row.map(|row| recovery::Newest {
            id: id(row.id),
            revision: signed(row.revision),
            state: row.state,
            is_delete: row.kind == Kind::Delete,
        });
        let held = held.map(|message| recovery::Held {
            id: id(message.id),
            revision: signed(message.revision),
            is_delete: message.kind == Kind::Delete,
            is_known: self.knows(message.revision, message.id),
        });
        (recovery::decide(newest.as_ref(), held.as_ref()), row.map(|row| row.id))
    }

    fn insert_adopted(&mut self, message: &Message) {
        let row = Row {
            id: message.id,
            revision: message.revision,
            key: message.key,
            kind: message.kind,
            document: message.document,
            state: CommandState::Sent,
            acknowledged: false,
            changed_at: None,
            next_send_at: None,
            deferred: false,
            not_after: message.not_after,
            is_again: false,
            send_count: 0,
        };
        self.rows.insert(message.revision, row);
    }

    /// The cluster enrolls again.
    pub const fn enroll_again(&mut self) {
        self.epoch += 1;
    }
}
